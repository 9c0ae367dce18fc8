"""The batch systems that hpchub knows, by name, and what orders to one are made of.

A batch system is two modules of that name: `hpchub.privileged.<name>` ends with its `ORDERS` and has the standard
library only; `hpchub.scheduler.<name>` ends with its `DIALECT` and `QUESTIONS`. See hpchub.scheduler.registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

NAMES: tuple[str, ...] = ("slurm", "pbs")
"""All that `hpc_scheduler` may be. The choices of roles/preflight are held against it by a test."""


@dataclass(frozen=True)
class Job:
    """What the Lab's job asks for: wall time in minutes, memory in MiB; no reservation is None."""

    tag: str
    project: str
    queue: str
    walltime_minutes: int
    cores: int
    memory_mib: int
    gpus: int
    reservation: str | None


@dataclass(frozen=True, kw_only=True)
class Orders:
    """How jobs of one batch system are submitted and cancelled: argument lists, never a shell."""

    submit_command: tuple[str, ...]
    """Program and first options. With a script on stdin or as last argument it prints what `submitted` reads."""
    cancel_command: str
    """The program that ends the jobs whose ids are its arguments."""
    job_id: re.Pattern[str]
    """The whole of a job's id. It goes into argument lists and file names: no blank, no slash, no leading hyphen."""
    gone: re.Pattern[str]
    """Stands in each line of a cancel command that failed because its jobs are over."""
    submitted: Callable[[str], str]
    """The job's id in the submit command's standard output; checked by `job_id` afterwards."""
    lab_options: Callable[[Job, str, str], Sequence[str]]
    """Options of a Lab's job, from what it asks for, the user's home, and the directory of its log or /dev/null."""
    lab_log: str
    """The log's name in that directory; {} stands for the job's id."""

    def submit(self, prefix: str, job: Job, home: str, log: str) -> list[str]:
        """The command that submits a Lab's job; the script goes to its stdin. `log` is a directory, or /dev/null."""
        program, *options = self.submit_command
        return [f"{prefix}/{program}", *options, *self.lab_options(job, home, log)]

    def cancel(self, prefix: str, job_ids: Sequence[str]) -> list[str]:
        """The command that ends these jobs, of whatever kind."""
        return [f"{prefix}/{self.cancel_command}", *job_ids]

    def all_gone(self, words: str) -> bool:
        """Whether a command that failed to cancel says of all that it names that they are over."""
        return bool(words.strip()) and all(map(self.gone.search, words.strip().splitlines()))


def orders(name: str) -> Orders:
    """The orders of a batch system. Raises ValueError, and imports nothing, if it is not one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is no batch system that hpchub knows; write {' or '.join(NAMES)}")
    found: Orders = import_module(f"hpchub.privileged.{name}").ORDERS
    return found
