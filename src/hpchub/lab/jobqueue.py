"""What dask-jobqueue's clusters can do more in our environment.

`cluster.why()` says why workers are not there; jobs are marked as their session's, and are no more than the site's
limit; `hpchub dask` finds the clusters and scales them.

Imported by hpchub.lab.when_imported, right after dask_jobqueue.core.
"""

from __future__ import annotations

import asyncio
import html
import math
import os
import pwd
import shlex
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from dask.utils import parse_bytes
from distributed.core import Status

from hpchub.lab import session, waiting
from hpchub.scheduler import JobState, SchedulerUnavailable
from hpchub.scheduler.words import refusal

core: Any = import_module("dask_jobqueue.core")  # upstream has types for a part of it only

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
    job_id_regexp = r"(?P<job_id>\d+(?:\.[A-Za-z0-9][A-Za-z0-9.-]*)?)"
    """With the server's name, as PBS prints it and names a job everywhere else."""

    async def _submit_job(self, script_filename: str) -> str:
        command = [*shlex.split(self.submit_command), *self._marks(), script_filename]
        try:
            return str(await self._call(command))
        except RuntimeError as error:
            self.status = Status.failed
            said = str(error).partition("stderr:\n")[2] or str(error)
            self.refused = refusal(said, session.setting("support-contact", "your help desk"))
            raise RuntimeError(self.refused) from None

    def _marks(self) -> list[str]:
        """Arguments of the submit command, unless the user has a use of his own for them."""
        mark = session.mark()
        if mark and self.submit_command == "sbatch" and "--comment" not in self.job_header:
            return [f"--comment={mark}"]
        if mark and self.submit_command == "qsub" and "#PBS -v" not in self.job_header:
            return ["-v", f"HPCHUB_TAG={mark}"]
        return []

    async def close(self) -> None:
        """Cancel the job."""
        await super().close()
        self.status = Status.closed


class JobQueueCluster(core.JobQueueCluster):  # type: ignore[misc]  # upstream has no types
    """A cluster that says why workers are not there."""

    _shown = ""
    _looked = float("-inf")

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
        try:
            await super()._close()
        finally:
            self._keep()

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
        lines = waiting.why(present, absent, jobs, explain, session.setting("support-contact", "your help desk"))
        return "\n".join(lines) or f"All {present} workers are there."

    def _absent(self) -> list[waiting.Absent]:
        seen = {worker["name"] for worker in list(self.scheduler_info["workers"].values())}
        found = []
        for name, spec in list(self.worker_spec.items()):  # a notebook asks from another thread
            names = [f"{name}{suffix}" for suffix in spec.get("group", [""])]
            if not seen.intersection(names):
                job = self.workers.get(name)
                found.append(
                    waiting.Absent(
                        getattr(job, "job_id", None) or "",
                        getattr(job, "refused", ""),
                        getattr(job, "log_directory", None) or "",
                    )
                )
        return found

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
