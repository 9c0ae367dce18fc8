"""In the kernel of a batch job, the cluster that a notebook asks for is the job's own allocation.

Started in the place of `ipykernel_launcher`, before anything of the notebook: dask_jobqueue's classes for the batch
systems that hpchub knows become `Allocation`, so that a notebook which asks for jobs when a person runs it needs no
change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask.config
import dask_jobqueue
from distributed import Security
from distributed.core import rpc
from distributed.deploy.cluster import Cluster

from hpchub.scheduler.registry import dialects


class Allocation(Cluster):
    """The workers of this batch job: all there from its first cell, and until its end. Arguments change nothing."""

    def __init__(self, *_args: object, asynchronous: bool = False, loop: Any = None, **_asked: object) -> None:  # noqa: ANN401 - as upstream has it
        """Connect to the job's scheduler."""
        super().__init__(asynchronous=asynchronous, loop=loop)  # type: ignore[no-untyped-call]  # upstream has no types
        self.security = Security()
        self.worker_spec: dict[str, object] = {}  # jobs that this cluster has asked for
        self.scheduler_comm = rpc(
            dask.config.get("scheduler-address"), connection_args=self.security.get_connection_args("client")
        )
        if not self.called_from_running_loop:
            self._loop_runner.start()
            self.sync(self._start)

    def scale(self, n: int = 0, **_asked: object) -> None:
        """Say that there is nothing to scale."""
        count = len(self.scheduler_info["workers"])
        print(f"This batch job has {count} workers from beginning to end: scale and adapt change nothing here.")

    def adapt(self, *_args: object, **_asked: object) -> None:  # type: ignore[override]  # nothing adapts
        """Say that there is nothing to adapt."""
        self.scale()


def main() -> None:
    """Become the kernel."""
    if sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]  # as ipykernel_launcher does: the notebook's directory is for the notebook's imports
    for one in dialects():
        setattr(dask_jobqueue, one.dask.cluster_class, Allocation)
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
