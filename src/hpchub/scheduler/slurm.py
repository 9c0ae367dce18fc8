"""Slurm, 22.05 and later: how it says things, argument lists of questions, and pure parsers of the answers.

The text forms are used, not JSON: JSON needs a plug-in that not every site has, and its schema changes with releases.
No field that a user can write (comment, job name) is asked for in the question about all users' jobs: a line break
in it could pretend to be another user's job.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hpchub.privileged import durations
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.privileged.slurm import ORDERS
from hpchub.scheduler import (
    JOB_NAME,
    Ask,
    JobState,
    Phase,
    Place,
    Project,
    Queue,
    Reservation,
    SchedulerUnavailable,
    places,
)
from hpchub.scheduler.dialect import DaskJobs, Dialect, JobArrays, JobVariables, TaskLauncher
from hpchub.scheduler.messages import slurm_reason
from hpchub.scheduler.rate_limit import Bucket, CoalescingLookup

# slurm.h `enum job_states` and the flags above JOB_STATE_BASE; names as `job_state_string` prints them
# (src/common/slurm_protocol_defs.c in 22.05 to 25.05); meanings: `man squeue`, JOB STATE CODES.
PHASES: Mapping[str, Phase] = {
    "PENDING": Phase.WAITING,
    "CONFIGURING": Phase.WAITING,
    "POWER_UP_NODE": Phase.WAITING,
    "REQUEUED": Phase.WAITING,
    "REQUEUE_FED": Phase.WAITING,
    "REQUEUE_HOLD": Phase.WAITING,
    "SPECIAL_EXIT": Phase.WAITING,
    "RESV_DEL_HOLD": Phase.WAITING,
    "RUNNING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "UPDATE_DB": Phase.RUNNING,
    "COMPLETING": Phase.ENDING,
    "STAGE_OUT": Phase.ENDING,
    "EXPEDITING": Phase.WAITING,
    "COMPLETED": Phase.ENDED,
    "CANCELLED": Phase.ENDED,
    "FAILED": Phase.ENDED,
    "TIMEOUT": Phase.ENDED,
    "NODE_FAIL": Phase.ENDED,
    "PREEMPTED": Phase.ENDED,
    "BOOT_FAIL": Phase.ENDED,
    "DEADLINE": Phase.ENDED,
    "OUT_OF_MEMORY": Phase.ENDED,
    "REVOKED": Phase.ENDED,
    "LAUNCH_FAILED": Phase.ENDED,
    "RECONFIG_FAIL": Phase.ENDED,
}

ENDS: Mapping[str, str] = {
    "COMPLETED": "The job ended by itself.",
    "CANCELLED": "The job was cancelled.",
    "FAILED": "The job failed.",
    "TIMEOUT": "The job reached its wall time.",
    "NODE_FAIL": "The job's node failed. Start again; it will get another node.",
    "BOOT_FAIL": "The job's node did not start. Start again; it will get another node.",
    "PREEMPTED": "The job had to make room for a more urgent one.",
    "DEADLINE": "The job missed its deadline.",
    "OUT_OF_MEMORY": "The job ran out of memory. Start again with more.",
    "REVOKED": "The job runs on another cluster.",
    "LAUNCH_FAILED": "The scheduler could not launch the job. Start again.",
    "RECONFIG_FAIL": "The job's node could not be prepared. Start again; it will get another node.",
}

QUESTIONS_PER_MINUTE = 12.0
QUESTIONS_AT_ONCE = 3.0
EVERYBODY_SECONDS = 60.0
"""About the projects of one user each; when more ask, one question about everybody's is good for so long."""

_JOBS_FORMAT = "%i|%u|%T|%B|%S|%r"
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,253}")
_JOB_ID = re.compile(r"[0-9]{1,20}(_[0-9]{1,10})?")
"""One of an array is named after the array and its place in it."""


