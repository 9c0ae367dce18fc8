"""Which session a process belongs to, which Dask clusters run in it, and how their jobs are marked as its own.

A process of a Lab's own job that makes a cluster keeps one file about itself beside the Lab's other files on the node,
and one made elsewhere (by ssh, in a batch job) in its user's home. The mark of a job is the Lab's tag and the process:
by it the Lab ends what a killed kernel leaves behind, and the hub what a lost Lab does. Other jobs have no mark.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import dask.config

from hpchub.privileged import batch_systems
from hpchub.scheduler import Scheduler, registry

_keeping = Lock()


@dataclass(frozen=True, slots=True)
class Running:
    """A process with clusters: their schedulers' addresses, and for how many jobs they asked."""

    process: str
    addresses: tuple[str, ...]
    jobs: int


def setting(name: str, default: str = "") -> str:
    """A setting of the site or the session, from Dask's configuration."""
    return str(dask.config.get(f"hpchub.{name}", default) or default)


def batch_system() -> Scheduler | None:
    """The site's batch system; None if it is not known here."""
    name = setting("scheduler")
    return registry.questions(name, setting("scheduler-prefix", "/usr/bin")) if name in batch_systems.NAMES else None


def job_id(variables: Mapping[str, str] = os.environ) -> str:
    """The number of the job in which this process runs; "" outside of jobs."""
    return registry.job_id(variables)


def tag() -> str:
    """The tag of the session; "" for a job of its own that inherited the session's settings, and outside of one."""
    return setting("session.tag") if setting("session.job") == job_id() else ""


def began(pid: int) -> str:
    """When a process of this node began, in the kernel's ticks; "" if there is none. See proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def process() -> str:
    """This process on its node: no other one ever has the same name."""
    return f"{os.getpid()}.{began(os.getpid())}"


def alive(name: str) -> bool:
    """Whether the process of this name lives, on this node."""
    pid, _, ticks = name.partition(".")
    return pid.isdigit() and began(int(pid)) == ticks != ""


def mark() -> str:
    """What marks a job of this process as one of the session; "" if it is of none."""
    return f"{tag()}:{process()}:dask" if tag() else ""


def directory() -> Path:
    """Where processes keep their files, on this node or for this node."""
    if tag():
        return Path(os.environ["JUPYTER_RUNTIME_DIR"], "clusters")
    return Path.home() / ".local/share/hpchub/dask/clusters" / socket.gethostname()


def keep(addresses: tuple[str, ...], jobs: int) -> None:
    """Write the file of this process, or remove it if it has no cluster any more."""
    path = directory() / process()
    with _keeping:  # clusters live in a thread of their own
        if not addresses:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}")
        fresh.write_text(json.dumps({"addresses": addresses, "jobs": jobs}), encoding="ascii")
        fresh.replace(path)


def running() -> list[Running]:
    """All live processes with clusters; the files of dead ones are left to whoever cleans up after them."""
    found = []
    for path in sorted(directory().glob("[0-9]*")):
        try:
            kept = json.loads(path.read_text(encoding="ascii"))
            one = Running(path.name, tuple(kept["addresses"]), int(kept["jobs"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if alive(one.process):
            found.append(one)
    return found
