"""When a worker leaves: the one rule, for who writes the site's defaults, who checks them, and who fits a user's own.

Workers retire before their wall time is over, so that their results move to others, and not all at once: spread over
four times the wait in the queue, so that new ones are there before all old ones are gone. Standard library only.
"""

from __future__ import annotations

HAND_OVER_SECONDS = 60.0
"""At least so long before the end a worker leaves, or after half of a wall time that is shorter than twice this."""
LAST_PERCENT = 90
"""Of the wall time: when the last one leaves."""
LEAST_PERCENT, MOST_PERCENT = 20, 60
"""Of the wall time: over how much of it they leave, however long they wait in the queue."""
WAITS = 4
"""Over so many waits they leave."""

Pair = tuple[float, float]
"""When a worker leaves, in seconds after its start, and by how much that varies at random in both directions."""


def of_wall_time(minutes: int, wait: int) -> tuple[int, int]:
    """The site's pair in whole seconds, for a wall time and a usual wait in the queue, both in minutes."""
    spread = min(max(WAITS * wait * 60, minutes * 60 * LEAST_PERCENT // 100), minutes * 60 * MOST_PERCENT // 100)
    return minutes * 60 * LAST_PERCENT // 100 - spread // 2, spread // 2


def shortest_wall_time(wait: int) -> int:
    """The least minutes of wall time with which workers that wait so many minutes do not all retire at once."""
    return -(-WAITS * wait * 100 // MOST_PERCENT)


def last_of(limit: float) -> float:
    """When a worker has to leave at the latest, in seconds after the start of a job with so many."""
    return limit - min(HAND_OVER_SECONDS, limit / 2)


def fitting(limit: float, pair: Pair, usual: float) -> Pair:
    """The pair, which is for a wall time of `usual` seconds, for one of `limit`."""
    share = limit / usual
    share *= min(1.0, last_of(limit) / (sum(pair) * share))
    return pair[0] * share, pair[1] * share
