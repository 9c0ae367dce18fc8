"""Workers that share a job are forked from one process that has imported Dask, instead of importing it each anew.

A further worker then costs 0.1 processor seconds and 23 MiB, instead of 0.7 and 70. For the only worker of a job, the
process that forks would be a start more, so it keeps Dask's own way. A comfort: with a Dask that it does not fit each
worker is started on its own, and the log says so.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from importlib.util import find_spec
from types import ModuleType

METHOD = "distributed.worker.multiprocessing-method"
FLAG = "_forkserver_preload_set"
"""Of distributed.utils: whether somebody has said already what the process that forks imports."""
PRELOADED = (
    "bokeh.application.handlers.document_lifecycle",
    "distributed.cli.dask_worker",
    "distributed.dashboard.worker",
    "distributed.http.health",
    "distributed.http.statics",
    "distributed.http.worker.prometheus.core",
    "multiprocessing.popen_forkserver",
    "multiprocessing.synchronize",
    "numpy",
    "pandas",
    "tornado.platform.asyncio",
)
"""What each worker would import before its first task, by `python -X importtime`; Dask itself names less."""


def share(_nanny: ModuleType) -> None:
    """Look at the command line of `dask worker` when distributed.nanny is imported; what a user has set stays.

    Dask itself starts the process that forks, with the variables that workers need from their beginning: the seed of
    hashes, which has to be the same in all jobs, and one thread for numpy's own.
    """
    import dask.config
    import distributed.utils

    from hpchub.dask_jobs.patches import seam

    if "--nworkers" in sys.argv and dask.config.get(METHOD, "spawn") == "spawn":
        seam.find(distributed.utils, FLAG)
        dask.config.set({METHOD: "forkserver"})
        # While that process still imports, each worker that waits for it is three open files on their way to it, and
        # Linux lets no more be on their way than one process may have open (unix(7), ETOOMANYREFS).
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        multiprocessing.set_forkserver_preload([name for name in PRELOADED if find_spec(name.partition(".")[0])])
        # Dask would name others, and import them here too, to see whether they are there.
        vars(distributed.utils)[FLAG] = True
