"""How often somebody may guess, and who is never kept waiting by others."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpchub.login import throttle
from hpchub.login.throttle import Outcome, Throttle, TooManyFailures

HOME, OFFICE = "192.0.2.7", "198.51.100.9"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Throttle:
    return Throttle(clock)


def wait(door: Throttle, account: str = "alice", address: str = HOME, outcome: Outcome = "failed") -> float:
    """Try once: 0 if the attempt went to PAM, else the seconds to wait."""
    try:
        with door.attempt(account, address) as attempt:
            attempt.outcome = outcome
    except TooManyFailures as error:
        return error.seconds
    return 0.0


def patiently(door: Throttle, clock: Clock, account: str, address: str) -> float:
    """Fail once, after as long a wait as it takes; gives the wait."""
    waited = 0.0
    while seconds := wait(door, account, address):
        clock.now += seconds
        waited += seconds
    return waited


def test_after_the_fifth_failure_the_pause_doubles_from_a_second_to_a_quarter_of_an_hour(
    door: Throttle, clock: Clock
) -> None:
    pauses = [round(patiently(door, clock, "alice", HOME)) for _ in range(18)]
    assert pauses[:12] == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64]
    assert max(pauses) == throttle.LONGEST_PAUSE


def test_a_throttled_attempt_makes_the_pause_no_longer(door: Throttle, clock: Clock) -> None:
    for _ in range(5):
        wait(door)
    assert [wait(door) for _ in range(50)] == [1.0] * 50
    clock.now += 1
    assert wait(door, outcome="passed") == 0


def test_a_success_forgets_the_failures_of_this_account_here(door: Throttle, clock: Clock) -> None:
    for _ in range(6):
        patiently(door, clock, "alice", HOME)
    clock.now += 2
    assert wait(door, outcome="passed") == 0
    assert [wait(door) for _ in range(5)] == [0] * 5


def test_failures_are_forgotten_after_a_quiet_time(door: Throttle, clock: Clock) -> None:
    for _ in range(10):
        patiently(door, clock, "alice", HOME)
    assert wait(door) > 0
    clock.now += 4 * 3600
    assert [wait(door) for _ in range(5)] == [0] * 5


def test_an_answer_that_never_came_is_no_failure(door: Throttle) -> None:
    assert [wait(door, outcome="unknown") for _ in range(300)] == [0] * 300


def test_an_attempt_that_ends_in_an_exception_is_a_failure(door: Throttle) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), door.attempt("alice", HOME):
            raise ZeroDivisionError
    assert wait(door) > 0


def test_of_a_hundred_guesses_at_once_five_go_to_pam(door: Throttle) -> None:
    with ExitStack() as running:
        gone = 0
        for _ in range(100):
            try:
                running.enter_context(door.attempt("alice", HOME))
                gone += 1
            except TooManyFailures:
                pass
    assert gone == 5


def test_of_guesses_at_once_from_everywhere_twenty_go_to_pam(door: Throttle) -> None:
    with ExitStack() as running:
        gone = 0
        for number in range(200):
            try:
                running.enter_context(door.attempt("alice", f"203.0.113.{number}"))
                gone += 1
            except TooManyFailures:
                pass
    assert gone == 20


def test_a_class_behind_one_address_signs_in_though_each_mistypes_once(door: Throttle) -> None:
    with ExitStack() as running:  # all at once
        attempts = [running.enter_context(door.attempt(f"student{number}", HOME)) for number in range(100)]
        for attempt in attempts:
            attempt.outcome = "failed"
    assert [wait(door, f"student{number}", outcome="passed") for number in range(100)] == [0] * 100
    assert [wait(door, f"guest{number}", outcome="passed") for number in range(1000)] == [0] * 1000


def test_guesses_at_many_accounts_from_one_address_come_to_a_crawl(door: Throttle, clock: Clock) -> None:
    for number in range(200):
        assert wait(door, f"user{number}") == 0
    start = clock.now
    for number in range(200, 300):
        patiently(door, clock, f"user{number}", HOME)
    assert clock.now - start > 80 * throttle.ADDRESS.forgiven_seconds


def test_an_attack_from_everywhere_slows_strangers_and_not_the_owner_where_she_signed_in_before(
    door: Throttle, clock: Clock
) -> None:
    wait(door, "alice", OFFICE, "passed")
    for number in range(60):
        patiently(door, clock, "alice", f"203.0.113.{number}")
    assert wait(door, "alice", "203.0.113.200") > 60
    assert wait(door, "alice", HOME) > 60  # as strange as any
    assert wait(door, "alice", OFFICE, "passed") == 0
    assert wait(door, "bob", HOME, "passed") == 0


def test_an_attack_that_joins_from_more_addresses_gets_no_more_guesses(door: Throttle, clock: Clock) -> None:
    start = clock.now
    for number in range(100):
        patiently(door, clock, "alice", f"203.0.113.{number}")
    assert clock.now - start > 60 * throttle.STRANGERS.forgiven_seconds


def test_a_good_address_is_no_licence_to_guess(door: Throttle) -> None:
    wait(door, "alice", HOME, "passed")
    assert [wait(door) > 0 for _ in range(6)] == [False] * 5 + [True]


def test_an_address_is_good_for_the_account_that_signed_in_there_and_for_a_month(door: Throttle, clock: Clock) -> None:
    wait(door, "bob", OFFICE, "passed")
    for number in range(40):
        patiently(door, clock, "alice", f"203.0.113.{number}")
    assert wait(door, "alice", OFFICE) > 0
    wait(door, "carol", OFFICE, "passed")
    clock.now += throttle.GOOD_SECONDS + 1
    for number in range(40):
        patiently(door, clock, "carol", f"203.0.113.{number}")
    assert wait(door, "carol", OFFICE) > 0


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    assert throttle.network("2001:db8:1:2:aaaa::1") == throttle.network("2001:db8:1:2:bbbb::9")
    assert throttle.network("2001:db8:1:2::1") != throttle.network("2001:db8:1:3::1")
    assert throttle.network("::ffff:192.0.2.7") == "192.0.2.7"
    assert throttle.network("") == "unknown"


def test_memory_is_bounded_and_nothing_is_kept_of_what_is_forgiven(
    door: Throttle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MOST_REMEMBERED", 100)
    for number in range(1000):
        wait(door, f"user{number}", f"2001:db8:0:{number:x}::1", "passed" if number % 2 else "failed")
    assert len(door._counts) <= 103
    assert len(door._good) <= 100
    clock.now += 24 * 3600
    for _ in range(100):
        wait(door, "alice", HOME, "unknown")
    assert len(door._counts) <= 3


@given(st.lists(st.tuples(st.sampled_from(["passed", "failed", "unknown"]), st.floats(0, 4000)), max_size=60))
def test_nobody_ever_waits_longer_than_the_longest_pause(steps: list[tuple[Outcome, float]]) -> None:
    clock = Clock()
    door = Throttle(clock)
    for outcome, seconds in steps:
        assert 0 <= wait(door, outcome=outcome) <= throttle.LONGEST_PAUSE
        clock.now += seconds
    clock.now += throttle.LONGEST_PAUSE
    assert wait(door) == 0
