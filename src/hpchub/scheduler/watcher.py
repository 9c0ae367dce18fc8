"""The one shared poller: one question for all of the hub's jobs, however many there are and whoever waits for them.

'The scheduler does not answer' is never 'the job is gone'. A job that is missing from an answer counts as missing only
after two good answers; then the accounting is asked how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import Gauge

from hpchub.scheduler import JobState, Phase, Place, Scheduler, SchedulerUnavailable
from hpchub.scheduler.rate_limit import Bucket

log = logging.getLogger("JupyterHub.hpchub")

LAST_ANSWER = Gauge("hpchub_scheduler_last_answer_timestamp_seconds", "When the scheduler last answered about the jobs")
AGE = Gauge("hpchub_scheduler_answer_age_seconds", "Since the last good answer about the jobs; 0 before the first one")
WATCHED = Gauge("hpchub_watched_jobs", "Jobs that the hub watches")

MISSES_TO_ASK = 2
"""Good answers without a job before the accounting is asked."""
MISSES_TO_GIVE_UP = 4
"""Good answers without a job before it counts as ended even though the accounting knows nothing of it."""
MISSES_TO_REPEAT = 6
"""A missing job that lives in the accounting (its owner renamed it) is looked up again after so many good answers."""
SOONEST, SOONEST_URGENT = 2.0, 0.5
"""Seconds that always lie between two polls, and between two if a server is up and waits to be known."""
COMMANDS_PER_MINUTE = 8.0
BURST = 2.0
URGENT_BURST = 2.0
"""At most 8 + 2 + 2 commands in any minute; the last two are for a server that has reported its port and waits."""
LONGEST_BACK_OFF = 60.0
LOCATE_SECONDS = 60.0
"""Between two questions about places in the queues."""


@dataclass(slots=True)
class _Watched:
    user: str
    job: JobState | None = None
    misses: int = 0


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long. Python 3.11's wait_for would lose a cancellation that comes with it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Watcher:
    """Watches jobs by id; everybody reads the same answer."""

    def __init__(self, scheduler: Scheduler, poll_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing runs until the first job is watched."""
        self._scheduler = scheduler
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._bucket = Bucket(COMMANDS_PER_MINUTE, BURST, clock)
        self._watched: dict[str, _Watched] = {}
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._locating: asyncio.Task[None] | None = None
        self._failures = 0
        self._urgent = False
        self._last_poll = float("-inf")
        self._asked = float("-inf")
        self._places: tuple[float, Mapping[str, Place]] = (float("-inf"), {})

    def watch(self, job_id: str, user: str) -> None:
        """Begin to watch a job of this user; a record of another user with the same id does not count."""
        self._watched.setdefault(job_id, _Watched(user))
        WATCHED.set(len(self._watched))
        self.poll_soon()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="hpchub-watch")

    def forget(self, job_id: str) -> None:
        """Stop watching a job."""
        self._watched.pop(job_id, None)
        WATCHED.set(len(self._watched))

    def look(self, job_id: str) -> JobState | None:
        """The job as last seen; None as long as no good answer had it."""
        watched = self._watched.get(job_id)
        return watched.job if watched else None

    def poll_soon(self, *, urgent: bool = False) -> None:
        """Somebody waits: poll as soon as the limits allow. Urgent: a server is up, and only its node is not known."""
        self._urgent |= urgent
        self._wake.set()

    async def ask(self) -> None:
        """Wait for a good answer to a question that is put from now on."""
        began = self._clock()
        while self._asked < began:
            self.poll_soon(urgent=True)
            await self.changed(1.0)

    def notify(self) -> None:
        """Wake all who wait in `changed`."""
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, timeout: float) -> None:
        """Wait for the next news, at most `timeout` seconds."""
        await _wait(self._news, timeout)

    async def acquire(self) -> None:
        """Wait until one more command fits into the minute, and count it."""
        await self._bucket.acquire()

    async def jobs(self) -> Mapping[str, JobState]:
        """All jobs with the hub's name, watched or not, asked for now. Raises SchedulerUnavailable."""
        await self.acquire()
        return await self._scheduler.jobs()

    def locate_soon(self) -> None:
        """`locate`, without waiting for its turn, which may be late: whoever waits for a job has to see it start."""
        if self._locating is None or self._locating.done():
            self._locating = asyncio.get_running_loop().create_task(self.locate(), name="hpchub-locate")

    async def locate(self) -> None:
        """Ask for the places in the queues, at most once a minute for all who wait; no answer is no place."""
        if self._clock() - self._places[0] < LOCATE_SECONDS:
            return
        self._places = (self._clock(), self._places[1])
        await self.acquire()
        try:
            self._places = (self._clock(), await self._scheduler.places())
        except SchedulerUnavailable as error:
            log.warning("No answer about places in the queues: %s", error)
            self._places = (self._clock(), {})

    def place(self, job_id: str) -> Place | None:
        """The place of a job that waits, if it is known."""
        return self._places[1].get(job_id)

    async def close(self) -> None:
        """End the poller."""
        for task in filter(None, (self._task, self._locating)):
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while self._watched:
            await self._pause()
            await self.poll()

    async def _pause(self) -> None:
        """Sleep until the next poll is due: the usual interval with jitter, sooner if woken, later after failures."""
        if self._failures:
            usual = min(self._poll_seconds * 2**self._failures, LONGEST_BACK_OFF)
            soonest = usual
        else:
            usual, soonest = self._poll_seconds, SOONEST
        due = self._last_poll + usual * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        await _wait(self._wake, due - self._clock())
        while True:
            self._wake.clear()
            tokens = self._bucket.wait(URGENT_BURST if self._urgent else 0.0)
            gap = SOONEST_URGENT if self._urgent and not self._failures else soonest
            rest = max(self._last_poll + gap - self._clock(), tokens)
            if rest <= 0:
                break
            if self._urgent:
                await asyncio.sleep(rest)
            else:  # an urgent request may come meanwhile
                await _wait(self._wake, rest)
        self._urgent = False

    async def poll(self) -> None:
        """Ask once, and tell all who wait."""
        self._last_poll = self._clock()
        self._bucket.take()
        before = set(self._watched)  # a job submitted during the question may rightly be missing in its answer
        try:
            jobs = await self._scheduler.jobs(before)
        except SchedulerUnavailable as error:
            self._failures += 1
            log.warning("No answer about the jobs (%s in a row): %s", self._failures, error)
            return
        except Exception:  # a defect here must not end the watching of everybody's job
            self._failures += 1
            log.exception("The answer about the jobs could not be used")
            return
        self._failures = 0
        self._asked = self._last_poll
        self._answer = (self._clock(), jobs)
        answered = time.time()
        LAST_ANSWER.set(answered)
        AGE.set_function(lambda: time.time() - answered)
        await self._take(before, jobs)
        self.notify()

    async def _take(self, before: set[str], jobs: Mapping[str, JobState]) -> None:
        """Sort one good answer into what is watched."""
        doubtful = []
        for job_id in before & self._watched.keys():
            watched, job = self._watched[job_id], jobs.get(job_id)
            if job is not None and job.user == watched.user:
                watched.job, watched.misses = job, 0
            elif watched.job is None or watched.job.phase is not Phase.ENDED:
                watched.misses += 1
                if watched.misses >= MISSES_TO_ASK and (watched.misses - MISSES_TO_ASK) % MISSES_TO_REPEAT < 3:
                    doubtful.append(job_id)
        if doubtful:
            await self._settle(doubtful)

    async def _settle(self, job_ids: list[str]) -> None:
        """Ask the accounting about jobs that two good answers did not have."""
        self._bucket.take()
        try:
            ended = await self._scheduler.ended(job_ids)
        except SchedulerUnavailable as error:
            log.warning("No answer about how jobs ended: %s", error)
            ended = {}
        for job_id in job_ids:
            watched, job = self._watched.get(job_id), ended.get(job_id)
            if watched is None:
                continue
            if job is not None and job.user == watched.user:
                watched.job = job
            elif watched.misses >= MISSES_TO_GIVE_UP:
                watched.job = JobState(job_id, watched.user, Phase.ENDED, "UNKNOWN", reason="no record")
