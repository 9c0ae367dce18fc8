"""LSF: how it says things, argument lists of questions, and parsers of the answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hpchub.privileged.lsf import ORDERS

from hpchub.privileged import durations
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.scheduler import JOB_NAME, Ask, JobState, Phase, Place, Project, Queue, Reservation, places
from hpchub.scheduler.dialect import DaskJobs, Dialect, JobVariables

PHASES = {
    "PEND": Phase.WAITING,
    "PSUSP": Phase.WAITING,
    "RUN": Phase.RUNNING,
    "USUSP": Phase.RUNNING,
    "DONE": Phase.ENDED,
    "EXIT": Phase.ENDED,
}
JOBS = "jobid user stat first_host pend_reason job_description delimiter='|'"


@dataclass(frozen=True)
class Lsf:
    prefix: str
    ask: Ask

    async def _jobs(self, *about: str) -> dict[str, tuple[JobState, str]]:
        return parse_jobs(await self.ask((f"{self.prefix}/bjobs", "-a", *about, "-noheader", "-o", JOBS)))

    async def jobs(self, job_ids: Collection[str] | None = None) -> Mapping[str, JobState]:
        return {name: job for name, (job, _) in (await self._jobs("-uall", f"-J{JOB_NAME}")).items()}

    async def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        return {name: job for name, (job, _) in (await self._jobs("-uall", *sorted(job_ids))).items()}

    async def tags(self, user: str) -> Mapping[str, str]:
        return {name: tag for name, (_, tag) in (await self._jobs(f"-u{user}", f"-J{JOB_NAME}")).items()}

    async def own(self, user: str) -> Mapping[str, tuple[JobState, str]]:
        return {name: (job, tag) for name, (job, tag) in (await self._jobs(f"-u{user}")).items() if job.user == user}

    async def places(self) -> Mapping[str, Place]:
        text = await self.ask((f"{self.prefix}/bjobs", "-uall", "-p", "-noheader", "-o", "jobid queue delimiter='|'"))
        return places([(line.split("|")[0], line.split("|")[1]) for line in text.splitlines()])

    async def queues(self) -> Mapping[str, Queue]:
        limits = queue_limits(await self.ask(_limits(self.prefix)))
        return {name: Queue(name, max_walltime_minutes=minutes) for name, minutes in limits.items()}

    async def projects(self, user: str, groups: Collection[str]) -> Sequence[Project]:
        return [Project(name) for name in sorted(groups)]

    async def reservations(self) -> Sequence[Reservation]:
        return []

    def explain(self, job: JobState) -> str:
        return job.reason


def parse_jobs(text: str) -> dict[str, tuple[JobState, str]]:
    found = {}
    for line in text.splitlines():
        job_id, user, state, node, reason, tag = line.split("|")
        phase = PHASES.get(state, Phase.RUNNING)
        node = "" if phase is Phase.WAITING else node
        found[job_id] = JobState(job_id, user, phase, state, node or None, reason), tag
    return found


def seconds(text: str) -> float | None:
    """[H:]M, in seconds."""
    return durations.of_hours(f"{text}:00") if re.fullmatch(r"\d+(:\d+)?", text) else None


def _batch_run(order: BatchRunOrder) -> list[str]:
    directives = [
        "-J hpchub-batch",
        f"-q {order.queue}",
        f"-n {order.tasks * order.cores}",
        f"-M {order.memory_mib}MB",
        f"-W {order.walltime_minutes}",
        "-o job.log",
        "-env none",
        "-rn",
    ]
    return [*directives, *([f"-P {order.project}"] if order.project else [])]


def _dask_options(mark: str, header: str, queue: str, reservation: str) -> list[str]:
    theirs = re.findall(r"(?m)^#BSUB -Jd (.*)$", header)
    held = reservation and f"#BSUB -q {queue}" in header.splitlines() and "#BSUB -U" not in header
    return ["-Jd", " ".join([mark, *theirs[-1:]]), *(["-U", reservation] if held else [])]


def _limits(prefix: str) -> tuple[str, ...]:
    return f"{prefix}/bqueues", "-noheader", "-o", "queue_name runlimit delimiter='|'"


def queue_limits(output: str) -> dict[str, int | None]:
    pairs = (line.split("|") for line in output.splitlines())
    return {name: durations.minutes(seconds(limit)) for name, limit in pairs}


QUESTIONS = Lsf
DIALECT = Dialect(
    name="lsf",
    orders=ORDERS,
    directive="#BSUB",
    batch_run=_batch_run,
    wall_time=re.compile(r"^#BSUB\s+-W\s*(\S+)", re.MULTILINE),
    seconds=seconds,
    variables=JobVariables(
        job_id="LSB_JOBID",
        queue="LSB_QUEUE",
        project="LSB_PROJECT_NAME",
        leaking=("LSB_SUB_EXPORT",),
        of_submission=("LSB_", "BSUB_"),
    ),
    command_variables={"BJOBS_DELIMITER": "|"},
    dask=DaskJobs(
        section="lsf",
        cluster_class="LSFCluster",
        keys=("project", "ncpus", "mem", "lsf-units", "use-stdin"),
        options=_dask_options,
        reservation_directive="-U {}".format,
        project_key="project",
        wall_time=lambda minutes: f"{minutes // 60}:{minutes % 60:02}",
    ),
    limits=_limits,
    queue_limits=queue_limits,
    set_uid_client=True,
)
