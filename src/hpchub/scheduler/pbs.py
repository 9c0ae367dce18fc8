"""PBS (OpenPBS 20 and later, PBS Professional): how it says things, argument lists of questions, and pure parsers.

Jobs are read from `qstat -f -w`: one attribute a line, line breaks written as \\n (qstat.c, convert_feed_chars). Its
JSON of 20.0 to 23.06 leaves a quote at the beginning of a value as it is, so a variable of one user could pretend to be
another user's job. Queues and nodes hold what administrators wrote, and are read from JSON.

PBS has no list of projects. Until the site names another source, a user's projects are the groups of the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpchub.privileged import durations
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.privileged.pbs import ORDERS
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
from hpchub.scheduler.dialect import DaskJobs, Dialect, JobVariables
from hpchub.scheduler.messages import pbs_reason

# All of job.h JOB_STATE_LTR_* in 20.0 to 23.06; meanings: `man pbs_job_attributes`, job_state. 0 stands for unknown.
PHASES: Mapping[str, tuple[Phase, str]] = {
    "Q": (Phase.WAITING, "queued"),
    "H": (Phase.WAITING, "held"),
    "W": (Phase.WAITING, "waiting for its time"),
    "T": (Phase.WAITING, "moving"),
    "M": (Phase.ENDED, "moved to another server"),
    "R": (Phase.RUNNING, "running"),
    "S": (Phase.RUNNING, "suspended"),
    "U": (Phase.RUNNING, "suspended"),
    "B": (Phase.RUNNING, "begun"),
    "E": (Phase.ENDING, "exiting"),
    "F": (Phase.ENDED, "finished"),
    "X": (Phase.ENDED, "finished"),
    "0": (Phase.RUNNING, "unknown"),
}

# Exit_status below 0: the server's own reasons (job.h JOB_EXEC_*); from 256 on: 256 + the signal that ended the script.
ENDS: Mapping[int, str] = {
    0: "The job ended by itself.",
    **dict.fromkeys((-1, -2, -3), "Its node could not start the job. Start again; it will get another node."),
    **dict.fromkeys((-4, -5, -6), "Its node was restarted. Start again; it will get another node."),
    -7: "The job could not be restarted. Start again.",
    -10: "Its node does not know your account. Please tell your help desk the node's name.",
    **dict.fromkeys((-11, -14, -15, -16, -18), "The job was requeued."),
    -12: "The job was checkpointed and ended.",
    -13: "Its node does not accept your password.",
    **dict.fromkeys((-17, -19, -22), "A rule of the site ended the job."),
    -20: "The job's node failed. Start again; it will get another node.",
    -21: "Its node is not set up safely. Please tell your help desk the node's name.",
    -23: "Its node got no Kerberos ticket of yours. Sign in again and start again.",
    **dict.fromkeys((-24, -25), "The job used more cores than it asked for. Start again with more."),
    **dict.fromkeys((-26, -27), "The job ran out of memory. Start again with more."),
    -28: "The job used all the CPU time that it may use.",
    -29: "The job reached its wall time.",
    -30: "The job's nodes could not reach each other. Start again.",
    256 + 15: "The job was cancelled.",
    256 + 9: "The job was killed: cancelled, or out of memory.",
}

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,253}")
# Status and words where not one of the jobs asked about is there (pbs_error.h: PBSE_UNKJOBID, PBSE_HISTJOBID).
_ALL_GONE = re.compile(r"qstat failed with status (153: qstat: Unknown Job Id|35: qstat: \S+ Job has finished)")
_JOB_ID = re.compile(r"[0-9]{1,18}(\[[0-9]*\])?(\.[A-Za-z0-9.-]{1,100})?")


@dataclass(slots=True)
class Pbs:
    """PBS behind the common interface."""

    prefix: str
    ask: Ask
    history: bool = True
    """Whether the server keeps jobs that ended (job_history_enable); what it answers tells."""

    def _program(self, name: str) -> str:
        return f"{self.prefix.rstrip('/')}/{name}"

    async def _about(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        """One qstat, and one request to the server (-E), for these jobs, whatever their names; some may be gone.

        With history (-x) it has those that ended too. A server that keeps none answers that with nothing.
        """
        if not job_ids:
            return {}
        try:
            if self.history:
                text = await self.ask((self._program("qstat"), "-x", "-E", "-f", "-w", *sorted(job_ids)))
                self.history = bool(text.strip())
            if not self.history:
                text = await self.ask((self._program("qstat"), "-E", "-f", "-w", *sorted(job_ids)))
        except SchedulerUnavailable as error:
            if _ALL_GONE.search(str(error)):
                return {}
            raise
        return {job_id: _job(job_id, job) for job_id, job in parse_records(text)}

    async def jobs(self, job_ids: Collection[str] | None = None) -> Mapping[str, JobState]:
        """One qstat for these jobs, else for all of the cluster; then the hub's are picked by their name.

        The poll asks about its own: on a machine with thousands of jobs the whole list is megabytes.
        """
        if job_ids is not None:
            return await self._about(job_ids)
        return parse_jobs(await self.ask((self._program("qstat"), "-f", "-w")))

    async def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        """As `jobs`: what PBS knows of them it has said. Without job history it forgets, and then nothing is known."""
        return await self._about(job_ids)

    async def tags(self, user: str) -> Mapping[str, str]:
        """One qstat for the user's own jobs; the tag is a job's variable HPCHUB_TAG."""
        return parse_tags(await self.ask((self._program("qstat"), "-u", user, "-f", "-w")), user)

    async def own(self, user: str) -> Mapping[str, tuple[JobState, str]]:
        """One qstat for the user's own jobs."""
        return parse_own(await self.ask((self._program("qstat"), "-u", user, "-f", "-w")), user)

    async def places(self) -> Mapping[str, Place]:
        """One qstat for a line about each job that does not run, in the order in which the server keeps them."""
        return parse_places(await self.ask((self._program("qstat"), "-i", "-w")))

    async def queues(self) -> Mapping[str, Queue]:
        """qstat -Q for limits and access lists, pbsnodes for what one node has."""
        queues = await self.ask((self._program("qstat"), "-Q", "-f", "-F", "json"))
        nodes = await self.ask((self._program("pbsnodes"), "-a", "-F", "json"))
        return parse_queues(queues, parse_nodes(nodes))

    async def projects(self, user: str, groups: Collection[str]) -> Sequence[Project]:
        """The user's groups."""
        return [Project(name) for name in sorted(groups)]

    async def reservations(self) -> Sequence[Reservation]:
        """One pbs_rstat."""
        return parse_reservations(await self.ask((self._program("pbs_rstat"), "-f")))

    def explain(self, job: JobState) -> str:
        """Reason or end in plain words; what is not known is shown as it is."""
        if job.phase is Phase.WAITING:
            if job.state == PHASES["W"][1]:
                return "Its earliest start has not come yet."
            return pbs_reason(job.reason)
        if job.phase is Phase.RUNNING and job.state == "suspended":
            return "The scheduler has suspended it."
        if job.phase is not Phase.ENDED:
            return ""
        status = int(job.reason) if re.fullmatch(r"-?[0-9]{1,4}", job.reason) else None
        if status is None:
            return "The job was cancelled before it ran." if job.state == "finished" else f"The job ended: {job.state}."
        return ENDS.get(status, f"The job ended with an error (exit status {status}).")


