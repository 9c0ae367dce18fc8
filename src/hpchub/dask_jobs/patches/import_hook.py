"""Changes a few modules of Dask when they are imported, and imports nothing for it before.

Loaded by hpchub_guards.pth, so that no configuration of a user's loses it by accident.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

CHANGES: Mapping[str, Sequence[str]] = {
    "dask.config": ["hpchub.dask_jobs.patches.outside_lab:change"],
    "distributed.batched": ["hpchub.dask_jobs.patches.worker_loss:quiet"],
    "distributed.comm.tcp": ["hpchub.dask_jobs.patches.worker_loss:remember"],
    "distributed.node": ["hpchub.dask_jobs.patches.dashboard:change"],
    "distributed.nanny": ["hpchub.dask_jobs.patches.forkserver:share"],
    "distributed.worker": ["hpchub.dask_jobs.patches.worker_loss:tell", "hpchub.dask_jobs.lifetime:patient"],
    "distributed.scheduler": [
        "hpchub.dask_jobs.patches.worker_loss:explain",
        "hpchub.dask_jobs.patches.worker_pages:change",
    ],
    "distributed.http.scheduler.info": ["hpchub.dask_jobs.patches.worker_pages:route"],
    "dask_jobqueue.core": ["hpchub.dask_jobs.cluster:change"],
    "dask_labextension.manager": ["hpchub.dask_jobs.patches.panel:change"],
}
"""Modules, and the functions that get them."""


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for change in CHANGES[module.__name__]:
            where, _, function = change.partition(":")
            getattr(importlib.import_module(where), function)(module)


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
