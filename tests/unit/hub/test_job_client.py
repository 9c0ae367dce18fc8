"""What the hub makes of the job relay's answers, with a program behind a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hpchub.hub import job_client
from hpchub.hub.job_client import JobClient, JobLog, Outcome, Submission

TLS = {"key": "the private key", "certificate": "c", "authority": "a"}
ENVIRONMENT = {"JUPYTERHUB_API_TOKEN": "the token"}


class Relay:
    """Answers each connection with `answer`, and keeps what it was asked; None: it never answers."""

    def __init__(self, path: Path) -> None:
        self.path, self.answer, self.asked = str(path), b"{}", []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        user, message = (await reader.read()).decode().split("\n", 1)
        self.asked.append((user, json.loads(message)))
        if self.answer is None:
            await asyncio.sleep(60)
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    relay = Relay(tmp_path / "relay.sock")
    server = await asyncio.start_unix_server(relay, relay.path)
    yield relay
    server.close()


async def test_a_submission_has_the_id_that_the_batch_system_gave(relay: Relay) -> None:
    relay.answer = b'{"ok": true, "job_id": "77.pbs"}\n'
    job = {"tag": "t", "cores": 1}
    done = await JobClient(relay.path).submit("alice", job, ENVIRONMENT, TLS)
    assert done == Submission(Outcome.DONE, "77.pbs")
    assert relay.asked == [("alice", {"verb": "submit", "job": job, "environment": ENVIRONMENT, "tls": TLS})]


@pytest.mark.parametrize("job_id", ["null", "7", '"7; rm"', '""', '"\\n"', f'"{"7" * 65}"'])
async def test_what_cannot_be_a_jobs_id_is_none(relay: Relay, job_id: str) -> None:
    relay.answer = f'{{"ok": true, "job_id": {job_id}}}\n'.encode()
    assert await JobClient(relay.path).submit("alice", {}, {}, TLS) == Submission(Outcome.DONE)


async def test_a_refusal_has_the_words_of_the_batch_system(relay: Relay) -> None:
    relay.answer = b'{"ok": false, "message": "Invalid account"}\n'
    answer = await JobClient(relay.path).submit("alice", {}, {}, TLS)
    assert answer == Submission(Outcome.REFUSED, message="Invalid account")


async def test_no_answer_in_time_is_told_from_a_failure_for_the_job_may_be_there(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job_client, "ANSWER_SECONDS", 0.1)
    relay.answer = None
    client = JobClient(relay.path)
    assert (await client.submit("alice", {}, ENVIRONMENT, TLS)).outcome is Outcome.NO_ANSWER
    assert await client.cancel("alice", ["77"]) is False
    assert await client.read_log("alice", "77") == JobLog()
    assert f"submit for alice: no answer from {relay.path}" in caplog.text
    assert "cancel for alice: no answer" in caplog.text


@pytest.mark.parametrize("answer", [b"", b"not JSON\n", b"[1]\n", b"\xff\n"])
async def test_an_answer_of_another_form_is_a_failure_with_a_line_in_the_log(
    relay: Relay, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    relay.answer = answer
    client = JobClient(relay.path)
    assert (await client.submit("alice", {}, ENVIRONMENT, TLS)).outcome is Outcome.FAILED
    assert await client.cancel("alice", ["77"]) is False
    assert await client.read_log("alice", "77") == JobLog()
    assert f"submit for alice failed at {relay.path}" in caplog.text
    assert "private key" not in caplog.text
    assert "the token" not in caplog.text


async def test_a_socket_that_is_not_there_is_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = JobClient(str(tmp_path / "none.sock"))
    assert (await client.submit("alice", {}, {}, TLS)).outcome is Outcome.FAILED
    assert await client.cancel("alice", ["77"]) is False
    assert "none.sock" in caplog.text


async def test_jobs_are_cancelled_as_their_user_and_a_refused_order_is_logged(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    relay.answer = b'{"ok": true}\n'
    assert await JobClient(relay.path).cancel("alice", ["77", "78"]) is True
    assert relay.asked == [("alice", {"verb": "cancel", "job_ids": ["77", "78"]})]
    relay.answer = b'{"ok": false, "message": "slurmctld is down"}\n'
    assert await JobClient(relay.path).cancel("alice", ["77", "78"]) is False
    assert "Jobs 77 78 of alice are not cancelled yet: slurmctld is down" in caplog.text


async def test_the_end_of_a_log_comes_with_its_place(relay: Relay) -> None:
    relay.answer = b'{"ok": true, "text": "the end", "path": "/home/alice/lab-77.log"}\n'
    assert await JobClient(relay.path).read_log("alice", "77") == JobLog("the end", "/home/alice/lab-77.log")
    relay.answer = b'{"ok": false, "message": "no such file"}\n'
    assert await JobClient(relay.path).read_log("alice", "77") == JobLog()


@pytest.mark.parametrize("user", ["root;x", "-alice", "Alice", "a b", "", "alice\nroot", "a" * 33])
async def test_no_verb_reaches_the_relay_for_a_name_that_sudo_should_not_see(relay: Relay, user: str) -> None:
    client = JobClient(relay.path)
    assert (await client.submit(user, {}, {}, TLS)).outcome is Outcome.REFUSED
    assert await client.cancel(user, ["77"]) is False
    assert await client.read_log(user, "77") == JobLog()
    assert relay.asked == []