def parse_records(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`qstat -f -w` as (id, attributes); of an attribute the first line counts. Raises SchedulerUnavailable."""
    job_id, record = "", dict[str, str]()
    for line in text.split("\n"):  # nothing else ends a line here: not what str.splitlines takes for one
        if line.startswith("Job Id: "):
            if job_id:
                yield job_id, record
            job_id, record = line.removeprefix("Job Id: ").strip(), {}
            if not _JOB_ID.fullmatch(job_id):
                raise SchedulerUnavailable(f"cannot read this job id of qstat: {job_id[:80]!r}")
        elif line.startswith("    ") and job_id:
            name, _, value = line[4:].partition(" = ")
            record.setdefault(name, value)
        elif line.strip():
            raise SchedulerUnavailable(f"cannot read this line of qstat: {line[:80]!r}")
    if job_id:
        yield job_id, record


def parse_jobs(text: str) -> dict[str, JobState]:
    """`qstat -f -w`, as {id: job} of the jobs that bear the hub's name."""
    return {job_id: _job(job_id, job) for job_id, job in parse_records(text) if job.get("Job_Name") == JOB_NAME}


def parse_tags(text: str, user: str) -> dict[str, str]:
    """`qstat -f -w`, as {job id: tag} of the user's jobs that bear the hub's name."""
    return {
        job_id: _tag(job)
        for job_id, job in parse_records(text)
        if job.get("Job_Name") == JOB_NAME and _owner(job) == user and _tag(job)
    }


def parse_own(text: str, user: str) -> dict[str, tuple[JobState, str]]:
    """`qstat -f -w`, as {job id: job and tag} of all the user's jobs."""
    return {job_id: (_job(job_id, job), _tag(job)) for job_id, job in parse_records(text) if _owner(job) == user}


def parse_places(text: str) -> dict[str, Place]:
    """`qstat -i -w`, as the places of the jobs that are queued. What is too long for its column has no place."""
    rows = [line.split() for line in text.split("\n")]
    return places([(row[0], row[2]) for row in rows if len(row) >= 10 and row[-2] == "Q" and _JOB_ID.fullmatch(row[0])])


def parse_nodes(text: str) -> dict[str, tuple[int, int, int]]:
    """`pbsnodes -a -F json`, as {queue: (cores, MiB, GPUs)} of its largest nodes; "" is for nodes of all queues."""
    largest: dict[str, tuple[int, int, int]] = {}
    for node in _section(text, "nodes").values():
        if not isinstance(node, dict):
            continue
        has = node.get("resources_available") or {}
        found = (_integer(has.get("ncpus")) or 0, _mebibytes(has.get("mem")) or 0, _integer(has.get("ngpus")) or 0)
        for queue in (str(node.get("queue", "")), *_names(str(has.get("Qlist", "")))):
            before = largest.get(queue, (0, 0, 0))
            largest[queue] = (max(before[0], found[0]), max(before[1], found[1]), max(before[2], found[2]))
    return largest


def parse_queues(text: str, nodes: Mapping[str, tuple[int, int, int]]) -> dict[str, Queue]:
    """`qstat -Q -f -F json`, execution queues that jobs may be sent to, with the sizes of `parse_nodes`."""
    queues = {}
    for name, queue in _section(text, "Queue").items():
        if not isinstance(queue, dict) or queue.get("queue_type") != "Execution" or _true(queue.get("from_route_only")):
            continue
        cores, memory, gpus = nodes.get(name) or nodes.get("", (0, 0, 0))
        limits = queue.get("resources_max") or {}
        queues[name] = Queue(
            name=name,
            up=_true(queue.get("enabled")) and _true(queue.get("started")),
            max_walltime_minutes=_limit(queue),
            max_cores=_least(_integer(limits.get("ncpus")), cores),
            max_memory_mib=_least(_mebibytes(limits.get("mem")), memory),
            max_gpus=_least(_integer(limits.get("ngpus")), gpus) or 0,
            allow_groups=_acl(queue, "acl_group_enable", "acl_groups"),
            allow_users=_acl(queue, "acl_user_enable", "acl_users"),
            deny_groups=_acl(queue, "acl_group_enable", "acl_groups", "-") or frozenset(),
            deny_users=_acl(queue, "acl_user_enable", "acl_users", "-") or frozenset(),
        )
    return queues


def parse_reservations(text: str) -> list[Reservation]:
    """`pbs_rstat -f`: blocks of `key = value`, each opened by `Resv ID:`."""
    found = []
    for block in re.split(r"(?m)^Resv ID:", text)[1:]:
        fields = dict(re.findall(r"(?m)^\s*([A-Za-z_.]+) = (.*)$", block))
        users, groups = (_names(fields.get(f"Authorized_{who}", "")) for who in ("Users", "Groups"))
        found.append(
            Reservation(
                name=fields.get("queue", block.split()[0].split(".")[0]),
                active=fields.get("reserve_state") == "RESV_RUNNING",
                title=fields.get("Reserve_Name", "").replace("NULL", ""),
                users=frozenset(_plain(name) for name in users if name[0] != "-"),
                denied_users=frozenset(_plain(name) for name in users if name[0] == "-"),
                groups=frozenset(_plain(name) for name in groups if name[0] != "-"),
                both=bool(users and groups),
                maintenance=block.split()[0].startswith("M"),
                start=_date(fields.get("reserve_start", "")),
                end=_date(fields.get("reserve_end", "")),
            )
        )
    return found


def _section(text: str, key: str) -> dict[str, Any]:
    """One object of qstat's answer; an answer without it has none."""
    try:
        answer = json.loads(text, strict=False)  # PBS does not escape all control characters
    except ValueError as error:
        raise SchedulerUnavailable(f"cannot read the answer of qstat: {error}") from error
    section = answer.get(key, {}) if isinstance(answer, dict) else None
    if not isinstance(section, dict):
        raise SchedulerUnavailable("cannot read the answer of qstat: it is of another form")
    return section


def _job(job_id: str, job: Mapping[str, str]) -> JobState:
    phase, word = PHASES.get(job.get("job_state", "?"), (Phase.RUNNING, job.get("job_state", "?")))
    node = job.get("exec_host", "").split("/", 1)[0]
    reason = job.get("comment", "")
    if phase is Phase.ENDED:
        reason = job.get("Exit_status", "")
    expected = job.get("estimated.start_time") if phase is Phase.WAITING else job.get("stime")
    if job.get("job_state") == "W":
        expected = job.get("Execution_Time")
    return JobState(
        job_id=job_id,
        user=_owner(job),
        phase=phase,
        state=word,
        node=node if phase is not Phase.WAITING and _NODE.fullmatch(node) else None,
        reason=reason,
        start=_date(expected or ""),
    )


def _tag(job: Mapping[str, str]) -> str:
    tag = re.search(r"(?:^|,)HPCHUB_TAG=([A-Za-z0-9_.:-]+)(?:,|$)", job.get("Variable_List", ""))
    return tag[1] if tag else ""


def _owner(job: Mapping[str, str]) -> str:
    return job.get("Job_Owner", "").split("@", 1)[0]


def _least(limit: int | None, size: int) -> int | None:
    """A queue's own limit or the size of its nodes; 0 or None: not known."""
    return min((number for number in (limit, size or None) if number is not None), default=None)


def _acl(queue: Mapping[str, Any], switch: str, names: str, sign: str = "+") -> frozenset[str] | None:
    """Who is allowed (+) or refused (-); None without a list. A list of refusals alone admits nobody, as in PBS."""
    if not _true(queue.get(switch)):
        return None
    listed = _names(str(queue.get(names, "")))
    return frozenset(_plain(name) for name in listed if (name[0] == "-") == (sign == "-"))


def _plain(name: str) -> str:
    """A name of an access list without its sign and host: `+alice@*`."""
    return name.lstrip("+-").split("@")[0]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "t", "y")


