"""What dask-jobqueue's clusters can do more in our environment.

`cluster.why()` says why workers are not there; jobs are marked as their session's, and are no more than the site's
limit; `hpchub dask` finds the clusters and scales them.

Imported by hpchub.dask_jobs.patches.import_hook, right after dask_jobqueue.core.
"""

from __future__ import annotations

import asyncio
import html
import logging
import math
import os
import pwd
import shlex
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta
from distributed.core import Status

from hpchub.dask_jobs import lifetime, missing_workers, session
from hpchub.dask_jobs.job_arrays import CallBatcher, array_script, array_template
from hpchub.scheduler import JobState, SchedulerUnavailable
from hpchub.scheduler.dialect import Dialect, JobArrays
from hpchub.scheduler.messages import refusal
from hpchub.scheduler.registry import dialects

_logger = logging.getLogger(__name__)
core: Any = import_module("dask_jobqueue.core")  # upstream has types for a part of it only

SHORT_LIFE_SECONDS, MOST_DOUBLED = 600.0, 5
"""A job is replaced soon if its workers lived so long; else after twice the last wait, doubled that often at most."""
LOOK_SECONDS = 15.0
"""Between two looks at the scheduler for a cluster that is shown while its workers are not there."""


class Why(str):
    """Sentences that a notebook shows as they are."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The sentences themselves."""
        return str(self)


class Job(core.Job):  # type: ignore[misc]  # upstream has no types
    """A job that is marked as one of its session, and remembers why it was refused."""

    refused = ""
    _command_template: str
    job_id_regexp = r"(?P<job_id>\d+(?:_\d+|\.[A-Za-z0-9][A-Za-z0-9.-]*)?)"
    """One of an array, or with the server's name where a job is named so everywhere else."""

    def job_script(self) -> str:
        """As upstream, with a worker that leaves before this job's wall time is over."""
        self._command_template = lifetime.fit(self.job_header, self._command_template)
        return str(super().job_script())

    async def _submit_job(self, script_filename: str) -> str:
        self._file = script_filename
        said = await _submissions.ask(self)
        if isinstance(said, Exception):
            self.status = Status.failed
            words = str(said).partition("stderr:\n")[2] or str(said)
            self.refused = refusal(words, session.setting("support-contact", "your help desk"))
            raise RuntimeError(self.refused) from None
        return said

    async def submit(self, file: str = "", *options: str) -> str | RuntimeError:
        """Submit this job's script or another file, with options; what the submit command says, or the error."""
        try:
            command = [*shlex.split(self.submit_command), *self._marks(), *options, file or self._file]
            return str(await self._call(command))
        except RuntimeError as error:
            return error

    def _marks(self) -> list[str]:
        """Options of the submit command that mark this job as one of its session."""
        mark, here = session.mark(), self._dialect()
        if not mark or here is None:
            return []
        of_session = session.setting("session.queue"), session.setting("session.reservation")
        return list(here.dask.options(mark, self.job_header, *of_session))

    def _dialect(self) -> Dialect | None:
        """That of the batch system to which this job goes; None if its submit command is not one that hpchub knows."""
        return next((one for one in dialects() if one.submit_program == self.submit_command), None)

    async def close(self) -> None:
        """Cancel the job."""
        if self.job_id:
            await _cancellations.ask(self)
        self.status = Status.closed


async def _submit(jobs: Sequence[Job]) -> list[str | Exception]:
    """Submit jobs, as arrays where they differ in nothing but names; what was said to each, or its error."""
    alike: dict[tuple[JobArrays | None, str], list[Job]] = defaultdict(list)
    for job in jobs:
        here = job._dialect()
        arrays = here.arrays if here else None
        script = array_template(arrays, job.job_script(), job._command_template, str(job.name)) if arrays else None
        alike[arrays, script or str(job.name)].append(job)
    said: dict[Job, str | Exception] = {}
    for (arrays, script), array in alike.items():
        found = await _submit_array(arrays, script, array) if arrays and len(array) > 1 else None
        said |= found or await _submit_each(array)
    return [said[job] for job in jobs]


