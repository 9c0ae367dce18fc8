"""The page of all variables is made from the roles' specs, and is never behind them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_says_what_the_specs_say() -> None:
    checked = subprocess.run([sys.executable, ROOT / "tools/reference", "--check"], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr


def test_every_decision_has_a_number_of_its_own_in_name_and_title() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))

    assert [page.name[:3] for page in pages] == [f"{number:03d}" for number in range(1, len(pages) + 1)]
    assert [page.read_text().split(". ")[0] for page in pages] == [f"# {int(page.name[:3])}" for page in pages]
