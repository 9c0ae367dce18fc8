"""One task of a batch job: Dask's scheduler, a worker, or the notebook. dask-jobqueue's runner or dask-mpi decide.

The job's order comes in Dask's own configuration, and so do the keys: see hpchub.batch_runs.job.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import dask.config
import nbformat
from distributed import Client, Security
from distributed.core import rpc
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from hpchub.batch_runs.job import OUTCOME
from hpchub.scheduler.registry import dialect

PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
START_SECONDS = 300
LOOPBACK = "127.0.0.1:0"


def section(order: dict[str, Any]) -> dict[str, Any]:
    """What the site says about Dask jobs of this machine."""
    found: dict[str, Any] = dask.config.get(f"jobqueue.{dialect(order['scheduler']).dask.section}")
    return found


def main() -> int:
    """Be what the launcher makes of this task; gives an exit status if that is the notebook."""
    order = dask.config.get("hpchub.batch")
    site = section(order)
    common = {"interface": site.get("interface"), "protocol": "tls://"}
    place = site.get("local-directory") or ""  # the site's is the shell's, which has made it
    scratch = os.environ.get("HPCHUB_SCRATCH") if "HPCHUB_SCRATCH" in place else os.path.expandvars(place) or None
    dask.config.set({"temporary-directory": scratch})  # of the scheduler too: Dask's own place is one for all users
    worker = {
        "nthreads": order["cores"],
        "memory_limit": order["memory_mib"] * 2**20,
        "local_directory": scratch,
        "death_timeout": site.get("death-timeout"),
        "dashboard_address": LOOPBACK,
        **common,
    }
    tasks = dialect(order["scheduler"]).tasks
    if order["mpi"] or tasks is None:
        return mpi(order, common, worker)
    return own_launcher(order, tasks.runner, common, worker)


def mpi(order: dict[str, Any], common: dict[str, Any], worker: dict[str, Any]) -> int:
    """All tasks but the notebook's end in `initialize`."""
    from dask_mpi import initialize  # type: ignore[import-not-found]  # only the users' environment has it

    initialize(**common, dashboard_address=LOOPBACK, worker_class="distributed.Nanny", worker_options=worker, exit=True)
    return notebook(order, dask.config.get("scheduler-address"))


def own_launcher(order: dict[str, Any], runner: tuple[str, str], common: dict[str, Any], worker: dict[str, Any]) -> int:
    """All tasks but the notebook's end in the constructor of dask-jobqueue's class, `runner`: its module and name."""
    base: Any = getattr(import_module(runner[0]), runner[1])

    class Runner(base):  # type: ignore[misc]  # known when it runs
        async def before_client_start(self) -> None:
            """The runner's own connection knows of no keys."""
            self.scheduler_comm: Any = rpc(
                self.scheduler_address, connection_args=Security().get_connection_args("client")
            )

    with Runner(
        scheduler_file=f"{os.environ['DASK_ROOT_CONFIG']}/scheduler.json",
        scheduler_options={**common, "dashboard_address": LOOPBACK},
        worker_class="distributed.Nanny",
        worker_options=worker,
    ) as started:
        return notebook(order, started.scheduler_address)


def notebook(order: dict[str, Any], address: str) -> int:
    """Execute the notebook as soon as the workers are there."""
    with Client(address) as client:
        try:
            client.wait_for_workers(order["workers"], timeout=section(order).get("death-timeout") or 60)
        except TimeoutError:
            print("hpchub: not all workers have come, so it goes on with those that have.", flush=True)
        names = Counter(sorted(uname.nodename for uname in client.run(os.uname).values()))
        where = {
            "scheduler": client.run_on_scheduler(os.uname).nodename,
            "notebook": os.uname().nodename,
            "workers": dict(names),
        }
    if not names:
        print("hpchub: no worker has come.", flush=True)
        return 1
    os.environ["DASK_SCHEDULER_ADDRESS"] = address
    with tempfile.TemporaryDirectory(prefix="hpchub-") as runtime:
        Run(Path(order["directory"]), Path(order["notebook"]), where).execute(runtime)
    with Client(address) as client:
        # Or each tells in the log, at length, that it lost its scheduler.
        client.run(logging.disable, logging.CRITICAL)
        client.run(logging.disable, logging.CRITICAL, nanny=True)
        client.run_on_scheduler(logging.disable, logging.CRITICAL)
    return 0


