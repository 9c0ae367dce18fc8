from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from hpchub.hub import orphans as _metrics_of_orphans  # noqa: F401 - registers them
from hpchub.hub import spawner as _metrics_of_the_spawner  # noqa: F401 - registers them
from hpchub.scheduler import JobState, Phase, Place, SchedulerUnavailable
from hpchub.scheduler.watcher import BURST, COMMANDS_PER_MINUTE, SOONEST, URGENT_BURST, Bucket, Watcher

if TYPE_CHECKING:
    from conftest import FakeScheduler


@pytest.fixture
def watcher(scheduler: FakeScheduler) -> Watcher:
    """A watcher whose polls a test makes by hand."""
    watcher = Watcher(scheduler, 10)
    watcher._run = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    return watcher


async def test_a_job_is_seen_with_its_node(watcher: Watcher, scheduler: FakeScheduler) -> None:
    scheduler.put("1", Phase.RUNNING, node="c1")
    watcher.watch("1", "alice")
    assert watcher.look("1") is None
    await watcher.poll()
    assert watcher.look("1") == scheduler.listed["1"]


async def test_one_question_serves_all_jobs(watcher: Watcher, scheduler: FakeScheduler) -> None:
    for number in range(1000):
        scheduler.put(str(number), Phase.RUNNING)
        watcher.watch(str(number), "alice")
    await watcher.poll()
    assert scheduler.asked == ["jobs"]
    assert all(watcher.look(str(number)) for number in range(1000))


async def test_a_scheduler_that_does_not_answer_never_ends_a_job(watcher: Watcher, scheduler: FakeScheduler) -> None:
    scheduler.put("1", Phase.RUNNING)
    watcher.watch("1", "alice")
    await watcher.poll()
    scheduler.down = True
    for _ in range(20):
        await watcher.poll()
    job = watcher.look("1")
    assert job is not None
    assert job.phase is Phase.RUNNING


async def test_a_missing_job_counts_only_after_two_good_answers_and_then_accounting_is_asked(
    watcher: Watcher, scheduler: FakeScheduler
) -> None:
    scheduler.put("1", Phase.RUNNING)
    watcher.watch("1", "alice")
    await watcher.poll()
    del scheduler.listed["1"]
    scheduler.accounted["1"] = JobState("1", "alice", Phase.ENDED, "TIMEOUT")
    await watcher.poll()
    assert watcher.look("1").phase is Phase.RUNNING
    assert "ended" not in scheduler.asked
    await watcher.poll()
    assert watcher.look("1").state == "TIMEOUT"


async def test_a_missing_job_that_lives_in_the_accounting_is_alive(watcher: Watcher, scheduler: FakeScheduler) -> None:
    watcher.watch("1", "alice")
    scheduler.accounted["1"] = JobState("1", "alice", Phase.RUNNING, "RUNNING", "c1")
    for _ in range(30):
        await watcher.poll()
    assert watcher.look("1").phase is Phase.RUNNING
    assert scheduler.asked.count("ended") < 20


async def test_a_job_without_any_record_ends_after_four_good_answers(
    watcher: Watcher, scheduler: FakeScheduler
) -> None:
    watcher.watch("1", "alice")
    for _ in range(3):
        await watcher.poll()
    assert watcher.look("1") is None
    await watcher.poll()
    assert watcher.look("1").phase is Phase.ENDED


async def test_another_users_job_with_the_same_id_is_not_ours(watcher: Watcher, scheduler: FakeScheduler) -> None:
    scheduler.put("1", Phase.RUNNING, user="bob", node="c9")
    scheduler.accounted["1"] = JobState("1", "bob", Phase.RUNNING, "RUNNING", "c9")
    watcher.watch("1", "alice")
    for _ in range(4):
        await watcher.poll()
        job = watcher.look("1")
        assert job is None or job.node != "c9"


async def test_a_job_submitted_during_the_question_is_not_missed(watcher: Watcher, scheduler: FakeScheduler) -> None:
    async def jobs(job_ids: object) -> dict[str, JobState]:
        watcher.watch("2", "alice")
        return {}

    scheduler.jobs = jobs
    for _ in range(1):
        await watcher.poll()
    assert watcher._watched["2"].misses == 0


