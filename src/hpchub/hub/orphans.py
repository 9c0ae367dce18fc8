"""Cancels jobs of this hub that its database does not know: what a lost database or a defect would leave running.

The shared poll names suspects: jobs with the hub's name whose id no server has. Only then is a tag asked for, in a
question about the jobs of that one user, because a user can write the comments of his own jobs, and nobody else's. A
tag counts only if it names this hub and the job's owner, and cancelling runs as that owner. So the most that a forged
tag can do is to end a job of whoever forged it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Counter

from hpchub.hub.runtime import RunningCluster
from hpchub.scheduler import JobState, Phase, SchedulerUnavailable

log = logging.getLogger("JupyterHub.hpchub")

ORPHANS = Counter("hpchub_orphans_cancelled_total", "Jobs cancelled because the hub's database did not know them")
POLLS_WITHIN_GRACE = 3
"""Consecutive polls within the grace period, all of which have to show the job."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says about jobs."""

    job_ids: frozenset[str]
    tags: frozenset[str]


@dataclass(slots=True)
class Reconciler:
    """Compares the jobs of one cluster with the database from time to time; `known` reads the database, or raises."""

    cluster: RunningCluster
    known: Callable[[], Known]
    clock: Callable[[], float] = time.monotonic
    suspects: dict[str, float] = field(default_factory=dict)
    """Since when a job is unknown."""
    foreign_jobs: set[str] = field(default_factory=set)
    """Unknown jobs whose tag is not of this hub."""

    @property
    def grace(self) -> float:
        """Seconds for which a job has to be unknown."""
        return self.cluster.settings.jobs.orphan_minutes * 60.0

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            await asyncio.sleep(self.grace / (POLLS_WITHIN_GRACE - 1))
            try:
                await self.compare()
            except SchedulerUnavailable as error:
                log.warning("No look for lost jobs: %s", error)
            except Exception:  # a database that cannot be read, or a defect: then nothing is cancelled
                log.exception("No look for lost jobs")

    async def compare(self) -> None:
        """Compare once. Raises what reading the database and asking the scheduler raise, and then has done nothing."""
        jobs = await self.cluster.watcher.jobs()
        known = self.known()
        now = self.clock()
        unknown = {
            job_id: job
            for job_id, job in jobs.items()
            if job.phase in (Phase.WAITING, Phase.RUNNING) and job_id not in known.job_ids
        }
        self.foreign_jobs &= unknown.keys()
        self.suspects = {job_id: self.suspects.get(job_id, now) for job_id in unknown.keys() - self.foreign_jobs}
        due = [unknown[job_id] for job_id, since in self.suspects.items() if now - since >= self.grace]
        for user in sorted({job.user for job in due}):
            await self._cancel_if_orphan(user, [job for job in due if job.user == user])

    async def _cancel_if_orphan(self, user: str, jobs: list[JobState]) -> None:
        """Ask for the tags of the user's jobs; cancel those whose tag is ours and unknown."""
        await self.cluster.watcher.acquire()
        tags = await self.cluster.scheduler.tags(user)
        known = self.known()  # the question took its time
        for job in jobs:
            tag = tags.get(job.job_id, "")
            if not tag.startswith(f"{self.cluster.identity}:{user}:"):
                self.foreign_jobs.add(job.job_id)
                self.suspects.pop(job.job_id, None)
            elif tag not in known.tags and job.job_id not in known.job_ids:
                await self._cancel(job, tag)

    async def _cancel(self, job: JobState, tag: str) -> None:
        await self.cluster.watcher.acquire()
        minutes = round((self.clock() - self.suspects.pop(job.job_id)) / 60)
        if await self.cluster.client.cancel(job.user, [job.job_id]):
            ORPHANS.inc()
            log.warning(
                "Cancelled job %s of %s: unknown to this hub for %s minutes, tag %s", job.job_id, job.user, minutes, tag
            )
        else:
            log.warning(
                "Job %s of %s is unknown to this hub, tag %s, but could not be cancelled", job.job_id, job.user, tag
            )


def known_to(states: Mapping[int, object]) -> Known:
    """What the states of all servers say, by whatever key."""
    job_ids, tags = set(), set()
    for state in states.values():
        if isinstance(state, Mapping):
            job_ids.add(str(state.get("job_id") or ""))
            tags.add(str(state.get("tag") or ""))
    return Known(frozenset(job_ids - {""}), frozenset(tags - {""}))
