"""Runs a program: argument list, clean environment, time limit; never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram

from hpchub.scheduler import SchedulerUnavailable

T = TypeVar("T")

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "SLURM_TIME_FORMAT": "%s",  # seconds since the epoch, so that nobody has to guess a time zone
}
"""All that a program sees. The hub's own environment stays with the hub."""

COMMANDS = Counter("hpchub_scheduler_commands_total", "Commands given to the scheduler", ["command", "outcome"])
LATENCY = Histogram("hpchub_scheduler_command_seconds", "How long the scheduler took to answer", ["command"])


FAILED_SECONDS = 5.0
"""So long nobody asks again about everybody after that has failed."""


class Bucket:
    """A token bucket: at most `burst` at once and `per_minute` on average."""

    def __init__(self, per_minute: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start full."""
        self._rate, self._burst, self._clock = per_minute / 60, burst, clock
        self._tokens, self._at = burst, clock()

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def wait(self, debt: float = 0.0) -> float:
        """Seconds until a token is there, or may be owed."""
        self._refill()
        return max(0.0, (1 - debt - self._tokens) / self._rate)

    def take(self) -> None:
        """Use one token, even one that is not there yet."""
        self._refill()
        self._tokens -= 1

    async def turn(self) -> None:
        """Wait until one more command fits into the minute, and count it."""
        while (rest := self.wait()) > 0:
            await asyncio.sleep(rest)
        self.take()


class Together(Generic[T]):
    """Answers about users: a question for each while few ask; one about everybody, for all who ask, once many do."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Mapping[str, T]]],
        bucket: Bucket,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet. `ask` takes a user, or "" for everybody; an answer about everybody is fresh so long."""
        self._ask, self._bucket, self._fresh, self._clock = ask, bucket, fresh_seconds, clock
        self._everybody: asyncio.Task[Mapping[str, T]] | None = None
        self._good_until = float("-inf")

    async def get(self, user: str) -> T | None:
        """The answer about one user; raises what asking raises."""
        if self._everybody is None or self._clock() > self._good_until:
            if self._bucket.wait() <= 0:
                self._bucket.take()
                return (await self._ask(user)).get(user)
            self._everybody = asyncio.create_task(self._about_everybody())
            self._good_until = self._clock() + self._fresh
        return (await asyncio.shield(self._everybody)).get(user)  # who gives up leaves the others their answer

    async def _about_everybody(self) -> Mapping[str, T]:
        try:
            return await self._ask("")
        except Exception:
            self._good_until = self._clock() + FAILED_SECONDS
            raise


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
        with counted(name) as command:
            try:
                finished = await run(argv, timeout=self.timeout)
            except TimeoutError as error:
                raise SchedulerUnavailable(f"{name} did not answer within {self.timeout:g} s") from error
            except OSError as error:
                raise SchedulerUnavailable(f"{argv[0]} cannot be run: {error.strerror}") from error
            if finished.status != 0:
                told = finished.stderr.strip()[:500]
                raise SchedulerUnavailable(f"{name} failed with status {finished.status}: {told}")
            command.outcome = "answered"
            return finished.stdout
