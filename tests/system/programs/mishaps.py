"""Alice's clusters outside the hub, of the batch system and class that the arguments name.

What she sees when workers die or leave; prints one JSON object at the end.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from hpchub.lab import dask as own

HOME = Path.home()
LOGS = HOME / ".local/state/hpchub"
LOGS.mkdir(parents=True, exist_ok=True)
site = own.read_site(Path("/opt/hpchub/etc/dask"))
scheduler, kind = sys.argv[1:]
session = own.Session(scheduler, "climate", "interactive", None, "", str(LOGS))
os.environ["DASK_ROOT_CONFIG"] = str(own.write_session(HOME / ".local/share/hpchub/dask", session, site))

import dask  # noqa: E402 - it reads its configuration when it is imported
import dask_jobqueue  # noqa: E402
import xarray as xr  # noqa: E402
from distributed import Client, Worker, wait  # noqa: E402

from hpchub.lab.session import batch_system  # noqa: E402
from hpchub.scheduler import Phase  # noqa: E402

Cluster = getattr(dask_jobqueue, kind)
seen = {}
size = {"cores": 1, "memory": "2GiB"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_the_middle(client: Client, cluster: dask_jobqueue.JobQueueCluster) -> None:
    """The intra-ensemble range, with one worker killed while it computes."""
    winters = xr.open_zarr("/opt/hpchub/data/ensemble.zarr").t_mean.mean("time")
    spread = winters.max("member") - winters.min("member")
    truth = spread.compute(scheduler="threads")
    future = client.compute(spread)
    while not (busy := [worker for worker, tasks in client.processing().items() if tasks]):
        time.sleep(0.05)
    client.run(die, workers=busy[:1], on_error="ignore")
    seen["finished_before"] = future.done()
    seen["right"] = bool((future.result(timeout=180) == truth).all())


def three_deaths(client: Client, cluster: dask_jobqueue.JobQueueCluster) -> None:
    """A task that kills whoever runs it."""
    try:
        client.submit(die, key="die-1").result(timeout=180)
    except Exception as error:
        seen["killed"] = f"{type(error).__name__}: {error}"


def lives(job: str) -> bool:
    """Whether the batch system still has a job of alice's."""
    found = asyncio.run(batch_system().own(HOME.name)).get(job)
    return found is not None and found[0].phase is not Phase.ENDED


def drained(client: Client, cluster: dask_jobqueue.JobQueueCluster) -> None:
    """A worker whose lifetime ends, with results on it that nobody else has."""
    count = HOME / "count"

    def costly(number: int) -> int:
        with count.open("a") as file:
            file.write("1\n")
        return number

    (leaving,) = client.scheduler_info()["workers"]
    futures = client.map(costly, range(20), workers=[leaving], allow_other_workers=True)
    wait(futures)

    async def another() -> Worker:
        return await Worker(cluster.scheduler_address, nthreads=1, name="another", dashboard_address="127.0.0.1:0")

    client.sync(another)
    seen["before"] = sorted({worker for holders in client.who_has(futures).values() for worker in holders}) == [leaving]
    deadline = time.monotonic() + 120
    while leaving in client.scheduler_info()["workers"] and time.monotonic() < deadline:
        time.sleep(0.5)
    seen["left"] = leaving not in client.scheduler_info()["workers"]
    seen["sum"] = sum(client.gather(futures))
    seen["computed"] = len(count.read_text().splitlines())
    count.unlink()


with dask.config.set({"distributed.scheduler.allowed-failures": 2}):
    with Cluster(**size) as cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=120)
        killed_in_the_middle(client, cluster)
        three_deaths(client, cluster)
    lifetime = ["--lifetime", "15s", "--dashboard-address", "127.0.0.1:0"]
    with Cluster(**size, worker_extra_args=lifetime) as cluster, Client(cluster) as client:
        cluster.scale(1)
        client.wait_for_workers(1, timeout=120)
        seen["job"] = str(next(iter(cluster.workers.values())).job_id)
        drained(client, cluster)
        deadline = time.monotonic() + 60
        while lives(seen["job"]) and time.monotonic() < deadline:
            time.sleep(1)  # it ends by itself; closing would cancel it
print(json.dumps(seen))
sys.stdout.flush()
