"""What a job's script carries to the first program of the job: one definition for who writes and who reads it.

The job program writes `LabOrder` and hpchub.lab.start reads it; `hpchub batch` writes `BatchRunOrder` and
hpchub.batch_runs.job reads it. The hub's environment and the users' are switched one after the other, and jobs wait for
days: so an order says its version, and the version before this one is still read. A change of any field is a new
VERSION, with a sample in tests/unit/data/orders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from hpchub.privileged import batch_systems

VERSION = 2
"""Version 1 did not say so, and had the same fields."""


class UnreadableOrder(Exception):
    """The order is not one that this version reads; the text says why, and goes to the job's log."""


@dataclass(frozen=True)
class LabOrder:
    """A Lab: the hub's variables for it, PEM of key, certificate and authority, and its job as it was asked for.

    `tag` names it to the hub, no reservation is None, {home} and {user} stand in `log_directory`.
    """

    environment: dict[str, str]
    tls: dict[str, str]
    tag: str
    shared_prefix: str
    scheduler: str
    scheduler_prefix: str
    project: str
    queue: str
    reservation: str | None
    log_directory: str


@dataclass(frozen=True)
class BatchRunOrder:
    """What `hpchub batch` asked for. Memory is of one worker; no project is "". Launcher and directives are argv."""

    notebook: str
    scheduler: str
    queue: str
    project: str
    workers: int
    cores: int
    memory_mib: int
    walltime_minutes: int
    launcher: tuple[str, ...]
    mpi: bool
    shared_prefix: str
    directives: tuple[str, ...] = ()
    directory: str = ""

    @property
    def tasks(self) -> int:
        """The workers, one task for Dask's scheduler, and one for the notebook."""
        return self.workers + 2


Order = TypeVar("Order", LabOrder, BatchRunOrder)

# Annotations, and what JSON has for them.
_JSON: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "str | None": (str, type(None)),
    "dict[str, str]": (dict,),
    "tuple[str, ...]": (list,),
}


def write(order: LabOrder | BatchRunOrder) -> str:
    """The order as JSON: one line of ASCII, so no line of it can end a here-document early."""
    return json.dumps({"version": VERSION, **vars(order)}, ensure_ascii=True)


def read(kind: type[Order], text: str) -> Order:
    """An order of this version or the one before. Raises UnreadableOrder with a sentence."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UnreadableOrder(f"it is not JSON ({error}).") from None
    if type(data) is not dict:
        raise UnreadableOrder("it is not a JSON object.")
    version = data.pop("version", 1)
    if type(version) is not int or version < VERSION - 1:
        raise UnreadableOrder(f"it has version {version!r}, and this hpchub reads {VERSION - 1} and {VERSION}.")
    if version > VERSION:
        raise UnreadableOrder(f"it was submitted by a newer hpchub (version {version} of it). Please start again.")
    return kind(**_checked(kind, data))


def _checked(kind: type[Order], data: dict[str, Any]) -> dict[str, Any]:
    """The fields as the kind has them. Raises UnreadableOrder if they are not exactly its own, of its types."""
    known = {field.name: str(field.type) for field in fields(kind)}
    if data.keys() != known.keys():
        raise UnreadableOrder(f"it should have exactly the fields {', '.join(known)}.")
    wrong = [name for name, annotation in known.items() if type(data[name]) not in _JSON[annotation]]
    if wrong:
        raise UnreadableOrder(f"{', '.join(wrong)} of it is of another type.")
    if data["scheduler"] not in batch_systems.NAMES:
        raise UnreadableOrder(f"it is for the batch system {data['scheduler']!r}, which this hpchub does not know.")
    return {name: tuple(value) if type(value) is list else value for name, value in data.items()}
