"""Where Python ends TLS itself, a peer that drops costs no other its connection, in the hub's and the Lab's Python."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof

Run = Callable[[str, str], str]
PROGRAM = (Path(__file__).parent / "programs" / "bad_peers.py").read_text()
ENVIRONMENTS = {"hub": ("login1", "/usr/local/lib/hpchub/hub/current"), "Lab": ("c1", "/opt/hpchub/lab/current")}
FIRST_BAD_OPENSSL = [3, 4]


def outcome(run: Run, machine: str, python: str, program: str) -> tuple[int, int, list[int]]:
    """Run the program; gives how many connections were kept, of how many, with which OpenSSL."""
    seen = json.loads(run(machine, f"{python} -c {shlex.quote(program)}"))
    print(f"{machine} {python}: kept {seen['kept']}/{seen['total']}, OpenSSL {seen['openssl']}")
    return seen["kept"], seen["total"], seen["openssl"]


@pytest.mark.parametrize(("machine", "environment"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_all_of_200_healthy_connections_are_kept_while_200_others_drop(
    machine: str, environment: str, run: Run
) -> None:
    kept, total, _ = outcome(run, machine, f"{environment}/bin/python -I", PROGRAM)
    assert (kept, total) == (200, 200)


@pytest.mark.parametrize(("machine", "environment"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_without_the_guard_they_are_lost_where_openssl_is_3_4_or_later(
    machine: str, environment: str, run: Run
) -> None:
    packages = run(machine, f"ls -d {environment}/lib/python3.*/site-packages")
    # -S: Python reads no .pth, and so loads no guard.
    unguarded = f"import sys; sys.path.append({packages!r})\n{PROGRAM}"
    kept, total, openssl = outcome(run, machine, f"{environment}/bin/python -I -S", unguarded)
    if openssl >= FIRST_BAD_OPENSSL:
        assert kept < total / 2
    else:
        assert kept == total
