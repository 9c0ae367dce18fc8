"""Cancels jobs of this hub that its database does not know: what a lost database or a defect would leave running.

The shared poll names suspects: jobs with the hub's name whose id no server has. Only then is a tag asked for, in a
question about the jobs of that one user, because a user can write the comments of his own jobs, and nobody else's. A
tag counts only if it names this hub and the job's owner, and cancelling runs as that owner. So the most that a forged
tag can do is to end a job of whoever forged it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Counter

from hpchub.scheduler import JobState, Phase, Scheduler, SchedulerUnavailable, of_session
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Site

log = logging.getLogger("JupyterHub.hpchub")

ORPHANS = Counter("hpchub_orphans_cancelled_total", "Jobs cancelled because the hub's database did not know them")
LOOKS = 3
"""Good looks at a suspect within the time of grace."""
DASK_LOOKS, DASK_SECONDS, DASK_TRIES = 2, 15.0, 60
"""Good looks without a Dask job of a session that has ended, seconds between two, and tries until it is given up."""


def identity(site: Site) -> str:
    """The beginning of this hub's tags. Two hubs of one cluster have different addresses."""
    return f"{site.cluster.name}:{hashlib.sha256(site.hub.public_url.encode()).hexdigest()[:8]}"


def new_tag(site: Site, user: str, server: str, nonce: str) -> str:
    """The tag of a job: hub, user, server, nonce."""
    return f"{identity(site)}:{user}:{server}:{nonce}"


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says about jobs."""

    job_ids: frozenset[str]
    tags: frozenset[str]


@dataclass(slots=True)
class Reconciler:
    """Looks from time to time. `known` reads the database or raises; `cancel` says whether it was done."""

    site: Site
    scheduler: Scheduler
    watcher: Watcher
    known: Callable[[], Known]
    cancel: Callable[[str, str], Awaitable[bool]]
    """Of a user and a job id."""
    clock: Callable[[], float] = time.monotonic
    suspects: dict[str, float] = field(default_factory=dict)
    """Since when a job is unknown."""
    innocent: set[str] = field(default_factory=set)
    """Suspects whose tag is not ours."""

    @property
    def grace(self) -> float:
        """Seconds for which a job has to be unknown."""
        return self.site.cluster.jobs.orphan_minutes * 60.0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self.grace / (LOOKS - 1))
            try:
                await self.look()
            except SchedulerUnavailable as error:
                log.warning("No look for lost jobs: %s", error)
            except Exception:  # a database that cannot be read, or a defect: then nothing is cancelled
                log.exception("No look for lost jobs")

    async def look(self) -> None:
        """One look. Raises what reading the database and asking the scheduler raise, and then has done nothing."""
        jobs = await self.watcher.jobs()
        known = self.known()
        now = self.clock()
        unknown = {
            job_id: job
            for job_id, job in jobs.items()
            if job.phase in (Phase.WAITING, Phase.RUNNING) and job_id not in known.job_ids
        }
        self.innocent &= unknown.keys()
        self.suspects = {job_id: self.suspects.get(job_id, now) for job_id in unknown.keys() - self.innocent}
        due = [unknown[job_id] for job_id, since in self.suspects.items() if now - since >= self.grace]
        for user in sorted({job.user for job in due}):
            await self._judge(user, [job for job in due if job.user == user])

    async def _judge(self, user: str, jobs: list[JobState]) -> None:
        await self.watcher.turn()
        tags = await self.scheduler.tags(user)
        known = self.known()  # the question took its time
        for job in jobs:
            tag = tags.get(job.job_id, "")
            if not tag.startswith(f"{identity(self.site)}:{user}:"):
                self.innocent.add(job.job_id)
                self.suspects.pop(job.job_id, None)
            elif tag not in known.tags and job.job_id not in known.job_ids:
                await self._end(job, tag)

    async def _end(self, job: JobState, tag: str) -> None:
        await self.watcher.turn()
        minutes = round((self.clock() - self.suspects.pop(job.job_id)) / 60)
        if await self.cancel(job.user, job.job_id):
            ORPHANS.inc()
            log.warning(
                "Cancelled job %s of %s: unknown to this hub for %s minutes, tag %s", job.job_id, job.user, minutes, tag
            )
        else:
            log.warning(
                "Job %s of %s is unknown to this hub, tag %s, but could not be cancelled", job.job_id, job.user, tag
            )


async def end_dask(
    scheduler: Scheduler,
    cancel: Callable[[str, list[str]], Awaitable[bool]],
    user: str,
    tag: str,
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """End what Dask jobs the session with this tag has left, also those that wait. Its Lab must be over.

    Jobs that a session submits bear its tag (hpchub.dask_jobs.session); `cancel` acts as the user, so the most that a
    forged tag can do is to end a job of whoever forged it.
    """
    clean = 0
    for _ in range(DASK_TRIES):
        try:
            left = of_session(await scheduler.own(user), tag)
            clean = 0 if left else clean + 1
            if clean == DASK_LOOKS:
                return
            if left:
                log.info("Cancelling Dask jobs of %s, whose session has ended: %s", user, " ".join(left))
                await cancel(user, left)
        except SchedulerUnavailable as error:
            log.warning("No look for Dask jobs of %s: %s", user, error)
        await wait(DASK_SECONDS)
    log.error("Dask jobs of %s, whose session has ended, could not be cancelled: tag %s", user, tag)


def known_to(states: Mapping[int, object]) -> Known:
    """What the states of all servers say, by whatever key."""
    job_ids, tags = set(), set()
    for state in states.values():
        if isinstance(state, Mapping):
            job_ids.add(str(state.get("job_id") or ""))
            tags.add(str(state.get("tag") or ""))
    return Known(frozenset(job_ids - {""}), frozenset(tags - {""}))
