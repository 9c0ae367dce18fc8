"""The relay between hub and job program: one caller, one name, and nothing of the request itself."""

import asyncio
import contextlib
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from hpchub.hub.job_client import as_user
from hpchub.privileged import relay

ME = pwd.getpwuid(os.getuid())


@pytest.fixture(autouse=True)
def hub_is_me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HUB_USER", ME.pw_name)


def asked(*parts: bytes) -> list[str]:
    """The command for a connection that brings these bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for part in parts:
            theirs.sendall(part)
        theirs.shutdown(socket.SHUT_WR)
        return relay.command(ours)


def test_sudo_is_called_for_the_named_user_with_the_one_program() -> None:
    assert asked(b"alice\n", b'{"verb": "submit"}') == ["/usr/bin/sudo", "-n", "-u", "alice", relay.PROGRAM]


def test_the_request_is_left_to_the_job_program() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'alice\n{"verb"')
        relay.command(ours)
        assert ours.recv(100) == b'{"verb"'


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"alice", b"-s\n", b"#0\n", b"0\n", b"a b\n", b"al\0ice\n", b"\xff\n", b"a" * 33 + b"\n", b"%x\n"],
)
def test_what_is_no_users_name_is_refused(line: bytes) -> None:
    with pytest.raises(relay.Refused):
        asked(line)


def test_nobody_but_the_hub_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "peer_uid", lambda _connection: ME.pw_uid + 1)
    with pytest.raises(relay.Refused, match=f"connection from uid {ME.pw_uid + 1}"):
        asked(b"alice\n")


def test_a_refusal_closes_the_connection_and_runs_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"-s\n")
        done = subprocess.run(
            [sys.executable, "-m", "hpchub.privileged.relay"],
            stdin=ours, stdout=ours, stderr=subprocess.PIPE, text=True, check=False,
            env={"PYTHONPATH": str(Path(relay.__file__).parents[2])},
        )  # fmt: skip
        ours.close()
        assert done.returncode == 1
        assert "refused:" in done.stderr
        with contextlib.suppress(ConnectionResetError):  # closed with the name unread
            assert theirs.recv(100) == b""


@pytest.fixture
async def answering(tmp_path: Path) -> tuple[str, list[bytes], list[bytes]]:
    """A socket's path, what it was asked, and what it answers."""
    seen: list[bytes] = []
    answers = [b'{"ok": true, "job_id": "7"}\n']

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read())
        writer.write(answers[0])
        writer.close()

    await asyncio.start_unix_server(serve, tmp_path / "s")
    return str(tmp_path / "s"), seen, answers


async def test_the_hub_sends_name_and_request_and_reads_one_object(
    answering: tuple[str, list[bytes], list[bytes]],
) -> None:
    path, seen, _ = answering
    assert await as_user(path, "alice", {"verb": "x"}, timeout=5) == {"ok": True, "job_id": "7"}
    name, request = seen[0].split(b"\n")
    assert (name, json.loads(request)) == (b"alice", {"verb": "x"})


async def test_what_the_hub_has_done_as_a_user_counts_among_the_commands_with_outcome_and_time(
    answering: tuple[str, list[bytes], list[bytes]],
) -> None:
    path, _, answers = answering

    def count(outcome: str) -> float:
        return (
            REGISTRY.get_sample_value("hpchub_scheduler_commands_total", {"command": "submit", "outcome": outcome})
            or 0.0
        )

    def timed() -> float:
        return REGISTRY.get_sample_value("hpchub_scheduler_command_seconds_count", {"command": "submit"}) or 0.0

    before = [count("answered"), count("refused"), count("failed"), timed()]
    for answer in (b'{"ok": true}\n', b'{"ok": false}\n', b"nonsense\n"):
        answers[0] = answer
        with contextlib.suppress(ValueError):
            await as_user(path, "alice", {"verb": "submit"}, timeout=5)
    after = [count("answered"), count("refused"), count("failed"), timed()]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1, 3]


@pytest.mark.parametrize("answer", [b"", b"[]\n", b"nonsense\n", b'"' + b"x" * 100_000 + b'"\n'])
async def test_an_answer_of_another_form_is_none(
    answer: bytes, answering: tuple[str, list[bytes], list[bytes]]
) -> None:
    path, _, answers = answering
    answers[0] = answer
    with pytest.raises(ValueError, match=r"answer|object|Expecting|limit"):
        await as_user(path, "alice", {}, timeout=5)


async def test_a_relay_that_is_not_there_or_says_nothing_is_an_error_in_time(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await as_user(str(tmp_path / "none"), "alice", {}, timeout=5)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)
        writer.close()

    await asyncio.start_unix_server(silent, tmp_path / "s")
    assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)
    with pytest.raises(TimeoutError):
        await as_user(str(tmp_path / "s"), "alice", {}, timeout=0.2)