class Manager(AsyncKernelManager):
    """Starts the kernel in which clusters are this allocation."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The one kernel that there is."""
        argv = [sys.executable, "-m", "hpchub.batch_runs.kernel", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class Run:
    """The notebook's run. After each cell, what there is so far is written, so the wall time takes nothing away."""

    def __init__(self, directory: Path, source: Path, where: dict[str, Any]) -> None:
        """Nothing has run; `directory` has the copy of `source` that will."""
        self._file = directory / source.name
        self._home = source.parent
        self._notebook = nbformat.read(self._file, as_version=4)
        self._session = Path(os.environ["DASK_ROOT_CONFIG"])
        self._outcome: dict[str, Any] = {"nodes": where, "cells": []}
        self._began = self._cell_began = time.monotonic()

    def execute(self, runtime: str) -> None:
        """Run cell by cell until one fails; the outcome is told in a file, not by an exception."""
        # Sockets that are files in a directory of the user's own.
        kernel = {"transport": "ipc", "connection_file": f"{runtime}/kernel.json"}
        self._tell()
        client = NotebookClient(
            self._notebook,
            timeout=None,
            startup_timeout=START_SECONDS,
            kernel_name="python3",
            config=Config({"KernelManager": kernel}),
            kernel_manager_class=Manager,
            resources={"metadata": {"path": str(self._home)}},
            on_cell_execute=self._cell_starts,
            on_cell_executed=self._cell_ends,
        )
        try:
            client.execute()
            self._outcome["done"] = True
        except CellExecutionError as error:
            self._outcome["failed"] = f"Cell {self._outcome['cell']} failed: {error.ename}: {error.evalue}"
        except DeadKernelError:
            self._outcome["failed"] = (
                f"The kernel died in cell {self._outcome['cell']}. Often it ran out of memory: see --memory."
            )
        except RuntimeError as error:  # of nbclient, about a kernel that does not start
            self._outcome["failed"] = f"The notebook could not be run: {error}."
        self._outcome["seconds"] = round(time.monotonic() - self._began, 1)
        self._tell()
        self._save()

    def _cell_starts(self, cell: NotebookNode, cell_index: int) -> None:
        del cell_index
        number = len(self._outcome["cells"]) + 1
        self._cell_began = time.monotonic()
        if number == 1:
            self._began = self._cell_began
        self._outcome["cell"] = f"[{number}] ({str(cell.source).strip().splitlines()[0][:60]})"
        self._tell()

    def _cell_ends(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        del cell, cell_index, execute_reply
        seconds = round(time.monotonic() - self._cell_began, 2)
        self._outcome["cells"].append(seconds)
        print(f"hpchub: cell {self._outcome['cell']}: {seconds} s", flush=True)
        self._save()

    def _tell(self) -> None:
        _replace(self._session / OUTCOME, json.dumps(self._outcome).encode())

    def _save(self) -> None:
        """The notebook, and every picture in it: <number of the code cell>-<number in the cell>.<kind>."""
        _replace(self._file, nbformat.writes(self._notebook).encode())
        for name, content in plots(self._notebook).items():
            path = self._file.parent / "plots" / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                _replace(path, content)


def plots(notebook: NotebookNode) -> dict[str, bytes]:
    """All pictures of a notebook by the names of their files."""
    found: dict[str, bytes] = {}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        data = [output["data"] for output in cell.get("outputs", []) if "data" in output]
        for place, one in enumerate(data, 1):
            for mime, ending in PICTURES.items():
                if mime in one:
                    content = "".join(one[mime])
                    binary = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
                    found[f"{number:02}-{place}.{ending}"] = binary
    return found


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
