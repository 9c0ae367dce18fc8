"""A job from its submission to its end, with the real watcher and a scheduler whose answers a test decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from hpchub.hub import followed_job
from hpchub.hub.followed_job import FollowedJob, NeverReady
from hpchub.hub.job_record import JobRecord
from hpchub.scheduler import Phase
from hpchub.scheduler.watcher import Watcher

if TYPE_CHECKING:
    from conftest import FakeScheduler


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimpleNamespace]:
    """A watcher that polls quickly; `follow` gives alice's job 77, which waits, and the task that follows it."""
    monkeypatch.setattr("hpchub.scheduler.watcher.SOONEST", 0.01)
    monkeypatch.setattr("hpchub.scheduler.watcher.COMMANDS_PER_MINUTE", 60_000)
    watcher = Watcher(scheduler, 0.02)
    answering: set[str] = set()
    asked: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def answers(url: str) -> bool:
        asked.append(url)
        return url in answering

    def job(start_timeout_seconds: float = 60, **known: object) -> FollowedJob:
        record = JobRecord(tag="t", job_id="77", submitted_at=time.time()).model_copy(update=known)
        followed = FollowedJob(watcher, answers, start_timeout_seconds, record)
        followed.watch("alice")
        return followed

    def follow(start_timeout_seconds: float = 60, **known: object) -> tuple[FollowedJob, asyncio.Task[None]]:
        scheduler.put("77", Phase.WAITING, reason="Priority")
        followed = job(start_timeout_seconds, **known)
        tasks.append(task := asyncio.ensure_future(followed.until_ready()))
        return followed, task

    def run(node: str = "c1", **more: object) -> None:
        scheduler.put("77", Phase.RUNNING, node=node, **more)

    yield SimpleNamespace(
        scheduler=scheduler, watcher=watcher, answering=answering, asked=asked, job=job, follow=follow, run=run
    )
    for task in tasks:
        task.cancel()
    await watcher.close()


def phase(job: FollowedJob) -> Phase | None:
    state = job.state()
    return state.phase if state else None


