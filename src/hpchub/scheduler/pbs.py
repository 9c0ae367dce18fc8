"""PBS (OpenPBS 20 and later, PBS Professional): argument lists, and pure parsers of `qstat -F json` and `pbs_rstat`.

PBS has no list of projects. Until the site names another source, a user's projects are the groups of the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpchub.scheduler import JOB_NAME, Ask, JobState, Phase, Project, Queue, Reservation, SchedulerUnavailable

# PBS Professional Reference Guide, "Job States"; pbs_ifl.h JOB_STATE_*; array states do not occur.
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
}

# Beginnings of the scheduler's comments (pbs_sched, `translate_fail_code`).
REASONS: Mapping[str, str] = {
    "Not Running: Insufficient amount of resource": "It waits for free nodes.",
    "Not Running: Not enough free nodes available": "It waits for free nodes.",
    "Not Running: Draining system": "Other jobs are ahead of it in the queue.",
    "Not Running: User has reached": "You have as many running jobs as you may have.",
    "Not Running: Queue": "This queue has as many running jobs as it may have.",
    "Not Running: Job would conflict with reservation": "It waits for a reservation to end.",
    "Not Running: Job would cross": "It would not end before the next maintenance; ask for less time.",
    "Can Never Run": "No node has what it asks for; stop it and ask for less.",
    "Not Running: Host set": "It waits for free nodes.",
}

# Exit_status: 128 + signal for a killed script, below 0 for the server's own reasons (pbs_ifl.h JOB_EXEC_*).
_WALLTIME_EXIT = -29

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,253}")


@dataclass(frozen=True, slots=True)
class Pbs:
    """PBS behind the common interface."""

    prefix: str
    ask: Ask

    def _program(self, name: str) -> str:
        return f"{self.prefix.rstrip('/')}/{name}"

    async def jobs(self) -> Mapping[str, JobState]:
        """One qstat for all jobs; the hub's are picked by their name."""
        return parse_jobs(await self.ask((self._program("qstat"), "-f", "-F", "json")))

    async def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        """One qstat with history (-x); without job history PBS forgets, and then nothing is known."""
        if not job_ids:
            return {}
        return parse_jobs(await self.ask((self._program("qstat"), "-x", "-f", "-F", "json", *sorted(job_ids))))

    async def find(self, user: str, tag: str) -> str | None:
        """One qstat; the tag is the job's variable HPCHUB_TAG."""
        return parse_tags(await self.ask((self._program("qstat"), "-f", "-F", "json")), user).get(tag)

    async def queues(self) -> Mapping[str, Queue]:
        """One qstat -Q."""
        return parse_queues(await self.ask((self._program("qstat"), "-Q", "-f", "-F", "json")))

    async def projects(self, user: str, groups: Collection[str]) -> Sequence[Project]:
        """The user's groups."""
        return [Project(name) for name in sorted(groups)]

    async def reservations(self) -> Sequence[Reservation]:
        """One pbs_rstat."""
        return parse_reservations(await self.ask((self._program("pbs_rstat"), "-f")))

    def explain(self, job: JobState) -> str:
        """Reason or end in plain words; what is not known is shown as it is."""
        if job.phase is Phase.WAITING:
            plain = next((words for start, words in REASONS.items() if job.reason.startswith(start)), "")
            return plain or (f"The scheduler says: {job.reason}." if job.reason else "")
        if job.phase is Phase.RUNNING and job.state == "suspended":
            return "The scheduler has suspended it."
        return f"The job ended: {job.reason or job.state}." if job.phase is Phase.ENDED else ""


def parse_jobs(text: str) -> dict[str, JobState]:
    """`qstat -f -F json`, as {id: job} of the jobs that bear the hub's name."""
    return {
        job_id: _job(job_id, job)
        for job_id, job in _section(text, "Jobs").items()
        if isinstance(job, dict) and job.get("Job_Name") == JOB_NAME
    }


