"""One code opens the door once, however many come with it at once: the hub's own code on the login node, real slapd."""

import json
import os
import subprocess
from pathlib import Path

import pytest

CLUSTER = os.environ.get("CLUSTER", "demo")
SECRETS = Path(__file__).parents[2] / "build" / CLUSTER / "secrets"
AS_HUB = ["runuser", "-u", "hpchub", "--", "/usr/local/lib/hpchub/hub/current/bin/python", "-I"]
UNITS = {"people": "codes by time", "counters": "codes by number"}


def secret(name: str) -> str:
    return (SECRETS / name).read_text().strip()


def race(unit: str, rounds: int) -> dict[str, int]:
    """Eight sign-ins at once with one code, so many times: how many times how many succeeded."""
    asked = {
        "server": "ldaps://ctl:1636",
        "unit": unit,
        "rounds": rounds,
        "admin": secret("ldap-admin.password"),
        "users": {
            user: {"pin": secret(f"{user}.pin"), "token": secret(f"{user}.token")} for user in ("alice", "bob", "erin")
        },
    }
    program = (Path(__file__).parent / "ldap_race.py").read_text()
    done = subprocess.run(
        ["podman", "exec", "-i", f"hpchub-{CLUSTER}-login1", *AS_HUB, "-c", program],
        input=json.dumps(asked), text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(
        f"{UNITS[unit]}: {rounds} times eight sign-ins at once with one code; successes -> times: {done.stdout.strip()}"
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_of_eight_sign_ins_at_once_with_one_code_one_succeeds(unit: str) -> None:
    assert race(unit, 9) == {"1": 9}


@pytest.mark.soak
@pytest.mark.parametrize("unit", UNITS)
def test_of_eight_sign_ins_at_once_with_one_code_one_succeeds_five_hundred_times(unit: str) -> None:
    assert race(unit, 500) == {"1": 500}
