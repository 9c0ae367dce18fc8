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

from hpchub.dask_jobs import configuration as own

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
from distributed import Client, Scheduler, Worker, wait  # noqa: E402

from hpchub.dask_jobs.session import batch_system  # noqa: E402
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


def drained(client: Client, cluster: dask_jobqueue.JobQueueCluster, alone: float) -> dict[str, object]:
    """A worker whose lifetime ends, with results that only it has; for `alone` seconds nobody can take them."""
    count = HOME / "count"

    def costly(number: int) -> int:
        with count.open("a") as file:
            file.write("1\n")
        return number

    def endless() -> None:
        while count.exists():
            time.sleep(0.2)

    job = str(next(iter(cluster.workers.values())).job_id)
    (leaving,) = client.scheduler_info()["workers"]
    futures = client.map(costly, range(20), workers=[leaving], allow_other_workers=True)
    wait(futures)
    told: dict[str, object] = {"before": {w for some in client.who_has(futures).values() for w in some} == {leaving}}
    time.sleep(alone)
    told["stayed"] = client.scheduler_info()["workers"][leaving]["status"] == "running"

    async def another() -> Worker:
        return await Worker(cluster.scheduler_address, nthreads=1, name="another", dashboard_address="127.0.0.1:0")

    taking = client.sync(another)
    long = client.submit(endless, workers=[leaving], allow_other_workers=True)
    deadline = time.monotonic() + 120
    while leaving in client.scheduler_info()["workers"] and time.monotonic() < deadline:
        time.sleep(0.5)
    told["left"] = leaving not in client.scheduler_info()["workers"]
    told["sum"] = sum(client.gather(futures))
    told["computed"] = len(count.read_text().splitlines())
    told["long"] = client.run_on_scheduler(goes_on, key=long.key)
    count.unlink()
    deadline = time.monotonic() + 60
    while lives(job) and time.monotonic() < deadline:
        time.sleep(1)  # it ends by itself; closing would cancel it
    client.sync(taking.close)
    return told | {"job": job}


def goes_on(key: str, dask_scheduler: Scheduler) -> bool:
    """Whether a task runs somewhere, and no worker's death is laid to its charge."""
    task = dask_scheduler.tasks[key]
    return task.state == "processing" and task.suspicious == 0


with dask.config.set({"distributed.scheduler.allowed-failures": 2}):
    with Cluster(**size) as cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=120)
        killed_in_the_middle(client, cluster)
        three_deaths(client, cluster)
    at_once = ["--lifetime", "15s", "--dashboard-address", "127.0.0.1:0"]
    for name, wish, alone in (
        ("a minute", {"walltime": "00:01:00"}, 0),
        ("an hour", {"walltime": "01:00:00", "worker_extra_args": at_once}, 20),
    ):
        with Cluster(**size, **wish) as cluster, Client(cluster) as client:
            cluster.scale(1)
            client.wait_for_workers(1, timeout=120)
            seen[name] = drained(client, cluster, alone)
print(json.dumps(seen))
sys.stdout.flush()
