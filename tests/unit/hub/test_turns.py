"""Whoever freezes what runs under his name keeps himself waiting, and nobody else."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from hpchub.hub import turns


async def take(places: turns.Turns, user: str, frozen: float = 0.0) -> float:
    """Have a turn, in which the job program needs so many seconds; gives the seconds until it began."""
    asked = time.monotonic()
    async with places.of(user):
        began = time.monotonic()
        await asyncio.sleep(frozen)
        return began - asked


async def test_one_user_with_many_frozen_submissions_delays_nobody_else() -> None:
    places = turns.Turns()
    frozen = [asyncio.ensure_future(take(places, "mallory", 30)) for _ in range(20)]
    await asyncio.sleep(0.05)
    waited = await asyncio.gather(*(take(places, f"user{number}") for number in range(50)))
    assert max(waited) < 1
    assert sum(one.done() for one in frozen) == 0
    for one in frozen:
        one.cancel()
        with suppress(asyncio.CancelledError):
            await one


async def test_when_many_users_freeze_their_places_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "HELD_SECONDS", 0.2)
    places = turns.Turns()
    frozen = [asyncio.ensure_future(take(places, f"mallory{number}", 30)) for number in range(turns.AT_ONCE)]
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(take(places, "alice"), 1) > 0.1
    for one in frozen:
        one.cancel()
        with suppress(asyncio.CancelledError):
            await one
    assert places._places._value == turns.AT_ONCE, "a place was given back twice, or never"


async def test_no_more_than_so_many_run_at_once() -> None:
    places, running, most = turns.Turns(), 0, 0

    async def one(user: str) -> None:
        nonlocal running, most
        async with places.of(user):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    await asyncio.gather(*(one(f"user{number}") for number in range(40)))
    assert most == turns.AT_ONCE


async def test_a_turn_that_fails_or_is_given_up_leaves_its_place() -> None:
    places = turns.Turns()
    for _ in range(3 * turns.AT_ONCE):
        with pytest.raises(ValueError, match="refused"):
            async with places.of("alice"):
                raise ValueError("refused")
    waiting = asyncio.ensure_future(take(places, "bob", 30))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(take(places, "bob"), 1) < 0.5
