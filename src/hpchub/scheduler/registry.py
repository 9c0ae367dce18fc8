"""The batch systems by name: the one place that turns a name into what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from hpchub.privileged import batch_systems
from hpchub.scheduler import Ask, Scheduler
from hpchub.scheduler.dialect import Dialect


def dialect(name: str) -> Dialect:
    """The dialect of a batch system. Raises ValueError if it is not one that hpchub knows."""
    batch_systems.orders(name)  # refuses what is no name
    found: Dialect = import_module(f"hpchub.scheduler.{name}").DIALECT
    return found


def dialects() -> Iterator[Dialect]:
    """The dialects of all batch systems, for whoever is not told which one it is."""
    return map(dialect, batch_systems.NAMES)


def questions(name: str, prefix: str, ask: Ask | None = None) -> Scheduler:
    """What may be asked of a batch system whose commands are in the directory `prefix`.

    `ask` runs a command; left out, each gets at most 15 seconds and the environment that it needs. Raises ValueError
    if the name is not one that hpchub knows.
    """
    variables = dialect(name).command_variables
    if ask is None:
        from hpchub.scheduler.commands import asker  # with metrics: only who asks needs them

        ask = asker(variables=variables)
    found: Scheduler = import_module(f"hpchub.scheduler.{name}").QUESTIONS(prefix, ask)
    return found


def job_id(variables: Mapping[str, str]) -> str:
    """The id of the job in which a process with these variables runs, of whatever batch system; "" outside of jobs."""
    return next(filter(None, (one.job_id(variables) for one in dialects())), "")


def worker_job_id(variables: Mapping[str, str]) -> str:
    """As `job_id`; of one of an array as the user sees it in lists."""
    return next(filter(None, (one.worker_job_id(variables) for one in dialects())), "")