@dataclass(frozen=True, slots=True)
class Slurm:
    """Slurm behind the common interface."""

    prefix: str
    ask: Ask
    _together: CoalescingLookup[Sequence[Project]] = field(init=False)

    def __post_init__(self) -> None:
        """Frozen, hence the long way."""
        budget = Bucket(QUESTIONS_PER_MINUTE, QUESTIONS_AT_ONCE)
        object.__setattr__(self, "_together", CoalescingLookup(self._associations, budget, EVERYBODY_SECONDS))

    def _program(self, name: str) -> str:
        return f"{self.prefix.rstrip('/')}/{name}"

    async def jobs(self, job_ids: Collection[str] | None = None) -> Mapping[str, JobState]:
        """One squeue for all the hub's jobs, whichever are asked about, with those that ended within MinJobAge."""
        argv = (self._program("squeue"), "--noheader", "--states=all", f"--name={JOB_NAME}", f"--format={_JOBS_FORMAT}")
        return parse_jobs(await self.ask(argv))

    async def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        """One sacct for the given ids."""
        if not job_ids:
            return {}
        argv = (
            self._program("sacct"), "--noheader", "--parsable2", "--allocations", "--duplicates",
            f"--jobs={','.join(sorted(job_ids))}", "--format=JobID,User,State,NodeList,Start,Reason",
        )  # fmt: skip
        return parse_jobs(await self.ask(argv))

    async def tags(self, user: str) -> Mapping[str, str]:
        """One squeue for the user's own jobs, and their comments."""
        argv = (
            self._program("squeue"), "--noheader", "--states=all", f"--name={JOB_NAME}", f"--user={user}",
            "--format=%i|%k",
        )  # fmt: skip
        return parse_tags(await self.ask(argv))

    async def own(self, user: str) -> Mapping[str, tuple[JobState, str]]:
        """One squeue for all the user's jobs, with those that ended within MinJobAge, and their comments."""
        argv = (
            self._program("squeue"), "--noheader", "--array", "--states=all", f"--user={user}",
            f"--format={_JOBS_FORMAT}|%k",
        )  # fmt: skip
        return parse_own(await self.ask(argv), user)

    async def places(self) -> Mapping[str, Place]:
        """One squeue for all jobs that wait, those with the highest priority first."""
        argv = (self._program("squeue"), "--noheader", "--states=PENDING", "--sort=-p,i", "--format=%i|%P")
        return parse_places(await self.ask(argv))

    async def queues(self) -> Mapping[str, Queue]:
        """scontrol for limits and access lists, sinfo for what one node has."""
        partitions = await self.ask((self._program("scontrol"), "--oneliner", "show", "partition"))
        nodes = await self.ask((self._program("sinfo"), "--noheader", "--format=%R|%c|%m|%G"))
        return parse_partitions(partitions, parse_nodes(nodes))

    async def projects(self, user: str, groups: Collection[str]) -> Sequence[Project]:
        """The user's associations by sacctmgr, or everybody's when many ask; groups do not matter here."""
        return await self._together.get(user) or []

    async def _associations(self, user: str) -> Mapping[str, Sequence[Project]]:
        about = (f"user={user}",) if user else ()
        argv = (
            self._program("sacctmgr"), "--noheader", "--parsable2", "--readonly", "show", "associations",
            *about, "format=Account,Partition,QOS,User",
        )  # fmt: skip
        return await asyncio.to_thread(parse_associations, await self.ask(argv))  # everybody's may be long

    async def reservations(self) -> Sequence[Reservation]:
        """scontrol's list of reservations."""
        return parse_reservations(await self.ask((self._program("scontrol"), "--oneliner", "show", "reservation")))

    def explain(self, job: JobState) -> str:
        """Reason or end in plain words; what is not known is shown as it is."""
        if job.phase is Phase.WAITING:
            return slurm_reason(job.reason)
        if job.phase is Phase.RUNNING and job.state in ("SUSPENDED", "STOPPED"):
            return "The scheduler has suspended it."
        if job.phase is not Phase.ENDED:
            return ""
        why = slurm_reason(job.reason) if job.state == "FAILED" and job.reason else ""
        return f"{ENDS.get(job.state, f'The job ended: {job.state}.')} {why}".strip()


def phase_of(state: str) -> Phase:
    """The phase of a state's long name. An unknown state counts as running: a live job must not be taken for dead."""
    return PHASES.get(state.split(" ", 1)[0].rstrip("+"), Phase.RUNNING)


def parse_jobs(text: str) -> dict[str, JobState]:
    """Lines of `id|user|state|node|start|reason`, from squeue and sacct alike; of an id the last line counts."""
    jobs = (_job(line.split("|", 5)) for line in text.splitlines())
    return {job.job_id: job for job in jobs if job}


def parse_tags(text: str) -> dict[str, str]:
    """Lines of `squeue --format=%i|%k` about one user, as {job id: comment}."""
    pairs = (line.split("|", 1) for line in text.splitlines() if "|" in line)
    return {job_id: tag.strip() for job_id, tag in pairs if _JOB_ID.fullmatch(job_id)}


def parse_own(text: str, user: str) -> dict[str, tuple[JobState, str]]:
    """Lines of `id|user|state|node|start|reason|comment` about one user, as {job id: job and comment}."""
    lines = [line.split("|", 6) for line in text.splitlines()]
    jobs = [(_job(fields[:6]), fields[6].strip()) for fields in lines if len(fields) == 7]
    return {job.job_id: (job, tag) for job, tag in jobs if job and job.user == user}


