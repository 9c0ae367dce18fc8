from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.hub.dask_cleanup import MOST_POLLS, cancel_dask_jobs
from hpchub.hub.job_client import JobClient
from hpchub.hub.job_record import hub_identity, new_tag
from hpchub.hub.orphans import Known, Reconciler, known_to
from hpchub.hub.runtime import RunningCluster
from hpchub.scheduler import JobState, Phase, SchedulerUnavailable
from hpchub.scheduler.offers import Live
from hpchub.scheduler.watcher import Bucket, Watcher
from hpchub.settings import Site

if TYPE_CHECKING:
    from conftest import FakeScheduler


def cluster_of(
    site: Site, scheduler: Any, watcher: Watcher, cancel: Callable[[str, list[str]], bool]
) -> RunningCluster:
    """A cluster whose job program does with an order to cancel what a test says."""

    async def program(path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        assert message["verb"] == "cancel"
        return {"ok": cancel(user, message["job_ids"])}

    settings = site.cluster
    client = JobClient(settings.jobs.socket, program)
    return RunningCluster(settings, identity(site), scheduler, watcher, Live(scheduler, settings), client)


def identity(site: Site) -> str:
    return hub_identity(site.cluster.name, site.hub.public_url)


class Hub:
    """A hub whose clock and database a test decides."""

    def __init__(self, scheduler: FakeScheduler, site: Site) -> None:
        self.now, self.scheduler, self.site = 0.0, scheduler, site
        self.known: Callable[[], Known] = lambda: Known(frozenset(), frozenset())
        self.cancelled: list[tuple[str, str]] = []
        self.works = True
        self.watcher = Watcher(scheduler, 10, lambda: self.now)
        self.watcher._bucket = Bucket(60_000, 100)  # the clock stands still within a look
        self.restart()

    def restart(self) -> None:
        cluster = cluster_of(self.site, self.scheduler, self.watcher, self._cancel)
        self.reconciler = Reconciler(cluster, lambda: self.known(), lambda: self.now)

    def _cancel(self, user: str, job_ids: list[str]) -> bool:
        self.cancelled += [(user, job_id) for job_id in job_ids]
        return self.works

    def put(self, job_id: str, tag: str, user: str = "alice", phase: Phase = Phase.RUNNING) -> None:
        self.scheduler.put(job_id, phase, user)
        self.scheduler.tagged[job_id] = tag

    async def look(self, minutes: float) -> None:
        self.now += minutes * 60
        await self.reconciler.compare()

    async def minutes_pass(self) -> None:
        """As many looks as it takes."""
        for _ in range(4):
            await self.look(5)


@pytest.fixture
def hub(scheduler: FakeScheduler, site: Site) -> Hub:
    return Hub(scheduler, site)


@pytest.fixture
def tag(site: Site) -> str:
    return new_tag(identity(site), "alice", "", "00ff")


async def test_a_job_of_this_hub_that_the_database_does_not_know_is_cancelled_after_the_grace(
    hub: Hub, tag: str
) -> None:
    hub.put("7", tag)
    await hub.look(5)
    await hub.look(5)
    assert hub.cancelled == []
    await hub.look(5)
    assert hub.cancelled == [("alice", "7")]


@pytest.mark.parametrize("by", ["job_id", "tag"])
async def test_a_job_that_the_database_knows_by_id_or_tag_is_never_touched(hub: Hub, tag: str, by: str) -> None:
    hub.put("7", tag)
    hub.known = lambda: known_to({1: {"job_id": "7"} if by == "job_id" else {"tag": tag}})
    await hub.minutes_pass()
    assert hub.cancelled == []


async def test_jobs_of_another_hub_and_jobs_that_only_bear_the_name_are_left_alone(hub: Hub, site: Site) -> None:
    other = site.model_copy(update={"hub": site.hub.model_copy(update={"public_url": "https://staging.example.org/"})})
    assert identity(other) != identity(site)
    hub.put("7", new_tag(identity(other), "alice", "", "00ff"))
    hub.put("8", "")
    hub.put("9", "demo:alice::00ff")
    await hub.minutes_pass()
    assert hub.cancelled == []
    asked = len(hub.scheduler.asked)
    await hub.look(1)
    assert "tags" not in hub.scheduler.asked[asked:], "the tag of a foreign job is not asked for again"


async def test_a_tag_that_names_somebody_else_ends_nobodys_job(hub: Hub, site: Site, tag: str) -> None:
    hub.put("7", tag, user="mallory")
    hub.put("8", new_tag(identity(site), "bob", "", "00ff"), user="mallory")
    await hub.minutes_pass()
    assert hub.cancelled == []


async def test_the_tags_of_one_user_say_nothing_about_another_users_job(hub: Hub, site: Site, tag: str) -> None:
    """Mallory's comment contains a line that looks like one about bob's job."""
    hub.put("8", "", user="bob")
    hub.put("9", "", user="mallory")

    async def tags(user: str) -> dict[str, str]:
        return {"9": "x", "8": new_tag(identity(site), "bob", "", "00ff")} if user == "mallory" else {"8": ""}

    hub.scheduler.tags = tags  # type: ignore[method-assign]
    await hub.minutes_pass()
    assert hub.cancelled == []


async def test_nothing_is_cancelled_while_the_scheduler_does_not_answer(hub: Hub, tag: str) -> None:
    hub.put("7", tag)
    await hub.look(5)
    hub.scheduler.down = True
    for _ in range(5):
        with pytest.raises(SchedulerUnavailable):
            await hub.look(5)
    assert hub.cancelled == []


async def test_nothing_is_cancelled_while_the_database_cannot_be_read(hub: Hub, tag: str) -> None:
    hub.put("7", tag)
    await hub.look(5)
    good = hub.known

    def locked() -> Known:
        raise OSError("database is locked")

    hub.known = locked
    for _ in range(5):
        with pytest.raises(OSError, match="locked"):
            await hub.look(5)
    assert hub.cancelled == []
    hub.known = good
    await hub.look(5)
    assert hub.cancelled == [("alice", "7")]


async def test_a_restart_of_the_hub_begins_the_grace_anew(hub: Hub, tag: str) -> None:
    hub.put("7", tag)
    for _ in range(5):
        await hub.look(5)
        hub.restart()
    assert hub.cancelled == []


async def test_a_submission_that_the_database_learns_of_meanwhile_is_not_cancelled(hub: Hub, tag: str) -> None:
    hub.put("7", tag)
    await hub.look(5)
    await hub.look(5)
    answers = iter([Known(frozenset(), frozenset()), known_to({1: {"tag": tag}})])
    hub.known = lambda: next(answers)
    await hub.look(5)
    assert hub.cancelled == []


async def test_a_job_that_could_not_be_cancelled_is_tried_again_after_another_grace(hub: Hub, tag: str) -> None:
    hub.put("7", tag)
    hub.works = False
    await hub.minutes_pass()
    assert len(hub.cancelled) == 1
    await hub.minutes_pass()
    assert len(hub.cancelled) == 2


async def test_what_is_over_is_no_suspect(hub: Hub, tag: str) -> None:
    hub.put("7", tag, phase=Phase.ENDED)
    hub.put("8", tag, phase=Phase.ENDING)
    await hub.minutes_pass()
    assert hub.cancelled == []
    assert hub.reconciler.suspects == {}


OWN = {
    "1": ("demo:0a:alice::n1:7.8:dask", Phase.WAITING),
    "2": ("demo:0a:alice::n1:7.9:dask", Phase.RUNNING),
    "3": ("demo:0a:alice::n1:7.9:dask", Phase.ENDED),
    "4": ("demo:0a:alice::n12:7.8:dask", Phase.WAITING),  # another session's
    "5": ("demo:0a:alice::n1", Phase.RUNNING),  # a Lab, not one of its Dask jobs
    "6": ("", Phase.WAITING),
}


class Leaving:
    """Alice's jobs, and a scheduler that is silent at first."""

    def __init__(self, silent: int = 0) -> None:
        self.jobs = {job_id: (JobState(job_id, "alice", phase, "X"), tag) for job_id, (tag, phase) in OWN.items()}
        self.silent, self.asked, self.cancelled = silent, 0, []

    async def own(self, user: str) -> dict[str, tuple[JobState, str]]:
        self.asked += 1
        if self.asked <= self.silent:
            raise SchedulerUnavailable("down")
        return self.jobs if user == "alice" else {}

    def cancel(self, user: str, job_ids: list[str]) -> bool:
        self.cancelled.append((user, job_ids))
        for job_id in job_ids:
            del self.jobs[job_id]
        return True

    async def wait(self, _seconds: float) -> None:
        pass


@pytest.mark.parametrize("silent", [0, 3])
async def test_a_session_that_has_ended_leaves_no_dask_job_and_others_keep_theirs(
    silent: int, site: Site, scheduler: FakeScheduler
) -> None:
    leaving = Leaving(silent)
    cluster = replace(cluster_of(site, scheduler, Watcher(scheduler, 10), leaving.cancel), scheduler=leaving)
    await cancel_dask_jobs(cluster, "alice", "demo:0a:alice::n1", leaving.wait)
    assert leaving.cancelled == [("alice", ["1", "2"])]
    assert leaving.asked == silent + 3


async def test_a_scheduler_that_never_answers_is_not_asked_for_ever(site: Site, scheduler: FakeScheduler) -> None:
    leaving = Leaving(10**6)
    cluster = replace(cluster_of(site, scheduler, Watcher(scheduler, 10), leaving.cancel), scheduler=leaving)
    await cancel_dask_jobs(cluster, "alice", "demo:0a:alice::n1", leaving.wait)
    assert (leaving.cancelled, leaving.asked) == ([], MOST_POLLS)
