"""Changes a few modules of Dask when they are imported, and imports nothing for it before.

Loaded by hpchub_guards.pth, so that no configuration of a user's loses it by accident. Before a change is made, what it
needs is looked at. Where that is not there as we know it, the module is not imported, if the change is one of
REQUIRED; any other is a comfort, and left out with a line in the log.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_HERE = "hpchub.dask_jobs.patches"
CHANGES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "dask.config": {f"{_HERE}.outside_lab:change": {"paths": "list"}},
    "distributed.batched": {f"{_HERE}.worker_loss:quiet": {"logger": "Logger"}},
    "distributed.comm.tcp": {f"{_HERE}.worker_loss:remember": {"BaseTCPListener.get_host_port": "(self)"}},
    "distributed.node": {f"{_HERE}.dashboard:change": {"HTTPServer": "class"}},
    "distributed.nanny": {f"{_HERE}.forkserver:share": {}},
    "distributed.worker": {
        f"{_HERE}.worker_loss:tell": {"DEFAULT_STARTUP_INFORMATION": "dict"},
        "hpchub.dask_jobs.lifetime:patient": {
            "Worker.close_gracefully": "(self, restart=None, reason='worker-close-gracefully')"
        },
    },
    "distributed.scheduler": {
        f"{_HERE}.worker_loss:explain": {"KilledWorker.__init__": "(self, task, last_worker, allowed_failures)"},
        f"{_HERE}.scheduler_plugin:attach": {
            "Scheduler.add_plugin": "(self, plugin, *, idempotent=False, name=None, **kwargs)"
        },
    },
    "dask_jobqueue.core": {
        "hpchub.dask_jobs.cluster:change": {
            "Job._submit_job": "(self, script_filename)",
            "Job._call": "(cmd, *, shell=False, **kwargs)",
            "Job._job_id_from_submit_output": "(self, out)",
            "JobQueueCluster._start": "(self)",
            "JobQueueCluster._close": "(self)",
            "JobQueueCluster._correct_state": "(self)",
            "JobQueueCluster._correct_state_internal": "(self)",
            "JobQueueCluster._update_worker_status": "(self, op, msg)",
        }
    },
    "dask_labextension.manager": {
        f"{_HERE}.panel:change": {"make_cluster_model": "(cluster_id, cluster_name, cluster, adaptive)"}
    },
}
"""Modules, the functions that get them, and what each needs there: names with their `seam.shape`."""
REQUIRED = frozenset(
    {
        f"{_HERE}.outside_lab:change",  # or Dask would talk without TLS outside of a Lab
        f"{_HERE}.dashboard:change",  # or dashboards would be open to everybody on their node
        "hpchub.dask_jobs.cluster:change",  # or jobs would have no mark, and nobody would end those that are left
    }
)
"""Changes without which the module is not imported."""


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for change, needs in CHANGES[module.__name__].items():
            try:
                apply(module, change, needs)
            except (AttributeError, ImportError) as error:
                if change in REQUIRED:
                    raise ImportError(refusal(module.__name__, error)) from error
                _left_out(change, module.__name__, error)


def apply(module: ModuleType, change: str, needs: Mapping[str, str]) -> None:
    """Make one change, if all that it needs is there. Raises ImportError if not."""
    from hpchub.dask_jobs.patches import seam

    for name, expected in needs.items():
        seam.check(module, name, expected)
    where, _, function = change.partition(":")
    getattr(importlib.import_module(where), function)(module)


def refusal(module: str, error: Exception) -> str:
    """Why a module is not imported, and what to do."""
    return (
        f"hpchub does not fit this release of {module.partition('.')[0]}, and without its change to {module} that is "
        f"not safe to use here: {error}. Use the release that hpchub came with."
    )


def _left_out(change: str, module: str, error: Exception) -> None:
    import logging  # Dask has imported it

    logging.getLogger(__name__).warning(
        "hpchub leaves %s as it is, without %s, because it does not fit this release: %s", module, change, error
    )


class Finder:
    """Finds a few modules where they always were, and leaves all others to the next finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the module as Python finds it, to be loaded by our loader."""
        found = PathFinder.find_spec(fullname, path, target) if fullname in CHANGES else None
        if found is not None and found.origin is not None:
            found.loader = _Loader(fullname, found.origin)
        return found


def install() -> None:
    """Look at imports from now on; does nothing where it is done."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


install()
