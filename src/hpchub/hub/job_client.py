"""One request to the job program as one user, through the socket of hpchub-jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

from hpchub.scheduler.commands import counted

MAX_ANSWER_BYTES = 64 * 1024


class AsUser(Protocol):
    """How a request is made."""

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
