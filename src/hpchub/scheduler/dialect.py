"""How one batch system says things, for whoever writes a job's script, runs in a job, or prepares a host.

Standard library only, so that a Lab, a kernel and a Dask worker can have it at no cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpchub.privileged import durations
from hpchub.privileged.batch_systems import Orders
from hpchub.privileged.job_order import BatchRunOrder


@dataclass(frozen=True, kw_only=True)
class JobVariables:
    """The names of the variables that a job has of the batch system; "" for one that there is not."""

    job_id: str
    queue: str = ""
    project: str = ""
    array: tuple[str, str] = ("", "")
    """The array's id, and the place in it, of a job that is one of an array."""
    leaking: tuple[str, ...] = ()
    """With these in its environment, a launcher in a job would start its tasks without the variables set there."""
    of_submission: tuple[str, ...] = ()
    """Beginnings of names: in a job they say what was asked for it, and the submit command would take them as asked."""


@dataclass(frozen=True, kw_only=True)
class JobArrays:
    """Many like jobs by one submission; the array counts from 0."""

    option: Callable[[int], str]
    """The submit command's option for so many jobs."""
    place: str
    """A job's place in its array, as a variable of its shell."""
    member: Callable[[str, object], str]
    """The id of a job, from the array's id and its place."""
    log: tuple[re.Pattern[str], str]
    """What in a script names a log after the job's id, and what does so in an array (as re.sub)."""


@dataclass(frozen=True, kw_only=True)
class TaskLauncher:
    """What starts the tasks of a batch run where MPI is not needed for it."""

    program: str
    options: Callable[[int], Sequence[str]]
    """For so many tasks, of which one may end before the others."""
    runner: tuple[str, str]
    """Module and class of dask-jobqueue by which each task learns what it is to be."""


@dataclass(frozen=True, kw_only=True)
class DaskJobs:
    """What dask-jobqueue has for this batch system, and what Dask jobs of a session need more."""

    section: str
    """In Dask's configuration, below jobqueue."""
    cluster_class: str
    """In the module dask_jobqueue."""
    keys: Sequence[str]
    """Keys of a section that only this batch system has; without a value here."""
    options: Callable[[str, str, str, str], Sequence[str]]
    """Options of the submit command that mark a job, given mark, the job's directives, the session's queue and
    reservation; a reservation only for that queue, and never against the user's own directive."""
    reservation_directive: Callable[[str], str] | None
    """The directive for a job in a reservation; None where a reservation is a queue."""
    project_key: str = "account"
    """The key of a section for the project to which jobs are charged."""
    wall_time: Callable[[int], str] = durations.hours
    """Minutes as a section's wall time, which is read by `Dialect.seconds`."""
    live_log: str = ""
    """The directive that has a log written where it belongs while the job runs; "" where it is so anyway."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """All that differs between batch systems but questions, orders and words."""

    name: str
    orders: Orders
    directive: str
    """What each directive of a job's script begins with."""
    batch_run: Callable[[BatchRunOrder], Sequence[str]]
    """The directives of a batch run. Its log is job.log in the directory from which it is submitted."""
    wall_time: re.Pattern[str]
    """A directive that asks for a wall time, which is its first group; for a whole script, with re.MULTILINE."""
    seconds: Callable[[str], float | None]
    """A duration in this batch system's words, in seconds; None if it has no end or cannot be read."""
    variables: JobVariables
    command_variables: Mapping[str, str] = field(default_factory=dict)
    """The environment that makes its commands print what the parsers read."""
    dask: DaskJobs
    arrays: JobArrays | None = None
    tasks: TaskLauncher | None = None
    """None: batch runs need MPI."""
    limits: Callable[[str], tuple[str, ...]]
    """The command that lists the queues, from the directory of its program."""
    queue_limits: Callable[[str], dict[str, int | None]]
    """What that command prints, as {queue: minutes that a job may take, None without a limit}."""
    set_uid_client: bool = False
    """Whether its commands prove who asks by a set-uid program, which binds a port below 1024."""

    @property
    def submit_program(self) -> str:
        """The name of the submit command."""
        return self.orders.submit_command[0]

    def job_id(self, variables: Mapping[str, str]) -> str:
        """The id of the job in which a process with these variables runs; "" outside of one."""
        return variables.get(self.variables.job_id, "")

    def worker_job_id(self, variables: Mapping[str, str]) -> str:
        """As `job_id`; of one of an array as the user sees it in lists, and can cancel it."""
        of_array = [variables.get(name, "") for name in self.variables.array]
        return self.arrays.member(*of_array) if self.arrays and all(of_array) else self.job_id(variables)

    def directives(self, given: Sequence[str]) -> list[str]:
        """Lines of a script."""
        return [f"{self.directive} {one}" for one in given]
