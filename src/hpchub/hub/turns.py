"""Whose submission is next: some at once, one of each user, and nobody's freeze keeps the others waiting.

The job program runs as the user, who can stop it, or whose home may hang. So a place is given back after some seconds,
whether or not the program has answered; its user goes on waiting for it, and gets no second place meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

AT_ONCE = 4
"""How many submissions run at once; a class that starts together must not storm the scheduler."""
HELD_SECONDS = 10.0
"""How long one submission keeps a place at most. A batch system answers within a second or two."""


class Turns:
    """The places in which submissions to one cluster run."""

    def __init__(self) -> None:
        """All places are free."""
        self._places = asyncio.Semaphore(AT_ONCE)
        self._users: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        """Wait for this user's turn, and have a place in this block, or for the first `HELD_SECONDS` of it."""
        own = self._users.setdefault(user, asyncio.Lock())
        async with own:
            await self._places.acquire()
            held = True

            def give_back() -> None:
                nonlocal held
                if held:
                    held = False
                    self._places.release()

            timer = asyncio.get_running_loop().call_later(HELD_SECONDS, give_back)
            try:
                yield
            finally:
                timer.cancel()
                give_back()