def _integer(value: object) -> int | None:
    return int(str(value)) if re.fullmatch(r"[0-9]{1,9}", str(value)) else None


def _limit(queue: Mapping[str, Any]) -> int | None:
    """Minutes that a job may take; None without a limit."""
    limits = queue.get("resources_max") or {}
    return durations.minutes(durations.of_hours(str(limits.get("walltime", ""))))


def _mebibytes(value: object) -> int | None:
    """PBS sizes: 4gb, 4096mb, 100kb, 1tb, with w instead of b for words of 8 bytes; units are powers of 1024."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)([bw]?)", str(value).lower())
    if not match:
        return None
    number, unit, word = match.groups()
    factor: int = 1024 ** " kmgtp".index(unit or " ")
    return int(number) * factor * (8 if word == "w" else 1) // 1024**2


def _date(text: str) -> float | None:
    """PBS prints `Thu Nov  5 10:00:00 2026` in local time, or seconds."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").timestamp()
    except ValueError:
        return None


def _batch_run(order: BatchRunOrder) -> list[str]:
    directives = [
        "-N hpchub-batch",
        f"-q {order.queue}",
        f"-l select={order.tasks}:ncpus={order.cores}:mpiprocs=1:mem={order.memory_mib}mb",
        f"-l walltime={durations.hours(order.walltime_minutes)}",
        "-j oe",
        "-o job.log",
        "-k oed",
        "-r n",
    ]
    return [*directives, *([f"-A {order.project}"] if order.project else [])]