async def test_it_waits_as_long_as_the_queue_takes_whatever_the_start_timeout(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow(start_timeout_seconds=0.1)
    await until(lambda: phase(job) is Phase.WAITING)
    await asyncio.sleep(0.5)
    assert not following.done()
    assert cluster.asked == [], "there is no server yet"
    job.report_port(40001)
    cluster.answering.add("https://c1:40001")
    cluster.run()
    await asyncio.wait_for(following, 30)
    assert job.url == "https://c1:40001"


async def test_it_waits_through_a_scheduler_that_does_not_answer(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow()
    cluster.scheduler.down = True
    await asyncio.sleep(0.3)
    assert not following.done()
    cluster.run()
    cluster.answering.add("https://c1:40001")
    cluster.scheduler.down = False
    await until(lambda: job.record.node == "c1")
    job.report_port(40001)
    await asyncio.wait_for(following, 30)


async def test_the_time_out_counts_from_the_moment_that_the_job_runs(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow(start_timeout_seconds=0.3)
    await asyncio.sleep(0.5)
    cluster.run()
    await until(lambda: phase(job) is Phase.RUNNING)
    assert not following.done()
    with pytest.raises(NeverReady, match=r"Job 77 runs on c1, but JupyterLab did not answer within 0.3 s") as caught:
        await asyncio.wait_for(following, 30)
    assert (caught.value.reason, caught.value.ended) == ("timeout", None)


async def test_a_server_has_all_of_its_time_however_long_its_job_has_waited(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow(start_timeout_seconds=1.0)
    await asyncio.sleep(1.5)
    cluster.run()
    await until(lambda: phase(job) is Phase.RUNNING)
    await asyncio.sleep(0.1)
    job.report_port(40001)
    cluster.answering.add("https://c1:40001")
    await asyncio.wait_for(following, 10)


async def test_the_time_in_the_queue_after_a_requeue_does_not_count_either(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow(start_timeout_seconds=1.0)
    cluster.run(start=100.0)
    await until(lambda: phase(job) is Phase.RUNNING)
    cluster.scheduler.put("77", Phase.WAITING, reason="BeginTime")
    await asyncio.sleep(1.5)
    assert not following.done()
    cluster.run("c2", start=200.0)
    await until(lambda: job.record.node == "c2")
    job.report_port(40002)
    cluster.answering.add("https://c2:40002")
    await asyncio.wait_for(following, 10)


async def test_a_server_that_reports_a_port_and_never_answers_is_out_of_time(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow(start_timeout_seconds=0.5)
    cluster.run()
    job.report_port(40001)
    with pytest.raises(NeverReady, match="did not answer within"):
        await asyncio.wait_for(following, 30)
    assert set(cluster.asked) == {"https://c1:40001"}


@pytest.mark.parametrize("port", [0, 40001], ids=["before its port", "before it answers"])
async def test_a_job_that_ends_before_its_server_answers_is_told_at_once(cluster: SimpleNamespace, port: int) -> None:
    job, following = cluster.follow()
    cluster.run()
    if port:
        job.report_port(port)
    await until(lambda: phase(job) is Phase.RUNNING)
    cluster.scheduler.put("77", Phase.ENDED, reason="OutOfMemory")
    with pytest.raises(NeverReady, match="Job 77 ended before JupyterLab answered") as caught:
        await asyncio.wait_for(following, 10)
    assert caught.value.reason == "died"
    assert caught.value.ended is not None
    assert caught.value.ended.reason == "OutOfMemory"


async def test_a_job_that_ends_in_the_queue_is_told_as_well(cluster: SimpleNamespace) -> None:
    _, following = cluster.follow()
    cluster.scheduler.put("77", Phase.ENDED, reason="Cancelled")
    with pytest.raises(NeverReady, match="ended before JupyterLab answered"):
        await asyncio.wait_for(following, 10)


async def test_a_job_that_is_ending_for_long_is_dead(cluster: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_job, "LINGER_SECONDS", 0.4)
    job, following = cluster.follow()
    cluster.scheduler.put("77", Phase.ENDING)
    await until(lambda: phase(job) is Phase.ENDING)
    await asyncio.sleep(0.1)
    assert not following.done(), "one that is requeued comes back from there"
    with pytest.raises(NeverReady) as caught:
        await asyncio.wait_for(following, 10)
    assert caught.value.reason == "died"


async def test_a_requeued_job_is_followed_to_its_next_node_and_its_old_port_is_forgotten(
    cluster: SimpleNamespace,
) -> None:
    job, following = cluster.follow()
    cluster.run(start=100.0)
    job.report_port(40001)
    await until(lambda: cluster.asked)
    cluster.scheduler.put("77", Phase.WAITING, reason="BeginTime")
    await until(lambda: phase(job) is Phase.WAITING)
    assert (job.record.node, job.record.port, job.record.began) == ("", 0, 0.0)
    cluster.answering.add("https://c1:40001")  # another process has that port now
    cluster.run("c2", start=200.0)
    await until(lambda: job.record.node == "c2")
    await asyncio.sleep(0.1)
    assert not following.done()
    job.report_port(40002)
    cluster.answering.add("https://c2:40002")
    await asyncio.wait_for(following, 30)
    assert (job.url, job.record.began) == ("https://c2:40002", 200.0)


@pytest.mark.parametrize(("node", "start"), [("c2", 100.0), ("c1", 200.0)], ids=["other node", "began anew"])
async def test_a_requeue_that_nobody_saw_is_known_by_node_or_beginning(
    cluster: SimpleNamespace, node: str, start: float
) -> None:
    job = cluster.job(node="c1", port=40001, began=100.0)
    cluster.run(node, start=start)
    await until(lambda: phase(job) is Phase.RUNNING)
    assert (job.record.node, job.record.port, job.record.began) == (node, 0, start)


async def test_a_server_that_runs_on_keeps_its_port_for_a_hub_that_was_restarted(cluster: SimpleNamespace) -> None:
    job = cluster.job(node="c1", port=40001, began=100.0)
    cluster.answering.add("https://c1:40001")
    assert not await job.ready(), "nobody has said yet that the job runs"
    cluster.run(start=100.0)
    await until(lambda: phase(job) is Phase.RUNNING)
    assert await job.ready()
    assert job.record.port == 40001


async def test_a_job_that_has_ended_is_not_ready_whoever_answers_on_its_port(cluster: SimpleNamespace) -> None:
    job = cluster.job(node="c1", port=40001, began=100.0)
    cluster.answering.add("https://c1:40001")
    cluster.scheduler.put("77", Phase.ENDED)
    await until(lambda: phase(job) is Phase.ENDED)
    assert not await job.ready()


async def test_the_time_in_the_queue_is_measured_once_for_each_start(cluster: SimpleNamespace) -> None:
    def measured() -> float:
        return REGISTRY.get_sample_value("hpchub_queue_wait_seconds_count") or 0.0

    before = measured()
    job, following = cluster.follow()
    cluster.run()
    await until(lambda: measured() == before + 1)
    job.report_port(40001)
    cluster.answering.add("https://c1:40001")
    await asyncio.wait_for(following, 30)
    again = FollowedJob(cluster.watcher, job.answers, 60, job.record)  # of a hub that was restarted
    await asyncio.wait_for(again.until_ready(), 30)
    assert measured() == before + 1


async def test_cancelling_is_ordered_again_until_the_job_is_over(cluster: SimpleNamespace) -> None:
    job, following = cluster.follow()
    orders = iter([False, True])

    async def order() -> bool:
        taken = next(orders)
        if taken:
            cluster.scheduler.put("77", Phase.ENDING)
        return taken

    await asyncio.wait_for(job.cancel(order), 30)
    assert job.over
    assert next(orders, None) is None
    following.cancel()


async def test_who_cannot_wait_orders_once(cluster: SimpleNamespace) -> None:
    job, _ = cluster.follow()
    ordered = []

    async def order() -> bool:
        ordered.append(1)
        return False

    await asyncio.wait_for(job.cancel(order, once=True), 5)
    assert ordered == [1]
    assert not job.over


async def test_a_job_that_is_over_is_not_cancelled(cluster: SimpleNamespace) -> None:
    job = cluster.job()
    cluster.scheduler.put("77", Phase.ENDED)
    await until(lambda: job.over)

    async def order() -> bool:
        raise AssertionError("it is over")

    await job.cancel(order)


async def test_after_a_reset_there_is_no_job_and_nobody_asks_for_it(cluster: SimpleNamespace) -> None:
    job = cluster.job()
    cluster.run()
    await until(lambda: phase(job) is Phase.RUNNING)
    job.reset()
    assert job.record == JobRecord()
    assert job.state() is None
    assert cluster.watcher.look("77") is None
    assert not job.over
