"""Which room of the package may import which: downwards only, so that each has one reason to change."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src/hpchub"

# From the bottom up. A room is a directory, or a module beside them; who stands above may import what is named here.
ARROWS: dict[str, set[str]] = {
    "openssl_errors": set(),
    "privileged": set(),
    "settings": {"privileged"},
    "scheduler": {"privileged", "settings"},
    "request": {"scheduler", "settings"},
    "dask_jobs": {"privileged", "scheduler"},
    "batch_runs": {"dask_jobs", "privileged", "request", "scheduler"},
    "lab": {"dask_jobs", "privileged", "scheduler"},
    "login": {"settings"},
    "hub": {"login", "request", "scheduler", "settings"},
    "cli": {"batch_runs", "dask_jobs", "hub", "settings"},
}
# What runs in a job, or as a user: nothing of the hub may come along.
IN_JOBS = ("lab", "dask_jobs", "batch_runs", "scheduler", "privileged")


def modules(room: str) -> list[Path]:
    """The files of a room."""
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, in functions too, and of what is loaded by its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their module in full"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("hpchub."):
            yield node.value.partition(":")[0]


def room_of(module: str) -> str:
    """The room of a module of ours; "" for the package itself."""
    return module.removeprefix("hpchub").strip(".").split(".")[0]


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    others = ARROWS.keys() - {room, *ARROWS[room]}  # Dask's settings have names with hpchub and a dot too
    pairs = ((path.name, name) for path in modules(room) for name in imported(path) if name.startswith("hpchub."))
    assert {(file, name) for file, name in pairs if room_of(name) in others} == set()


def test_the_table_names_every_room_and_has_no_circle() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == set(ARROWS)
    order = list(ARROWS)
    assert [(room, below) for room in order for below in ARROWS[room] if order.index(below) >= order.index(room)] == []


def test_no_arrow_of_the_table_is_left_over() -> None:
    used = {room: {room_of(name) for path in modules(room) for name in imported(path)} for room in ARROWS}
    assert {room: ARROWS[room] - used[room] for room in ARROWS if ARROWS[room] - used[room]} == {}


def test_what_has_rights_imports_the_standard_library_and_itself_alone() -> None:
    names = {name.split(".")[0] for path in modules("privileged") for name in imported(path)}
    assert names - sys.stdlib_module_names - {"hpchub"} == set()


@pytest.mark.parametrize("room", IN_JOBS)
def test_what_runs_in_a_job_has_nothing_of_the_hub(room: str) -> None:
    names = {name for path in modules(room) for name in imported(path)}
    assert {name for name in names if name.split(".")[0] in ("batchspawner", "sqlalchemy")} == set()
    assert {name for name in names if room_of(name) in ("hub", "login") and name.startswith("hpchub")} == set()
