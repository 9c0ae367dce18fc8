"""One job, from its submission until its server answers: the queue, the start, a requeue, a failure; and its end.

Nothing here knows JupyterHub. What the job is stands in its record; what the batch system says of it, in the watcher.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import Histogram

from hpchub.hub.job_record import JobRecord
from hpchub.scheduler import JobState, Phase
from hpchub.scheduler.watcher import Watcher

EAGER_SECONDS = 20.0
"""For so long after its submission a job is polled eagerly: on an idle cluster it starts at once."""
LINGER_SECONDS = 60.0
"""For so long a job may be ending before it counts as dead: one that is requeued comes back from there."""
STEP_SECONDS = 15.0
"""The longest sleep of whoever waits; news wake them sooner."""
CANCEL_SECONDS = 60.0
"""The longest pause between two orders to cancel the same job; after orders that were not taken it grows from 1 s."""
ANSWER_POLL_SECONDS = 0.3
"""Between two requests to a server that has reported its port and does not answer yet."""

WAITED = Histogram(
    "hpchub_queue_wait_seconds",
    "From the submission of a server's job until it ran",
    buckets=(2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)


class NeverReady(Exception):
    """The job ended before its server answered, or the server did not answer in time."""

    def __init__(self, message: str, reason: str, ended: JobState | None = None) -> None:
        """`message` is a sentence, `reason` one word for the metrics, `ended` the job as it ended, if it has."""
        super().__init__(message)
        self.reason, self.ended = reason, ended


@dataclass(slots=True)
class FollowedJob:
    """The job of one server. `record` is replaced whenever more is known; who holds this object writes it down."""

    watcher: Watcher
    answers: Callable[[str], Awaitable[bool]]
    """Whether the server at https://NODE:PORT answers."""
    start_timeout_seconds: float
    """How long the server may take to answer, from the moment that its job runs."""
    record: JobRecord = field(default_factory=JobRecord)

    def change(self, **values: object) -> None:
        """Replace these values of the record."""
        self.record = self.record.model_copy(update=values)

    def watch(self, user: str) -> None:
        """Let the watcher ask about the job, if it has been submitted; `user` is its owner."""
        if self.record.job_id:
            self.watcher.watch(self.record.job_id, user)

    def reset(self) -> None:
        """No job any more."""
        if self.record.job_id:
            self.watcher.forget(self.record.job_id)
        self.record = JobRecord()

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"https://{self.record.node}:{self.record.port}"

    @property
    def over(self) -> bool:
        """Whether the job has ended or is about to."""
        job = self.state()
        return job is not None and job.phase in (Phase.ENDING, Phase.ENDED)

    def state(self) -> JobState | None:
        """The job as the watcher last saw it, None if it has not. The record takes over its node and its beginning.

        A job that waits again, or began anew, or runs elsewhere was requeued: its old port means nothing any more.
        """
        record = self.record
        job = self.watcher.look(record.job_id) if record.job_id else None
        if job is None or job.phase not in (Phase.WAITING, Phase.RUNNING):
            return job
        runs = job.phase is Phase.RUNNING
        began_anew = runs and record.began and job.start and job.start != record.began
        elsewhere = job.node and job.node != record.node
        if record.node and (not runs or began_anew or elsewhere):
            self.change(port=0, node="", began=0.0)
        if runs:
            self.change(node=job.node or self.record.node, began=job.start or self.record.began)
        return job

    def report_port(self, port: int) -> None:
        """The server of this job will listen there."""
        self.change(port=port)
        self.watcher.notify()

    async def ready(self) -> bool:
        """Whether the job runs and its server answers, now."""
        job = self.state()
        runs = job is not None and job.phase is Phase.RUNNING
        return runs and bool(self.record.port) and await self.answers(self.url)

    async def until_ready(self) -> None:
        """Wait as long as the queue takes, then for the server; a job that is requeued is followed. Raises
        NeverReady."""
        while not await self._wait_until_ready():
            pass

    async def cancel(self, order: Callable[[], Awaitable[bool]], *, once: bool = False) -> None:
        """Have the job cancelled and wait until it is over; `order` says whether the batch system took the order.

        It is ordered again and again for as long as the job may be alive: giving up would lose the job. With `once` it
        is ordered once, if at all, and not waited for.
        """
        pause = 1.0
        while not self.over:
            taken = await order()
            if once:
                return
            self.watcher.poll_soon(urgent=True)
            deadline = time.monotonic() + (CANCEL_SECONDS if taken else pause)
            while not self.over and time.monotonic() < deadline:
                await self.watcher.changed(max(0.1, deadline - time.monotonic()))
                self.watcher.poll_soon()
            pause = min(pause * 2, CANCEL_SECONDS)

    async def _wait_in_queue(self) -> None:
        """Return when the job does not wait any more."""
        while (job := self.state()) is None or job.phase is Phase.WAITING:
            if time.time() - self.record.submitted_at < EAGER_SECONDS:
                self.watcher.poll_soon()
            elif job is not None:
                self.watcher.locate_soon()
            await self.watcher.changed(STEP_SECONDS)
        if not self.record.port:
            WAITED.observe(max(0.0, (self.record.began or time.time()) - self.record.submitted_at))

    async def _wait_until_ready(self) -> bool:
        """Wait for the queue, then for the server; False if the job was requeued. Raises NeverReady."""
        await self._wait_in_queue()
        deadline = time.monotonic() + self.start_timeout_seconds
        dead_at = float("inf")
        while not (self.record.port and self.record.node and await self.answers(self.url)):
            job, now = self.state(), time.monotonic()
            if job is not None and job.phase is Phase.WAITING:
                return False
            if job is not None and job.phase is Phase.ENDING:
                dead_at = min(dead_at, now + LINGER_SECONDS)
            if job is not None and (job.phase is Phase.ENDED or now > dead_at):
                words = f"Job {self.record.job_id} ended before JupyterLab answered."
                raise NeverReady(words, "died", job)
            if now > deadline:
                where = self.record.node or "its node"
                raise NeverReady(
                    f"Job {self.record.job_id} runs on {where}, but JupyterLab did not answer within "
                    f"{self.start_timeout_seconds} s.",
                    "timeout",
                )
            self.watcher.poll_soon()  # a job that dies now shall be noticed now
            if self.record.port:
                await asyncio.sleep(ANSWER_POLL_SECONDS)  # news of other jobs shall not make everybody ask at once
            else:
                await self.watcher.changed(STEP_SECONDS)
        return True
