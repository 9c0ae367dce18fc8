"""What the environments are made of is fixed by content, and by no address."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "files/locks").glob("*.txt"))

# Written in two pieces, so that this file does not name them itself.
ADDRESSES = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "deb.debian" + ".org",
    "security.debian" + ".org",
    "nodesource" + ".com",
]
# They need an MPI library, and are run on the cluster.
NOT_ON_THE_CONTROLLER = {"dask-mpi", "mpi4py"}
MACHINE_PATHS = [f"{ROOT / part}/" for part in (".venv", "build", "src", "tests")]


def requirements(lock: Path) -> list[str]:
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def versions(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in requirements(ROOT / f"files/locks/{lock}.txt"):
        name, version = re.match(r"([a-z0-9._-]+)==([^ ;]+)", line).groups()  # type: ignore[union-attr]  # locked
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_requirement_is_one_version_with_hashes(lock: Path) -> None:
    shape = r"[a-z0-9._-]+==[^ ;]+( ; [^-]+)?( --hash=sha256:[0-9a-f]{64})+"

    assert [line for line in requirements(lock) if not re.fullmatch(shape, line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_address(lock: Path) -> None:
    assert not re.search(r"https?://|--index|--extra-index|--find-links", lock.read_text())


def test_the_lock_of_npm_names_no_address_and_has_a_hash_for_every_package() -> None:
    packages = json.loads((ROOT / "files/proxy/package-lock.json").read_text())["packages"]

    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


def test_hub_and_lab_run_the_same_jupyterhub() -> None:
    assert versions("hub")["jupyterhub"] == versions("lab")["jupyterhub"]


@pytest.mark.parametrize("lock", ["hub", "lab", "proxy"])
def test_unit_tests_run_against_the_versions_that_are_deployed(lock: str) -> None:
    tested = versions("controller")
    differ = {name for name, found in versions(lock).items() if tested.get(name) != found}

    assert differ - NOT_ON_THE_CONTROLLER == set()


def test_no_file_names_a_registry_or_a_place_on_somebodys_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{name}: {bad}" for bad in ADDRESSES + MACHINE_PATHS if bad.encode() in content]

    assert found == []