def _dask_options(mark: str, header: str, queue: str, reservation: str) -> list[str]:
    """The mark as a variable of the job, before those that the user wrote."""
    del queue, reservation  # a reservation is a queue
    theirs = re.findall(r"(?m)^#PBS -v *(.*)$", header)
    return ["-v", ",".join([f"HPCHUB_TAG={mark}", *theirs[-1:]])]


def _limits(prefix: str) -> tuple[str, ...]:
    return f"{prefix}/qstat", "-Q", "-f", "-F", "json"


def queue_limits(output: str) -> dict[str, int | None]:
    """`qstat -Q -f -F json`, as {queue: minutes, None without a limit}. Raises SchedulerUnavailable.

    As in the form, a queue that only routes jobs to others, or takes them from such queues alone, is left out.
    """
    return {name: queue.max_walltime_minutes for name, queue in parse_queues(output, {}).items()}


QUESTIONS = Pbs
DIALECT = Dialect(
    name="pbs",
    orders=ORDERS,
    directive="#PBS",
    batch_run=_batch_run,
    wall_time=re.compile(r"^#PBS\s+-l\s*(?:\S+,)?walltime=([^\s,]+)", re.MULTILINE),
    seconds=durations.of_hours,
    variables=JobVariables(job_id="PBS_JOBID", queue="PBS_QUEUE", project="PBS_ACCOUNT"),
    dask=DaskJobs(
        section="pbs",
        cluster_class="PBSCluster",
        keys=("resource-spec",),
        options=_dask_options,
        reservation_directive=None,
        # Else a log is kept on the node until the job is over, and who looks for it meanwhile finds none.
        live_log="-k oed",
    ),
    limits=_limits,
    queue_limits=queue_limits,
    set_uid_client=True,
)
