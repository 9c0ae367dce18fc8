"""How often a scheduler is asked: a token bucket, and one question for many who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

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

    async def acquire(self) -> None:
        """Wait until one more command fits into the minute, and count it."""
        while (rest := self.wait()) > 0:
            await asyncio.sleep(rest)
        self.take()


class CoalescingLookup(Generic[T]):
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
