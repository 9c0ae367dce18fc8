"""What a user reads when a worker dies: which worker, of which job, on which node, and where its log is.

As shipped Dask names an address, and that its tasks are run again it says in a log that dask-jobqueue silences. Put in
place when Dask is imported: see hpchub.dask_jobs.patches.import_hook. A comfort: a change that does not fit is left
out, and the log says so.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hpchub.scheduler import registry

LOG = "HPCHUB_LOG"
"""Names the log of processes whose standard error is none, but a pipe to it."""
_logger = logging.getLogger(__name__)


def whereabouts(_worker: object = None) -> dict[str, str]:
    """What a worker tells its scheduler when it registers; "" for what it does not know."""
    log = os.environ.get(LOG, "")
    if not log and stat.S_ISREG(os.fstat(2).st_mode):
        log = str(Path("/proc/self/fd/2").readlink())
    return {"node": os.uname().nodename, "job": registry.worker_job_id(os.environ), "log": log}


def describe(name: object, address: str, extra: Mapping[str, Any]) -> str:
    """Worker, job, node and log as part of a sentence."""
    known = extra.get("hpchub") or {}
    job = f", job {known['job']}" if known.get("job") else ""
    node = known.get("node") or address
    log = f"; its log is {known['log']}" if known.get("log") else ""
    return f"{name} (node {node}{job}{log})"


def killed(error: Any) -> str:  # noqa: ANN401 - KilledWorker's own attributes
    """What KilledWorker says."""
    last = error.last_worker
    return (
        f"The task {error.task!r} was tried {error.allowed_failures + 1} times, and each time the worker that ran it "
        f"died. The last one was {describe(last.name, last.address, last.extra or {})}. Most often a task needs more "
        "memory than its worker has, or the job's wall time was over."
    )


def tell(worker: ModuleType) -> None:
    """Change distributed.worker: each worker says where it is."""
    worker.DEFAULT_STARTUP_INFORMATION["hpchub"] = whereabouts


def quiet(batched: ModuleType) -> None:
    """Change distributed.batched: that a peer has closed is one line of a log, without a traceback as of a defect."""

    def without_traceback(record: logging.LogRecord) -> bool:
        if record.levelno <= logging.INFO:
            record.exc_info = None
        return True

    batched.logger.addFilter(without_traceback)


def remember(tcp: ModuleType) -> None:
    """Change distributed.comm.tcp: a listener that has stopped still knows where it listened.

    As shipped it does not, and raises ValueError where it warns of a TLS handshake that came too late.
    """
    original: Callable[[Any], tuple[str, int]] = tcp.BaseTCPListener.get_host_port

    @functools.wraps(original)
    def get_host_port(self: Any) -> tuple[str, int]:  # noqa: ANN401 - as upstream has it
        return original(self) if self.bound_address is None else self.bound_address[:2]

    tcp.BaseTCPListener.get_host_port = get_host_port


def explain(scheduler: ModuleType) -> None:
    """Change distributed.scheduler: KilledWorker says where to look."""
    scheduler.KilledWorker.__str__ = killed


def warn(name: object, address: str, extra: Mapping[str, Any], tasks: int) -> None:
    """Say in the log that a worker died which had so many tasks, and what becomes of them."""
    what = "1 task that it had is" if tasks == 1 else f"{tasks} tasks that it had are"
    _logger.warning("A Dask worker died: %s. The %s tried again elsewhere.", describe(name, address, extra), what)
