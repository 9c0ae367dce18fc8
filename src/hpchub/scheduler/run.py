"""Runs a program: argument list, clean environment, time limit; never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from hpchub.scheduler import SchedulerUnavailable

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "SLURM_TIME_FORMAT": "%s",  # seconds since the epoch, so that nobody has to guess a time zone
}
"""All that a program sees. The hub's own environment stays with the hub."""

COMMANDS = Counter("hpchub_scheduler_commands_total", "Commands given to the scheduler", ["command", "outcome"])
LATENCY = Histogram("hpchub_scheduler_command_seconds", "How long the scheduler took to answer", ["command"])


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left behind."""

    status: int
    stdout: str
    stderr: str


async def run(
    argv: Sequence[str], *, stdin: str = "", timeout: float, environment: Mapping[str, str] = ENVIRONMENT
) -> Finished:
    """Run a program by its absolute path. Raises OSError if it cannot start, TimeoutError after `timeout` seconds."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(environment),
        cwd="/",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin.encode())
    except (TimeoutError, asyncio.CancelledError):
        # sudo runs as root, so the signal may be refused; then its own time limit has to end it
        with contextlib.suppress(ProcessLookupError, PermissionError, TimeoutError):
            os.killpg(process.pid, 9)
            async with asyncio.timeout(2):
                await process.wait()
        raise
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def asker(timeout: float = 15.0) -> Asker:
    """An `Ask` that waits at most `timeout` seconds."""
    return Asker(timeout)


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the scheduler, and counts what it asks."""

    timeout: float

    async def __call__(self, argv: Sequence[str]) -> str:
        """The standard output; raises SchedulerUnavailable for whatever else happens."""
        name = os.path.basename(argv[0])  # noqa: PTH119 - a label, not a path
        began = time.monotonic()
        outcome = "failed"
        try:
            finished = await run(argv, timeout=self.timeout)
            if finished.status == 0:
                outcome = "answered"
                return finished.stdout
            raise SchedulerUnavailable(f"{name} failed with status {finished.status}: {finished.stderr.strip()[:500]}")
        except TimeoutError as error:
            raise SchedulerUnavailable(f"{name} did not answer within {self.timeout:g} s") from error
        except OSError as error:
            raise SchedulerUnavailable(f"{argv[0]} cannot be run: {error.strerror}") from error
        finally:
            COMMANDS.labels(name, outcome).inc()
            LATENCY.labels(name).observe(time.monotonic() - began)