def parse_tags(text: str, user: str) -> dict[str, str]:
    """`qstat -f -F json`, as {tag: job id} of the user's jobs."""
    return {
        str(job["Variable_List"]["HPCHUB_TAG"]): job_id
        for job_id, job in _section(text, "Jobs").items()
        if isinstance(job, dict)
        and job.get("Job_Name") == JOB_NAME
        and _owner(job) == user
        and "HPCHUB_TAG" in (job.get("Variable_List") or {})
    }


def parse_queues(text: str) -> dict[str, Queue]:
    """`qstat -Q -f -F json`, execution queues only."""
    return {
        name: Queue(
            name=name,
            up=_true(queue.get("enabled")) and _true(queue.get("started")),
            max_walltime_minutes=_minutes(_resource(queue, "walltime")),
            max_cores=_integer(_resource(queue, "ncpus")),
            max_memory_mib=_mebibytes(_resource(queue, "mem")),
            max_gpus=_integer(_resource(queue, "ngpus")) or 0,
            allow_groups=_acl(queue, "acl_group_enable", "acl_groups"),
            allow_users=_acl(queue, "acl_user_enable", "acl_users"),
        )
        for name, queue in _section(text, "Queue").items()
        if isinstance(queue, dict) and queue.get("queue_type") == "Execution"
    }


def parse_reservations(text: str) -> list[Reservation]:
    """`pbs_rstat -f`: blocks of `key = value`, each opened by `Resv ID:`."""
    found = []
    for block in re.split(r"(?m)^Resv ID:", text)[1:]:
        fields = dict(re.findall(r"(?m)^\s*([A-Za-z_.]+) = (.*)$", block))
        users = frozenset(_plain(name) for name in _names(fields.get("Authorized_Users", "")) if name[0] != "-")
        found.append(
            Reservation(
                name=fields.get("queue", block.split()[0].split(".")[0]),
                active=fields.get("reserve_state") == "RESV_RUNNING",
                users=users,
                groups=frozenset(
                    _plain(name) for name in _names(fields.get("Authorized_Groups", "")) if name[0] != "-"
                ),
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


def _job(job_id: str, job: Mapping[str, Any]) -> JobState:
    phase, word = PHASES.get(str(job.get("job_state")), (Phase.RUNNING, str(job.get("job_state"))))
    node = str(job.get("exec_host", "")).split("/", 1)[0]
    exit_status = job.get("Exit_status")
    reason = str(job.get("comment", "")) if phase is Phase.WAITING else ""
    if phase is Phase.ENDED:
        reason = "it reached its wall time" if exit_status == _WALLTIME_EXIT else f"exit status {exit_status}"
    return JobState(
        job_id=job_id,
        user=_owner(job),
        phase=phase,
        state=word,
        node=node if phase is not Phase.WAITING and _NODE.fullmatch(node) else None,
        reason=reason,
        start=_date(str(job.get("estimated", {}).get("start_time", "") or job.get("stime", ""))),
    )


def _owner(job: Mapping[str, Any]) -> str:
    return str(job.get("Job_Owner", "")).split("@", 1)[0]


def _resource(queue: Mapping[str, Any], name: str) -> str:
    """A queue's limit on a whole job, else what one chunk may have."""
    return str((queue.get("resources_max") or {}).get(name, ""))


def _acl(queue: Mapping[str, Any], switch: str, names: str) -> frozenset[str] | None:
    if not _true(queue.get(switch)):
        return None
    return frozenset(_plain(name) for name in _names(str(queue.get(names, ""))) if name[0] != "-")


def _plain(name: str) -> str:
    """A name of an access list without its sign and host: `+alice@*`."""
    return name.lstrip("+").split("@")[0]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "t", "y")


def _integer(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _minutes(text: str) -> int | None:
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+)", text)
    if not match:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 60 + minutes + seconds // 60


def _mebibytes(text: str) -> int | None:
    """PBS sizes: 4gb, 4096mb, 100kb, 1tb, with w instead of b for words of 8 bytes; units are powers of 1024."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)([bw]?)", text.lower())
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
