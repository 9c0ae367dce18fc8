"""What a batch system can be asked, and how it says things. All are equals behind `Scheduler` and `Dialect`.

Submitting and cancelling need the user's rights: those orders are in `hpchub.privileged`; the hub itself asks,
unprivileged. To add a batch system: hpchub.privileged.batch_systems says which two modules it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

JOB_NAME = "hpchub"
"""The name of every job of the hub; by it one question finds them all."""


class SchedulerUnavailable(Exception):
    """No usable answer; it says nothing about any job. The text is for the log, not for users."""


class Phase(Enum):
    """Where a job is in its life."""

    WAITING = "waiting"
    """In the queue, or held, or being prepared; it will run."""
    RUNNING = "running"
    """On its node, or suspended there."""
    ENDING = "ending"
    """Not usable any more, not gone yet."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class JobState:
    """One job as the scheduler sees it."""

    job_id: str
    user: str
    phase: Phase
    state: str
    """The scheduler's own word."""
    node: str | None = None
    """The node of the batch script; only while the job runs."""
    reason: str = ""
    """Why it waits or how it ended, in the scheduler's own word."""
    start: float | None = None
    """Seconds since the epoch: expected start while waiting, start afterwards."""


@dataclass(frozen=True, slots=True)
class Place:
    """How many jobs of a queue wait, and the place among them by the scheduler's present order."""

    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is now. None means: no limit known, or everybody."""

    name: str
    up: bool = True
    max_walltime_minutes: int | None = None
    max_cores: int | None = None
    max_memory_mib: int | None = None
    max_gpus: int = 0
    allow_projects: frozenset[str] | None = None
    deny_projects: frozenset[str] = frozenset()
    allow_groups: frozenset[str] | None = None
    allow_users: frozenset[str] | None = None
    deny_groups: frozenset[str] = frozenset()
    deny_users: frozenset[str] = frozenset()
    allow_qos: frozenset[str] | None = None
    deny_qos: frozenset[str] = frozenset()

    def admits(self, user: str, groups: Collection[str], project: Project) -> bool:
        """Whether this user may use the queue with this project."""
        return (
            self.up
            and (project.queues is None or self.name in project.queues)
            and (self.allow_projects is None or project.name in self.allow_projects)
            and project.name not in self.deny_projects
            and (self.allow_groups is None or not self.allow_groups.isdisjoint(groups))
            and (self.allow_users is None or user in self.allow_users)
            and self.deny_groups.isdisjoint(groups)
            and user not in self.deny_users
            and (self.allow_qos is None or not project.qos or not self.allow_qos.isdisjoint(project.qos))
            and (not project.qos or not project.qos <= self.deny_qos)
        )


@dataclass(frozen=True, slots=True)
class Project:
    """To whom the time is charged (Slurm: account) and what it may use."""

    name: str
    queues: frozenset[str] | None = None
    qos: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes set aside for some."""

    name: str
    active: bool
    users: frozenset[str] = frozenset()
    denied_users: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    denied_projects: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    title: str = ""
    """What it is called, if that is not its name: PBS makes up the names."""
    both: bool = False
    """PBS: with users and groups, one must be in both lists; Slurm has either."""
    queue: str | None = None
    maintenance: bool = False
    """It keeps jobs away, and is for nobody."""
    start: float | None = None
    end: float | None = None
    """Seconds since the epoch."""

    def admits(self, user: str, groups: Collection[str], project: str) -> bool:
        """Whether a job of this user and project may use it.

        Users or groups, and projects: who is named in both lists must match both (Slurm, `man scontrol`, Users=).
        """
        people = bool(self.users or self.groups)
        listed = user in self.users, not self.groups.isdisjoint(groups)
        return (
            self.active
            and not self.maintenance
            and bool(people or self.projects or self.denied_users or self.denied_projects)
            and (not people or (all(listed) if self.both else any(listed)))
            and (not self.projects or project in self.projects)
            and user not in self.denied_users
            and project not in self.denied_projects
        )


def places(waiting: Sequence[tuple[str, str]]) -> dict[str, Place]:
    """(job id, queue) of jobs that wait, the next one first, as places."""
    total = Counter(queue for _, queue in waiting)
    passed: Counter[str] = Counter()
    found = {}
    for job_id, queue in waiting:
        passed[queue] += 1
        found[job_id] = Place(passed[queue], total[queue])
    return found


def of_session(own: Mapping[str, tuple[JobState, str]], tag: str) -> list[str]:
    """Of a user's own jobs the ids of those that live and whose tag begins with `tag` and a colon."""
    alive = (Phase.WAITING, Phase.RUNNING)
    return [job_id for job_id, (job, has) in own.items() if job.phase in alive and has.startswith(f"{tag}:")]


Ask = Callable[[Sequence[str]], Awaitable[str]]
"""Runs an argument list and returns its standard output; raises SchedulerUnavailable."""


class Scheduler(Protocol):
    """A batch system. Every method asks once or twice and raises SchedulerUnavailable without an answer."""

    async def jobs(self, job_ids: Collection[str] | None = None) -> Mapping[str, JobState]:
        """The jobs of the hub, of all users, by id, with those that ended a moment ago.

        Asked about `job_ids`, it may leave out the others.
        """

    async def ended(self, job_ids: Collection[str]) -> Mapping[str, JobState]:
        """What the accounting knows of jobs that are no longer listed."""

    async def tags(self, user: str) -> Mapping[str, str]:
        """The tags of this user's own jobs, by id. A user can write them, so they say nothing about anybody else."""

    async def own(self, user: str) -> Mapping[str, tuple[JobState, str]]:
        """All of this user's jobs, of whatever name, with their tags, by id. As with `tags`, a user can write them."""

    async def places(self) -> Mapping[str, Place]:
        """The places of all jobs that wait, whosever they are, by id."""

    async def queues(self) -> Mapping[str, Queue]:
        """All queues, by name."""

    async def projects(self, user: str, groups: Collection[str]) -> Sequence[Project]:
        """The user's own projects."""

    async def reservations(self) -> Sequence[Reservation]:
        """All reservations, for whomever."""

    def explain(self, job: JobState) -> str:
        """Why the job waits, or how it ended, as a sentence for its owner."""
