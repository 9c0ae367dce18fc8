"""Hostile input to whatever has rights, many times: 500 cases each, 100,000 in `make soak`."""

from __future__ import annotations

import contextlib
import json
import os
import pwd

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hpchub.hub.port_callback import port_of
from hpchub.privileged import jobs, login

CASES = 100_000 if os.environ.get("HPCHUB_SOAK") else 500
many = settings(
    max_examples=CASES,
    deadline=None,
    # one list is emptied for each case; a busy machine is no defect
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ALICE = pwd.struct_passwd(("alice", "x", 2001, 2000, "", "/home/alice", "/bin/bash"))
CONFIG = jobs.Config("slurm", "/usr/bin", "/opt/lab", "/opt/hpchub", "{home}/.local/state/hpchub", ("regular",))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)
JOB = {
    "tag": "demo:0badc0de:alice::0f",
    "project": "climate",
    "queue": "regular",
    "walltime_minutes": 90,
    "cores": 2,
    "memory_mib": 4096,
    "gpus": 0,
    "reservation": None,
}
PEM = "-----BEGIN X-----\nAA==\n-----END X-----\n"


# Half of what a field gets could be right.
VALUES = JSON | st.integers(0, 10**6) | st.from_regex(r"[A-Za-z0-9_][\w.:+%=-]{0,20}\n?", fullmatch=True)


def near(good: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """A mapping that is right but for one value, or has more or other keys."""
    one = st.tuples(st.sampled_from(sorted(good)), VALUES).map(lambda change: {**good, change[0]: change[1]})
    return st.just(good) | one | one | st.dictionaries(st.sampled_from(sorted(good)) | st.text(max_size=8), JSON)


REQUESTS = st.fixed_dictionaries(
    {
        "verb": st.just("submit"),
        "job": near(JOB),
        "environment": near({"JUPYTERHUB_USER": "alice"}),
        "tls": near({"key": PEM, "certificate": PEM, "authority": PEM}),
    }
) | near({"verb": "cancel", "job_ids": ["12"]})

# What is right but for a NUL, which is hardly ever drawn by chance, or for one key more.
TEXT = st.text(max_size=8) | st.sampled_from(["alice", "ali\0ce", "\0", "192.0.2.7", "::1\0"])
SIGN_INS = st.fixed_dictionaries(
    {"user": TEXT, "password": TEXT, "rhost": st.just("") | TEXT}, optional={"account": TEXT, "service": TEXT}
) | st.fixed_dictionaries({"account": TEXT}, optional={"user": TEXT})
PORTS = st.fixed_dictionaries(
    {"port": st.integers(-1, 70_000) | st.sampled_from([1023, 1024, 65535, 65536, True])}, optional={"cmd": TEXT}
)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """What would have been run, with the text on its standard input."""
    ran: list[tuple[list[str], str]] = []

    def record(command: list[str], _environment: object, _cwd: object, text: str = "") -> None:
        ran.append((command, text))
        raise jobs.Refused("recorded")

    monkeypatch.setattr(jobs, "run", record)
    monkeypatch.setattr(jobs, "log_directory", lambda *_: os.devnull)
    return ran


@many
@given(request_=REQUESTS)
def test_no_request_makes_the_job_program_run_anything_but_the_schedulers_two_commands(
    request_: object, commands: list[tuple[list[str], str]]
) -> None:
    commands.clear()
    with contextlib.suppress(jobs.Refused):
        jobs.handle(json.loads(json.dumps(request_)), CONFIG, ALICE)
    event("run" if commands else "refused")
    for command, text in commands:
        assert command[0] in ("/usr/bin/sbatch", "/usr/bin/scancel")
        assert all(argument.isascii() and argument.isprintable() for argument in command)
        assert all(argument.startswith("--") or argument.isdigit() for argument in command[1:])
        lines = text.split("\n")
        assert not text or (len(lines), lines[0], lines[-1]) == (5, "#!/bin/bash", "")


@many
@given(line=st.binary(max_size=200) | (SIGN_INS | REQUESTS).map(lambda data: json.dumps(data).encode()))
def test_no_line_is_taken_for_a_sign_in_but_three_texts_without_a_nul(line: bytes) -> None:
    try:
        request = login.parse_request(line)
    except (ValueError, TypeError, RecursionError):
        return
    assert set(json.loads(line)) in ({"user", "password", "rhost"}, {"account"})
    assert "\0" not in request.user + request.rhost


@many
@given(body=st.binary(max_size=80) | (near({"port": 8888}) | PORTS).map(lambda data: json.dumps(data).encode()))
def test_no_callback_is_taken_but_a_port_above_1023(body: bytes) -> None:
    try:
        port = port_of(body)
    except (ValueError, RecursionError):
        return
    assert json.loads(body) == {"port": port}
    assert 1024 <= port <= 65535