def parse_places(text: str) -> dict[str, Place]:
    """Lines of `squeue --format=%i|%P`, the next to start first; an array counts as one job."""
    pairs = (line.strip().split("|", 1) for line in text.splitlines() if "|" in line)
    return places([(job_id, queue) for job_id, queue in pairs])


def parse_nodes(text: str) -> dict[str, tuple[int, int, int]]:
    """Lines of `sinfo --format=%R|%c|%m|%G`, as {partition: (cores, MiB, GPUs)} of its largest nodes."""
    largest: dict[str, tuple[int, int, int]] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 4:
            continue
        found = (_number(fields[1]) or 0, _number(fields[2]) or 0, _gpus(fields[3]))
        before = largest.get(fields[0], (0, 0, 0))
        largest[fields[0]] = (max(before[0], found[0]), max(before[1], found[1]), max(before[2], found[2]))
    return largest


def parse_partitions(text: str, nodes: Mapping[str, tuple[int, int, int]]) -> dict[str, Queue]:
    """Lines of `scontrol --oneliner show partition`, with the sizes of `parse_nodes`."""
    queues = {}
    for fields in _records(text, "PartitionName"):
        name = fields["PartitionName"]
        cores, memory, gpus = nodes.get(name, (0, 0, 0))
        per_node = [n for n in (_number(fields.get("MaxCPUsPerNode", "")), cores) if n]
        per_memory = [n for n in (_number(fields.get("MaxMemPerNode", "")), memory) if n]
        queues[name] = Queue(
            name=name,
            up=fields.get("State", "UP") == "UP",
            max_walltime_minutes=_limit(fields),
            max_cores=min(per_node, default=None),
            max_memory_mib=min(per_memory, default=None),
            max_gpus=gpus,
            allow_projects=_allowed(fields.get("AllowAccounts")),
            deny_projects=_list(fields.get("DenyAccounts")),
            allow_groups=_allowed(fields.get("AllowGroups")),
            allow_qos=_allowed(fields.get("AllowQos")),
            deny_qos=_list(fields.get("DenyQos")),
        )
    return queues


def parse_associations(text: str) -> dict[str, list[Project]]:
    """Lines of `sacctmgr --parsable2 show associations format=Account,Partition,QOS,User`, by user."""
    queues: dict[str, dict[str, frozenset[str] | None]] = {}
    qos: dict[tuple[str, str], frozenset[str]] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 4 or not fields[3] or not fields[0]:
            continue
        account, partition, names, user = fields
        mine = queues.setdefault(user, {})
        earlier = mine.get(account, frozenset())
        mine[account] = None if not partition or earlier is None else earlier | {partition}
        qos[user, account] = qos.get((user, account), frozenset()) | _list(names)
    return {
        user: [Project(name, mine[name], qos[user, name]) for name in sorted(mine)] for user, mine in queues.items()
    }


def parse_reservations(text: str) -> list[Reservation]:
    """Lines of `scontrol --oneliner show reservation`."""
    return [
        Reservation(
            name=fields["ReservationName"],
            active=fields.get("State") == "ACTIVE",
            maintenance="MAINT" in fields.get("Flags", "").split(","),
            users=_kept(fields.get("Users")),
            denied_users=_denied(fields.get("Users")),
            projects=_kept(fields.get("Accounts")),
            denied_projects=_denied(fields.get("Accounts")),
            groups=_list(fields.get("Groups")),
            queue=next(iter(_list(fields.get("PartitionName"))), None),
            start=_time(fields.get("StartTime", "")),
            end=_time(fields.get("EndTime", "")),
        )
        for fields in _records(text, "ReservationName")
    ]


def _job(fields: list[str]) -> JobState | None:
    """(id, user, state, node, start, reason); None for a line of another kind."""
    if len(fields) != 6 or not _JOB_ID.fullmatch(fields[0]):
        return None
    job_id, user, state, node, start, reason = (field.strip() for field in fields)
    phase = phase_of(state)
    named = node if phase is not Phase.WAITING and _NODE.fullmatch(node) else None
    return JobState(
        job_id=job_id,
        user=user,
        phase=phase,
        state=state.split(" ", 1)[0].rstrip("+"),  # sacct prints "CANCELLED by 1000"
        node=None if named in ("n", "None") else named,
        reason="" if reason in ("None assigned", "None") and phase is not Phase.WAITING else reason,
        start=_time(start),
    )


