"""The map of docs/architecture.md is the package: its rooms, and the imports between them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/hpchub"
ROOMS = sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/__init__.py"))


def drawn() -> dict[str, set[str]]:
    """{room: rooms and modules that it may import}, from the table of rooms."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([^|]*) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    return {room: set(re.findall(r"`([^`]+)`", imports)) for room, imports in rows}


def home(module: str) -> str:
    """The room of `hpchub.a.b`, or the module itself if it stands in none."""
    path = "/".join(module.split(".")[1:])
    rooms = [room for room in ROOMS if path == room or path.startswith(f"{room}/")]
    return max(rooms, key=len, default=path.split("/")[0])


def imported(room: str) -> Iterator[str]:
    """Every module of hpchub that the files of a room import, wherever in the file."""
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names if name.name.split(".")[0] == "hpchub")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hpchub":
                yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_map_allows_and_nothing_else(room: str) -> None:
    wrong = {module for module in imported(room) if home(module) not in {room, *drawn().get(room, ())}}

    assert wrong == set()


def test_no_two_rooms_import_each_other_in_a_circle() -> None:
    below = drawn()

    def reached(room: str, seen: frozenset[str]) -> set[str]:
        return {room}.union(*(reached(next_room, seen | {room}) for next_room in below.get(room, set()) - seen))

    circles = [room for room in below for next_room in below[room] if room in reached(next_room, frozenset())]
    assert circles == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_room_is_on_the_map(page: str) -> None:
    text = (ROOT / page).read_text()

    assert [room for room in ROOMS if f"`{room}`" not in text and f"`src/hpchub/{room}`" not in text] == []