async def test_who_waits_is_woken_by_the_next_answer(watcher: Watcher, scheduler: FakeScheduler) -> None:
    waiting = asyncio.ensure_future(watcher.changed(5))
    await asyncio.sleep(0)
    await watcher.poll()
    await asyncio.wait_for(waiting, 0.5)


async def test_whoever_needs_news_gets_an_answer_to_a_question_that_was_put_afterwards(
    watcher: Watcher, scheduler: FakeScheduler
) -> None:
    await watcher.poll()
    waiting = asyncio.ensure_future(watcher.ask())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    scheduler.down = True
    await watcher.poll()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    scheduler.down = False
    await watcher.poll()
    await asyncio.wait_for(waiting, 1)


@pytest.mark.parametrize("turns", range(5))
async def test_whoever_gives_up_at_the_very_moment_of_the_news_does_give_up(watcher: Watcher, turns: int) -> None:
    cancelled = 0
    for _ in range(1000):
        waiting = asyncio.ensure_future(watcher.changed(60))
        await asyncio.sleep(0)
        watcher.notify()
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert cancelled == (1000 if turns == 0 else 0), "the waiting ends in the turn after the news"


async def test_the_poller_can_be_ended_at_any_moment(scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpchub.scheduler.watcher.SOONEST", 0.0)
    for turns in range(200):
        watcher = Watcher(scheduler, 0.001)
        watcher._bucket = Bucket(60_000_000, 1000)
        watcher.watch("1", "alice")
        for _ in range(turns % 20):
            watcher.poll_soon()
            await asyncio.sleep(0)
        await asyncio.wait_for(watcher.close(), 3)


@pytest.mark.parametrize("urgent", [False, True])
def test_however_many_hurry_in_no_minute_are_there_more_than_twelve_commands(urgent: bool) -> None:
    now = 0.0
    bucket = Bucket(COMMANDS_PER_MINUTE, BURST, lambda: now)
    taken = []
    while now < 600:
        if bucket.wait(URGENT_BURST if urgent else 0.0) <= 0:
            bucket.take()
            taken.append(now)
        now += SOONEST
    assert max(sum(begin <= at < begin + 60 for at in taken) for begin in taken) <= 12
    assert len(taken) >= 60


async def test_the_usual_interval_fits_into_the_commands_of_a_minute() -> None:
    assert COMMANDS_PER_MINUTE >= 60 / (10 * 0.9)


async def test_the_poller_asks_soon_after_the_first_job_and_ends_with_the_last(scheduler: FakeScheduler) -> None:
    watcher = Watcher(scheduler, 10)
    scheduler.put("1", Phase.RUNNING)
    watcher.watch("1", "alice")
    async with asyncio.timeout(3):
        while watcher.look("1") is None:  # the first answer may be there before anybody waits for it
            await watcher.changed(5)
    assert scheduler.asked == ["jobs"]
    watcher.poll_soon()
    await asyncio.sleep(0.2)
    assert scheduler.asked == ["jobs"]  # two seconds lie between two questions
    await watcher.close()


async def test_a_server_that_is_up_waits_half_a_second_for_the_next_question_at_most(scheduler: FakeScheduler) -> None:
    watcher = Watcher(scheduler, 10)
    scheduler.put("1", Phase.WAITING)
    watcher.watch("1", "alice")
    await asyncio.sleep(0.1)
    assert watcher.look("1").phase is Phase.WAITING
    scheduler.put("1", Phase.RUNNING, node="c1")
    watcher.poll_soon()
    await asyncio.sleep(0.1)
    assert scheduler.asked == ["jobs"]
    watcher.poll_soon(urgent=True)
    await asyncio.wait_for(watcher.changed(5), 1)
    assert watcher.look("1").node == "c1"
    await watcher.close()


async def test_a_defect_in_one_answer_does_not_end_the_watching(watcher: Watcher, scheduler: FakeScheduler) -> None:
    async def jobs(job_ids: object) -> dict[str, JobState]:
        raise ValueError("surprise")

    watcher.watch("1", "alice")
    good, scheduler.jobs = scheduler.jobs, jobs
    await watcher.poll()
    scheduler.jobs = good
    scheduler.put("1", Phase.RUNNING)
    await watcher.poll()
    assert watcher.look("1") is not None


async def test_all_jobs_are_given_in_a_fresh_answer_or_not_at_all(watcher: Watcher, scheduler: FakeScheduler) -> None:
    scheduler.put("1", Phase.RUNNING)
    scheduler.put("2", Phase.RUNNING)
    watcher.watch("1", "alice")
    assert set(await watcher.jobs()) == {"1", "2"}, "watched or not"
    scheduler.down = True
    with pytest.raises(SchedulerUnavailable):
        await watcher.jobs()


async def test_places_are_asked_once_a_minute_for_all_who_wait(scheduler: FakeScheduler) -> None:
    now = 0.0
    watcher = Watcher(scheduler, 10, lambda: now)
    watcher._bucket = Bucket(60_000, 100)
    scheduler.put("1", Phase.WAITING)
    for _ in range(5):
        await watcher.locate()
    assert scheduler.asked == ["places"]
    assert watcher.place("1") == Place(3, 12)
    now, scheduler.down = 61.0, True
    await watcher.locate()
    assert watcher.place("1") is None, "an old place is no place"


async def test_whoever_takes_a_turn_waits_until_a_command_fits_into_the_minute(scheduler: FakeScheduler) -> None:
    watcher = Watcher(scheduler, 10)
    watcher._bucket = Bucket(600, 1)
    began = asyncio.get_running_loop().time()
    for _ in range(3):
        await watcher.acquire()
    assert asyncio.get_running_loop().time() - began >= 0.19


def test_the_age_of_the_last_answer_and_the_commands_are_metrics() -> None:
    names = {metric.name for metric in REGISTRY.collect()}
    assert {
        "hpchub_scheduler_answer_age_seconds",
        "hpchub_scheduler_commands",
        "hpchub_scheduler_command_seconds",
        "hpchub_queue_wait_seconds",
        "hpchub_orphans_cancelled",
    } <= names


class SimulatedTime(asyncio.SelectorEventLoop):
    """A loop that never waits: when nothing is left to do, its clock jumps to what is due next."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        due = [timer.when() for timer in self._scheduled if not timer.cancelled()]
        if not self._ready and due:
            self.now = max(self.now, min(due)) + 1e-6
        super()._run_once()


def test_ten_thousand_jobs_cost_at_most_twelve_commands_in_any_minute_whoever_is_in_a_hurry_and_whatever_ends(
    scheduler: FakeScheduler,
) -> None:
    asked: list[float] = []
    alive = list(range(10_000))

    async def ten_minutes() -> None:
        loop = asyncio.get_running_loop()
        scheduler._ask = lambda what: asked.append(loop.time())  # type: ignore[method-assign]
        watcher = Watcher(scheduler, 10, loop.time)
        for number in alive:
            scheduler.put(str(number), Phase.WAITING if number % 10 == 0 else Phase.RUNNING)
            watcher.watch(str(number), "alice")
        while loop.time() < 600:
            watcher.poll_soon(urgent=int(loop.time()) % 120 < 60)
            if int(loop.time()) % 7 == 0:  # jobs that vanish, of which only the accounting knows
                job = scheduler.listed.pop(str(alive.pop()))
                scheduler.accounted[job.job_id] = JobState(job.job_id, "alice", Phase.ENDED, "COMPLETED")
            await watcher.locate()
            await asyncio.sleep(1)
        assert watcher.look("9999").phase is Phase.ENDED
        assert watcher.look("5").phase is Phase.RUNNING
        await watcher.close()

    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        runner.run(ten_minutes())
    assert max(sum(begin <= at < begin + 60 for at in asked) for begin in asked) <= 12
    assert len(asked) > 60
