"""Runs a program: argument list, clean environment, time limit; never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from hpchub.scheduler import SchedulerUnavailable
from hpchub.scheduler.registry import dialects

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""All that a program sees, beside what its batch system needs. The hub's own environment stays with the hub."""

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


@dataclass(slots=True)
class Command:
    """One command, whose outcome is for the metrics."""

    outcome: str = "failed"


@contextlib.contextmanager
def counted(name: str) -> Iterator[Command]:
    """Count the command that is given inside, and how long it took."""
    command, began = Command(), time.monotonic()
    try:
        yield command
    finally:
        COMMANDS.labels(name, command.outcome).inc()
        LATENCY.labels(name).observe(time.monotonic() - began)


def asker(timeout: float = 15.0, variables: Mapping[str, str] | None = None) -> Asker:
    """An `Ask` that waits at most `timeout` seconds.

    Its commands get these variables beside `ENVIRONMENT`; None: those that any batch system's commands need.
    """
    if variables is None:
        variables = {name: value for one in dialects() for name, value in one.command_variables.items()}
    return Asker(timeout, {**ENVIRONMENT, **variables})


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the scheduler, and counts what it asks."""

    timeout: float
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)

    async def __call__(self, argv: Sequence[str]) -> str:
        """The standard output; raises SchedulerUnavailable for whatever else happens."""
        name = os.path.basename(argv[0])  # noqa: PTH119 - a label, not a path
        with counted(name) as command:
            try:
                finished = await run(argv, timeout=self.timeout, environment=self.environment)
            except TimeoutError as error:
                raise SchedulerUnavailable(f"{name} did not answer within {self.timeout:g} s") from error
            except OSError as error:
                raise SchedulerUnavailable(f"{argv[0]} cannot be run: {error.strerror}") from error
            if finished.status != 0:
                told = finished.stderr.strip()[:500]
                raise SchedulerUnavailable(f"{name} failed with status {finished.status}: {told}")
            command.outcome = "answered"
            return finished.stdout
