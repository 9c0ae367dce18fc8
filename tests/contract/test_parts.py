"""Every test of a cluster is in one part, parts do not meet, and each Debian is proved from a bare host."""

import os
import subprocess
import tomllib
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ROOT / "tests" / "system"
PARTS: dict[str, dict[str, Any]] = tomllib.loads((SYSTEM / "parts.toml").read_text())["parts"]
SHARED_OUT = {name: part["files"] for name, part in PARTS.items() if "files" in part}
OTHERS = {"demo": 8443, "test": 9443}
"""Clusters that are no parts: what people look at, and what Molecule makes by hand."""


def test_each_test_file_is_in_exactly_one_part() -> None:
    there = sorted(path.name for path in SYSTEM.glob("test_*.py"))
    assert sorted(file for files in SHARED_OUT.values() for file in files) == there


def test_tests_in_a_further_directory_are_measurements_and_in_no_part() -> None:
    elsewhere = {path.parent.relative_to(SYSTEM).as_posix() for path in SYSTEM.rglob("test_*.py")} - {"."}
    assert elsewhere == {"bench"}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_a_scenario(name: str) -> None:
    assert (ROOT / "molecule" / PARTS[name]["scenario"] / "molecule.yml").is_file()
    assert PARTS[name].keys() <= {"scenario", "port", "files", "image"}


def test_no_two_clusters_have_the_same_port_or_are_found_by_each_others_name() -> None:
    ports = [part["port"] for part in PARTS.values()] + list(OTHERS.values())
    assert len(set(ports)) == len(ports)
    names = [name.replace("_", "-") for name in PARTS] + list(OTHERS)
    assert len(set(names)) == len(names)
    # Containers are looked for by the beginning of their names.
    assert [pair for pair in permutations(names, 2) if f"{pair[0]}-".startswith(f"{pair[1]}-")] == []
    # In build/ they stand beside what is made there.
    assert not {"suite", "bundles", "molecule", "screenshots"} & set(names)


def scenario(name: str) -> dict[str, Any]:
    """A scenario with the base of all beneath it, as far as is asked for here."""
    base, own = (
        yaml.safe_load((ROOT / path).read_text())
        for path in (".config/molecule/config.yml", f"molecule/{name}/molecule.yml")
    )
    return {
        "suite": own["ansible"]["env"].get("SUITE"),
        "sequence": (base["scenario"] | own.get("scenario", {}))["test_sequence"],
    }


def test_on_each_debian_some_part_passes_check_mode_on_a_bare_host_and_changes_nothing_when_run_again() -> None:
    steps = ["destroy", "create", "prepare", "check", "converge", "idempotence", "verify", "destroy"]
    whole = {
        scenario(part["scenario"])["suite"]
        for part in PARTS.values()
        if scenario(part["scenario"])["sequence"] == steps
    }
    assert whole >= {"trixie", "bookworm"}


def collected(part: str) -> list[str]:
    """The tests that pytest finds, in their order."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PART", "PYTEST_ADDOPTS", "SCHEDULER")
    }
    done = subprocess.run(
        ["pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/system"],
        cwd=ROOT,
        env=environment | ({"PART": part} if part else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_the_parts_together_run_every_test_once_and_file_by_file_in_their_order() -> None:
    parts = {name: collected(name) for name in SHARED_OUT}
    assert sorted(test for tests in parts.values() for test in tests) == sorted(collected(""))
    for name, tests in parts.items():
        files = [Path(test.partition("::")[0]).name for test in tests]
        in_order = [file for number, file in enumerate(files) if number == 0 or files[number - 1] != file]
        assert in_order == [file for file in SHARED_OUT[name] if file in files]


def test_a_name_that_is_no_part_is_refused() -> None:
    with pytest.raises(AssertionError, match="There is no part nope"):
        collected("nope")
