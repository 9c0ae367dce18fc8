"""What the map of docs/architecture.md does not say of rooms: rights, jobs, and modules that stand beside them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src/hpchub"

BESIDE: dict[str, set[str]] = {
    "openssl_errors": set(),
    "settings": {"privileged"},
    "request": {"scheduler", "settings"},
    "cli": {"batch_runs", "dask_jobs", "hub", "settings"},
}
"""Modules in no room, and what they may import."""
IN_JOBS = ("lab", "dask_jobs", "batch_runs", "scheduler", "privileged")
"""Rooms that run in a job, or as a user: nothing of the hub may come along."""


def modules(room: str) -> list[Path]:
    """The files of a room, or the module of that name."""
    found = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    assert all(path.exists() for path in found), room
    return found


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, in functions too, and of those that it loads by their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their module in full"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("hpchub."):
            yield node.value.partition(":")[0]


def rooms_of(paths: list[Path]) -> set[str]:
    """The rooms, or modules beside them, that these files import."""
    names = [name.split(".")[1] for path in paths for name in imported(path) if name.startswith("hpchub.")]
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def test_every_module_beside_the_rooms_is_in_the_table() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == BESIDE.keys()


@pytest.mark.parametrize("module", BESIDE)
def test_a_module_beside_the_rooms_imports_what_the_table_says_and_all_of_it(module: str) -> None:
    assert rooms_of(modules(module)) - {module} == BESIDE[module]


def test_what_has_rights_imports_the_standard_library_and_itself_alone() -> None:
    names = {name.split(".")[0] for path in modules("privileged") for name in imported(path)}
    assert names - sys.stdlib_module_names - {"hpchub"} == set()
    assert rooms_of(modules("privileged")) == {"privileged"}


@pytest.mark.parametrize("room", IN_JOBS)
def test_what_runs_in_a_job_has_nothing_of_the_hub(room: str) -> None:
    assert rooms_of(modules(room)) & {"hub", "login", "cli", "preflight"} == set()
    names = {name.split(".")[0] for path in modules(room) for name in imported(path)}
    assert names & {"batchspawner", "sqlalchemy"} == set()
