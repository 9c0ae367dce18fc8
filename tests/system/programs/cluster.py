"""Alice's program: a cluster of batch jobs, of the class that its argument names, and one made by hand, until it is
ended. Says so when both have workers."""

import signal
import sys

import dask_jobqueue
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with getattr(dask_jobqueue, sys.argv[1])() as jobs, LocalCluster(n_workers=1, threads_per_worker=1) as local:
        jobs.scale(jobs=1)
        for cluster in (jobs, local):
            Client(cluster).wait_for_workers(1, timeout=90)
        print("ready", jobs.dashboard_link, local.dashboard_link, flush=True)
        signal.pause()
