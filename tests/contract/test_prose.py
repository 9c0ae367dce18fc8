"""Pages can be reviewed line by line, their links lead somewhere, and what they quote is what the code says."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PAGES = [name for name in TRACKED if name.endswith(".md") and (ROOT / name).exists()]
LONGEST, LONGEST_ROW = 120, 200
# What a name ends with, and the unit that its description has to state.
UNITS = {"_seconds": "seconds", "_minutes": "minutes", "_hours": "hours", "_days": "days", "_gib": "gib"}


def prose(page: str) -> list[str]:
    """The lines of a page outside its examples."""
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE).split("\n")


# The changelog is wrapped when a release is cut.
@pytest.mark.parametrize("page", [name for name in PAGES if name != "CHANGELOG.md"])
def test_no_line_of_prose_is_too_long_to_be_reviewed(page: str) -> None:
    lines = [line for line in prose(page) if len(line) > (LONGEST_ROW if line.startswith("|") else LONGEST)]

    assert lines == []


@cache
def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page, as a forge makes it from headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)

    assert lost == []


def said() -> str:
    """All texts of the package: its Python strings, with `...` for what is filled in, its templates and scripts."""
    texts = []
    for path in (ROOT / "src").rglob("*"):
        if path.suffix in (".html", ".js"):
            texts.append(path.read_text())
        elif path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                    texts.append("".join(str(part) for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                    texts.append(node.value if isinstance(node.value, str) else node.value.decode("utf-8", "replace"))
    return "\n".join(texts)


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/users.md"])
def test_every_message_that_a_guide_quotes_is_said_by_the_code(page: str) -> None:
    text = re.sub(r"<!-- made by.*?<!-- end -->|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    quoted = [" ".join(quote.split()) for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text)]
    messages = [quote for quote in quoted if " " in quote and ">" not in quote and quote[0].isupper()]
    code = " ".join(said().split())

    assert messages
    assert [quote for quote in messages for part in quote.split("...") if part.strip() not in code] == []


def options(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    nested = [pair for option in spec.values() for pair in options(option.get("options", {}))]
    return [*spec.items(), *nested]


@pytest.mark.parametrize("specs", sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")), ids=lambda p: p.parts[-3])
def test_every_variable_with_a_unit_in_its_name_states_it_in_its_description(specs: Path) -> None:
    entries = yaml.safe_load(specs.read_text())["argument_specs"].values()
    silent = [
        name
        for entry in entries
        for name, option in options(entry.get("options", {}))
        for ending, unit in UNITS.items()
        if name.endswith(ending) and unit not in str(option["description"]).lower()
    ]

    assert silent == []