async def _submit_array(arrays: JobArrays, script: str, jobs: Sequence[Job]) -> dict[Job, str | Exception]:
    """Submit one array; nothing if the scheduler refuses it."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(array_script(arrays, script, [str(job.name) for job in jobs]))
        file.flush()
        said = await jobs[0].submit(file.name, arrays.option(len(jobs)))
    if isinstance(said, RuntimeError):
        return {}
    array = jobs[0]._job_id_from_submit_output(said)
    return {job: arrays.member(array, number) for number, job in enumerate(jobs)}


async def _submit_each(jobs: Sequence[Job]) -> dict[Job, str | Exception]:
    """Submit one after the other until one is refused, which is then said of all that are left.

    A limit, of which an array as a whole would be above, lets some of them through.
    """
    said: dict[Job, str | Exception] = {}
    last: str | Exception = ""
    for job in jobs:
        last = last if isinstance(last, Exception) else await job.submit()
        said[job] = last
    return said


async def _cancel(jobs: Sequence[Job]) -> list[None]:
    """Cancel jobs with one command for each kind."""
    ids: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        ids[job.cancel_command].append(job.job_id)
    for command, of_kind in ids.items():
        with suppress(RuntimeError):  # some of them may be gone
            await Job._call([*shlex.split(command), *of_kind])
    return [None for _ in jobs]


_submissions: CallBatcher[Job, str | Exception] = CallBatcher(_submit)
_cancellations: CallBatcher[Job, None] = CallBatcher(_cancel)


class JobQueueCluster(core.JobQueueCluster):  # type: ignore[misc]  # upstream has no types
    """A cluster that says why workers are not there."""

    _shown = ""
    _looked = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as upstream
        """As upstream, which knows the workers of a job only if their number is an argument, not from the settings."""
        self._came: dict[str, float] = {}
        self._losses: dict[str, int] = {}
        self._replacing: set[asyncio.Future[None]] = set()
        self._made = False
        super().__init__(*args, **kwargs)
        self._made = True
        if (processes := self._dummy_job.worker_processes) > 1:
            self.new_spec.setdefault("group", [f"-{number}" for number in range(processes)])

    async def _start(self) -> None:
        await super()._start()
        self.scheduler.handlers["hpchub_why"] = self._why
        self.scheduler.handlers["hpchub_scale"] = self._scale
        self._ending = asyncio.ensure_future(self._end_with_scheduler())
        self._keep()

    async def _end_with_scheduler(self) -> None:
        """A scheduler that was idle for too long closes itself; jobs that wait for it go too."""
        await self.scheduler.finished()
        if self.status is Status.running:
            self.shutdown_scheduler = False  # upstream would try for half a minute to reach it
            await self._close()

    async def _close(self) -> None:
        for replacing in list(self._replacing):
            replacing.cancel()
        try:
            await super()._close()
        finally:
            self._keep()

    async def _correct_state_internal(self) -> None:
        """As upstream; a refusal that nobody waits for is a sentence, not a traceback of the event loop."""
        try:
            await super()._correct_state_internal()
        except RuntimeError as error:
            if not self._made or str(error) not in {getattr(job, "refused", "") for job in self.workers.values()}:
                raise
            _logger.warning("No job was queued: %s", error)

    # -- workers that are lost

    def _update_worker_status(self, op: str, msg: Any) -> None:  # noqa: ANN401 - as upstream
        """As upstream for workers that are there; a job whose workers are gone is replaced, also without adapt()."""
        now = time.monotonic()
        if op == "add":
            self._came.update({str(info["name"]): now for info in msg["workers"].values()})
        gone = str(self.scheduler_info["workers"][msg]["name"]) if op == "remove" else ""
        super(core.SpecCluster, self)._update_worker_status(op, msg)  # SpecCluster's own forgets a job, and that is all
        for job, names in self._missing():
            if gone in names:
                lived = now - self._came.pop(gone, float("-inf"))
                self._losses[job] = self._losses.get(job, 0) + 1 if lived < SHORT_LIFE_SECONDS else 1
                wait = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
                wait *= 2 ** min(self._losses[job] - 1, MOST_DOUBLED)
                replacing = asyncio.ensure_future(self._replace(job, wait))
                self._replacing.add(replacing)
                replacing.add_done_callback(self._replacing.discard)

    def _expected(self) -> list[tuple[str, list[str]]]:
        """The names of jobs, and of each job's workers."""
        specs = list(self.worker_spec.items())  # a notebook asks from another thread
        return [(name, [f"{name}{suffix}" for suffix in spec.get("group", [""])]) for name, spec in specs]

    async def _replace(self, name: str, wait: float) -> None:
        """Submit another job in the place of one whose workers are gone, unless they come back."""
        await asyncio.sleep(wait)
        missing = {job for job, _ in self._missing()}
        if self.status is Status.running and name in missing and name in self.workers:
            await self.workers.pop(name).close()
            await self._correct_state()

    # -- how many

    def _keep(self) -> None:
        """Tell other processes of the session which clusters are here, and how many jobs they have."""
        here = [cluster for cluster in list(self._instances) if cluster.status is Status.running]
        here = [cluster for cluster in here if isinstance(cluster, JobQueueCluster)]
        session.keep(
            tuple(cluster.scheduler_address for cluster in here), sum(len(cluster.worker_spec) for cluster in here)
        )

    def _room(self) -> tuple[float, str]:
        """How many jobs this cluster may have by the site's limit, and that limit in words."""
        limit = int(session.setting("max-jobs", "0"))
        if not limit:
            return math.inf, ""
        others = sum(one.jobs for one in session.running() if one.process != session.process())
        others += sum(
            len(cluster.worker_spec)
            for cluster in list(self._instances)
            if cluster is not self and isinstance(cluster, JobQueueCluster)
        )
        taken = f", and your other clusters have {others} of them" if others else ""
        words = (
            f"This site lets a session have {limit} Dask jobs at a time{taken}. Ask for at most {limit - others}, and "
            "for larger ones if you need more: cores= and memory= of the cluster are those of one job."
        )
        return max(0, limit - others), words

    def scale(self, n: int | None = None, jobs: int = 0, memory: str | None = None, cores: int | None = None) -> Any:  # noqa: ANN401 - as upstream
        """As upstream, and it ends adaptive scaling, which would undo it. Raises ValueError above the site's limit."""
        adaptive = self._adaptive
        by_hand = adaptive is None or not adaptive._adapting
        if adaptive is not None and by_hand:
            adaptive.stop(reason="scaled by hand")
        if n is not None:
            jobs = math.ceil(n / self._dummy_job.worker_processes)
        if memory is not None:
            jobs = max(jobs, math.ceil(parse_bytes(memory) / self._memory_per_worker()))
        if cores is not None:
            jobs = max(jobs, math.ceil(cores / self._threads_per_worker()))
        if jobs > len(self.worker_spec):
            room, words = self._room()
            if jobs > room and by_hand:
                raise ValueError(words)
            jobs = min(jobs, max(int(min(room, jobs)), len(self.worker_spec)))
        done = super().scale(jobs=jobs)
        self._keep()
        return done

    async def scale_down(self, workers: Any) -> None:  # noqa: ANN401 - as upstream
        """As upstream."""
        await super().scale_down(workers)
        self._keep()

    def adapt(
        self,
        *args: Any,  # noqa: ANN401 - as upstream
        minimum_jobs: int | None = None,
        maximum_jobs: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - as upstream
    ) -> Any:  # noqa: ANN401 - as upstream
        """As upstream, with the site's limit for the maximum. Raises ValueError if the minimum is above it."""
        each = self._dummy_job.worker_processes
        if minimum_jobs is not None:
            kwargs["minimum"] = minimum_jobs * each
        if maximum_jobs is not None:
            kwargs["maximum"] = maximum_jobs * each
        room, words = self._room()
        if kwargs.get("minimum", 0) > room * each:
            raise ValueError(words)
        if kwargs.get("maximum", math.inf) > room * each:
            if "maximum" in kwargs:
                warnings.warn(words, stacklevel=2)
            kwargs["maximum"] = int(room * each)
        return super().adapt(*args, **kwargs)

    async def _scale(self, minimum: int, maximum: int | None = None) -> str:
        """What `hpchub dask scale` asks for: so many workers, or adaptive between two numbers. Gives a sentence."""
        try:
            if maximum is not None:
                self.adapt(minimum=minimum, maximum=maximum)
                return f"{self.name} now has {minimum} to {maximum} workers, as its work needs."
            self.scale(minimum)
        except ValueError as error:
            return str(error)
        return f"{self.name} now asks for {minimum} workers."

    # -- why not

    def why(self) -> Any:  # noqa: ANN401 - a Why, or an awaitable of one where the cluster is asynchronous
        """Why workers are not there: they wait and until when, were refused, or died with these last words."""
        return self.sync(self._told)

    async def _told(self) -> Why:
        return Why(await self._why())

    async def _why(self) -> str:
        jobs: dict[str, JobState] = {}
        explain: Callable[[JobState], str] = str
        absent = self._absent()
        job_ids = {one.job_id for one in absent if one.job_id}
        scheduler = session.batch_system() if job_ids else None
        if scheduler is not None:
            explain = scheduler.explain
            try:
                own = await scheduler.own(pwd.getpwuid(os.getuid()).pw_name)
                jobs = {job_id: own[job_id][0] for job_id in job_ids & own.keys()}
                jobs |= await scheduler.ended(job_ids - own.keys())
            except SchedulerUnavailable:
                return "The scheduler does not answer at the moment. Please ask again in a minute."
        present = len(self.scheduler_info["workers"])
        lines = missing_workers.why(
            present, absent, jobs, explain, session.setting("support-contact", "your help desk")
        )
        return "\n".join(lines) or f"All {present} workers are there."

    def _missing(self) -> list[tuple[str, list[str]]]:
        """Of `_expected` the jobs of which no worker is there."""
        seen = {worker["name"] for worker in list(self.scheduler_info["workers"].values())}
        return [(job, names) for job, names in self._expected() if not seen.intersection(names)]

    def _absent(self) -> list[missing_workers.Absent]:
        jobs = [self.workers.get(name) for name, _ in self._missing()]
        known = [[getattr(job, field, None) or "" for field in ("job_id", "refused", "log_directory")] for job in jobs]
        return [missing_workers.Absent(*fields) for fields in known]

    async def _look(self) -> None:
        self._shown = await self._why()

    def shown(self) -> str:
        """Why workers are not there, as last seen, for what is shown all the time; "" if they are."""
        absent = self._absent()
        submitted = all(one.job_id or one.refused for one in absent)
        if not absent:
            self._shown = ""
        elif submitted and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self.loop.add_callback(self._look)
        return self._shown

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        """As upstream, and why workers are not there."""
        words = self.shown()
        if words:
            row = f'<tr><td colspan="2" style="text-align: left; white-space: pre-wrap">{html.escape(words)}</td></tr>'
            cluster_status = f"{cluster_status or ''}{row}"
        return str(super()._repr_html_(cluster_status))


def change(module: ModuleType) -> None:
    """Put these classes in the place of those that all kinds of clusters are made from."""
    vars(module).update(Job=Job, JobQueueCluster=JobQueueCluster)
