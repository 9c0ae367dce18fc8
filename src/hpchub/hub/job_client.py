"""The one client of the job relay: submit, cancel and read the log, each as one user.

Whatever goes wrong on the way becomes an outcome that the caller can tell from others, and a line in the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from hpchub.scheduler.commands import counted

log = logging.getLogger("JupyterHub.hpchub")

ANSWER_SECONDS = 90.0
"""How long an answer of the job program may take, whatever it was asked."""
MAX_ANSWER_BYTES = 64 * 1024
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""For whom the relay may be asked; it writes the name into a command of sudo."""
JOB_ID = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
"""What may be the id of a job, whatever printed it."""


class Outcome(Enum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"
    """By the job program, or by the batch system through it; nothing was done."""
    NO_ANSWER = "no answer"
    """In time. It may have been done all the same."""
    FAILED = "failed"
    """The relay could not be asked, or its answer is not of the agreed form."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submission."""

    outcome: Outcome
    job_id: str = ""
    """If it is done; empty if the program has answered with none that can be one."""
    message: str = ""
    """Why it was refused, in the words of the program or of the batch system."""


@dataclass(frozen=True, slots=True)
class JobLog:
    """The end of a job's log."""

    text: str = ""
    path: str = ""
    """Where it is, as its user sees it; empty if it could not be read."""


class Transport(Protocol):
    """How a request reaches the job program."""

    async def __call__(self, path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """As `as_user`."""


async def as_user(path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
    """The job program's answer to `message` within `timeout` seconds.

    Raises TimeoutError if there is none in time (the program may do what it was asked all the same), OSError if the
    socket is closed to us, ValueError if the answer is not one JSON object.
    """
    with counted(str(message.get("verb"))) as command:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
            try:
                writer.write(f"{user}\n{json.dumps(message)}".encode())
                writer.write_eof()
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
        if not isinstance(answer, dict):
            raise ValueError("the answer is not an object")
        command.outcome = "answered" if answer.get("ok") else "refused"
        return answer


@dataclass(frozen=True, slots=True)
class JobClient:
    """Asks the job program behind the relay's `socket`."""

    socket: str
    transport: Transport = as_user

    async def submit(
        self, user: str, job: Mapping[str, Any], environment: Mapping[str, str], tls: Mapping[str, str]
    ) -> Submission:
        """Submit a job as this user. What `environment` and `tls` hold goes into its script and into no log."""
        message = {"verb": "submit", "job": job, "environment": environment, "tls": tls}
        outcome, answer = await self._ask(user, message)
        told = answer.get("job_id")
        job_id = told if isinstance(told, str) and JOB_ID.fullmatch(told) else ""
        return Submission(outcome, job_id, str(answer.get("message") or ""))

    async def cancel(self, user: str, job_ids: Sequence[str]) -> bool:
        """Cancel jobs as this user; whether the batch system took the order."""
        outcome, answer = await self._ask(user, {"verb": "cancel", "job_ids": list(job_ids)})
        if outcome is Outcome.REFUSED:
            log.warning("Jobs %s of %s are not cancelled yet: %s", " ".join(job_ids), user, answer.get("message"))
        return outcome is Outcome.DONE

    async def read_log(self, user: str, job_id: str) -> JobLog:
        """The end of the log of a job of this user; empty if it cannot be read."""
        _, answer = await self._ask(user, {"verb": "log", "job_id": job_id})
        return JobLog(str(answer.get("text") or ""), str(answer.get("path") or ""))

    async def _ask(self, user: str, message: Mapping[str, Any]) -> tuple[Outcome, dict[str, Any]]:
        """The outcome of a request, and the answer, which is empty if there is none."""
        verb = message["verb"]
        if not USER_NAME.fullmatch(user):
            log.error("%s for %r: not a user name that the job relay is asked for", verb, user)
            return Outcome.REFUSED, {}
        try:
            answer = await self.transport(self.socket, user, message, timeout=ANSWER_SECONDS)
        except TimeoutError:
            log.error("%s for %s: no answer from %s within %.0f s", verb, user, self.socket, ANSWER_SECONDS)
            return Outcome.NO_ANSWER, {}
        except (OSError, ValueError) as error:
            log.error("%s for %s failed at %s: %s", verb, user, self.socket, error)
            return Outcome.FAILED, {}
        return Outcome.DONE if answer.get("ok") else Outcome.REFUSED, answer
