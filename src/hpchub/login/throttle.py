"""How often somebody may guess: a pause that grows with failures, before anybody asks PAM.

Three counts decide, and an attempt waits for the longest of their pauses: this account from this address; this account
from all addresses that are strange to it; this address, whatever the account. Where the account's owner signed in
before, the first alone counts, so that nobody elsewhere can lock the owner out. A throttled attempt does not reach PAM
and is counted nowhere: it neither locks the account for SSH nor makes the pause longer.

All of it is in memory and is forgotten when the hub restarts.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

LONGEST_PAUSE = 900.0
MOST_REMEMBERED = 20_000
"""Counts, and good addresses; what was not used for the longest time goes first."""
GOOD_SECONDS = 30 * 24 * 3600.0
"""How long an address stays good for an account after a sign-in from there."""

Outcome: TypeAlias = Literal["passed", "failed", "unknown"]
Key: TypeAlias = tuple[str, str]
"""Account and address; "" stands for any."""


@dataclass(frozen=True)
class Limit:
    """`free` failures cost no pause but the last, which costs 1 s; then 2, 4, ...; one is forgiven every so often."""

    free: int
    forgiven_seconds: float

    def pause(self, failures: float) -> float:
        """Seconds until the next attempt."""
        beyond = math.ceil(failures) - self.free
        return min(LONGEST_PAUSE, 2.0 ** min(beyond, 20)) if beyond >= 0 else 0.0


HERE = Limit(5, LONGEST_PAUSE)
"""This account from this address: bears a person who mistypes; in the long run four guesses an hour."""
STRANGERS = Limit(20, 300.0)
"""This account from strange addresses: in the long run a guess every five minutes, however many join in."""
ADDRESS = Limit(200, 30.0)
"""This address: bears a class of 100 that signs in at once and mistypes once each."""


@dataclass(slots=True)
class Count:
    """Failures as of `since`, attempts that run, and when the last one began or failed; seconds of the clock."""

    limit: Limit
    since: float
    last: float
    failures: float = 0.0
    running: int = 0

    def wait(self, now: float) -> float:
        """Seconds to wait. An attempt that runs counts like a failure, or a hundred at once would all come through."""
        self.failures = max(0.0, self.failures - (now - self.since) / self.limit.forgiven_seconds)
        self.since = now
        return max(0.0, self.last + self.limit.pause(self.failures + self.running) - now)

    def idle(self, now: float) -> bool:
        """Whether there is nothing to remember."""
        self.wait(now)
        return not self.failures and not self.running


@dataclass
class Attempt:
    """An attempt that may go to PAM. Its caller says how it ended; one that ends in an exception has failed."""

    outcome: Outcome = "failed"


class TooManyFailures(Exception):
    """Nobody may try now; `seconds` is how long to wait."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is above 0."""
        super().__init__(f"wait {seconds:.0f} s")
        self.seconds = seconds


def network(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that every IPv6 host can use at will."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


class Throttle:
    """The counts of one hub. `clock` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has failed yet."""
        self._clock = clock
        self._counts: dict[Key, Count] = {}
        self._good: dict[Key, float] = {}

    @contextmanager
    def attempt(self, account: str, address: str) -> Iterator[Attempt]:
        """Let one attempt happen inside, or raise TooManyFailures. The caller sets `outcome` before it leaves."""
        now, pair = self._clock(), (account, network(address))
        self._forget(now)
        limits = {pair: HERE}
        if now - self._good.get(pair, -math.inf) > GOOD_SECONDS:
            limits |= {(account, ""): STRANGERS, ("", pair[1]): ADDRESS}
        counts = [self._count(key, limit, now) for key, limit in limits.items()]
        seconds = max(count.wait(now) for count in counts)
        if seconds > 0:
            raise TooManyFailures(seconds)
        for count in counts:
            count.running += 1
            count.last = now
        attempt = Attempt()
        try:
            yield attempt
        finally:
            self._ended(pair, counts, attempt)

    def _ended(self, pair: Key, counts: list[Count], attempt: Attempt) -> None:
        now = self._clock()
        for count in counts:
            count.wait(now)
            count.running -= 1
            if attempt.outcome == "failed":
                count.failures += 1
                count.last = now
        if attempt.outcome == "passed":
            counts[0].failures = 0.0
            self._good.pop(pair, None)
            self._good[pair] = now
            if len(self._good) > MOST_REMEMBERED:
                del self._good[next(iter(self._good))]

    def _count(self, key: Key, limit: Limit, now: float) -> Count:
        """The count of a key, which is now the one used last."""
        count = self._counts.pop(key, None) or Count(limit, now, now)
        self._counts[key] = count
        return count

    def _forget(self, now: float) -> None:
        """Drop what is idle or too much; an attempt adds three counts at most, and four are looked at."""
        for oldest in list(islice(self._counts, 4)):
            if self._counts[oldest].idle(now) or len(self._counts) > MOST_REMEMBERED:
                del self._counts[oldest]