def _records(text: str, key: str) -> Iterable[dict[str, str]]:
    """Lines of `key=value key=value`; a text without records (as `No reservations in the system`) has none."""
    for line in text.splitlines():
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if key in fields:
            yield fields
        elif line.strip() and not line.startswith("No "):
            raise SchedulerUnavailable(f"cannot read this line of scontrol: {line[:200]}")


def _limit(partition: Mapping[str, str]) -> int | None:
    """Minutes that a job may take; None for UNLIMITED."""
    return durations.minutes(durations.of_days(partition.get("MaxTime", "UNLIMITED")))


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def _gpus(gres: str) -> int:
    """GPUs in a GRES list as `gpu:2,shard:8` or `gpu:a100:4(S:0-1)`."""
    counts = re.findall(r"(?:^|,)gpu(?::[A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*)?:(\d+)", gres)
    return sum(map(int, counts))


def _list(text: str | None) -> frozenset[str]:
    return frozenset(part for part in (text or "").split(",") if part and part not in ("(null)", "N/A"))


def _allowed(text: str | None) -> frozenset[str] | None:
    return None if text in (None, "", "ALL", "(null)") else _list(text)


def _kept(text: str | None) -> frozenset[str]:
    return frozenset(name for name in _list(text) if not name.startswith("-"))


def _denied(text: str | None) -> frozenset[str]:
    return frozenset(name[1:] for name in _list(text) if name.startswith("-"))


def _time(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[1-9]\d{0,11}", text) else None


def _batch_run(order: BatchRunOrder) -> list[str]:
    directives = [
        "--job-name=hpchub-batch",
        f"--partition={order.queue}",
        f"--ntasks={order.tasks}",
        f"--cpus-per-task={order.cores}",
        f"--mem-per-cpu={-(-order.memory_mib // order.cores)}M",
        f"--time={order.walltime_minutes}",
        "--output=job.log",
        "--export=NIL",
        "--no-requeue",
    ]
    return [*directives, *([f"--account={order.project}"] if order.project else [])]


def _dask_options(mark: str, header: str, queue: str, reservation: str) -> list[str]:
    """The mark before what the user wrote into the comment, and the session's reservation in the session's queue."""
    theirs = re.findall(r"(?m)^#SBATCH --comment[= ](.*)$", header)
    held = reservation and f"#SBATCH -p {queue}" in header.splitlines() and "--reservation" not in header
    return [f"--comment={' '.join([mark, *theirs[-1:]])}", *([f"--reservation={reservation}"] if held else [])]


def _limits(prefix: str) -> tuple[str, ...]:
    return f"{prefix}/scontrol", "show", "partition", "--oneliner"


def queue_limits(output: str) -> dict[str, int | None]:
    """`scontrol show partition --oneliner`, as {partition: minutes, None if unlimited}. Raises SchedulerUnavailable."""
    return {name: queue.max_walltime_minutes for name, queue in parse_partitions(output, {}).items()}


QUESTIONS = Slurm
DIALECT = Dialect(
    name="slurm",
    orders=ORDERS,
    directive="#SBATCH",
    batch_run=_batch_run,
    wall_time=re.compile(r"^#SBATCH\s+(?:-t\s*|--time[=\s])(\S+)", re.MULTILINE),
    seconds=durations.of_days,
    variables=JobVariables(
        job_id="SLURM_JOB_ID",
        queue="SLURM_JOB_PARTITION",
        project="SLURM_JOB_ACCOUNT",
        array=("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"),
        leaking=("SLURM_EXPORT_ENV", "SLURM_GET_USER_ENV"),  # of srun
        of_submission=("SLURM_", "SBATCH_"),
    ),
    # Seconds since the epoch, so that nobody has to guess a time zone.
    command_variables={"SLURM_TIME_FORMAT": "%s"},
    dask=DaskJobs(
        section="slurm",
        cluster_class="SLURMCluster",
        keys=("job-cpu", "job-mem"),
        options=_dask_options,
        reservation_directive="--reservation={}".format,
    ),
    arrays=JobArrays(
        option=lambda count: f"--array=0-{count - 1}",
        place="SLURM_ARRAY_TASK_ID",
        member=lambda array, place: f"{array}_{place}",
        # %J is another number in an array than the one by which the job is known.
        log=(re.compile(r"(?m)^(#SBATCH -[eo] .*-)%J\."), r"\1%A_%a."),
    ),
    tasks=TaskLauncher(
        program="srun",
        # A worker that dies is no reason to end the others.
        options=lambda count: ("--ntasks", str(count), "--kill-on-bad-exit=0", "--unbuffered"),
        runner=("dask_jobqueue.slurm", "SLURMRunner"),
    ),
    limits=_limits,
    queue_limits=queue_limits,
)
