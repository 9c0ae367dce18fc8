"""Measures Dask clusters of batch jobs as alice: `dask_speed.py ours|stock WHAT [N]`; prints one JSON object.

Ours is the site's configuration in a session of its own; stock is dask-jobqueue with its own defaults, so plain tcp.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WHOSE, WHAT, NUMBER = sys.argv[1], sys.argv[2], int((*sys.argv, "0")[3])
HOME = Path.home()
PROCESSES = {16: 16, 64: 16, 360: 36}
"""Workers of one thread that share a job: one job for 16, four for 64, ten for 360."""

if WHOSE == "ours":
    from hpchub.lab import dask as own

    site = own.read_site(Path("/opt/hpchub/etc/dask"))
    session = own.Session("slurm", "climate", "regular", None, "", tempfile.mkdtemp(dir=HOME))
    os.environ["DASK_ROOT_CONFIG"] = str(own.write_session(HOME / ".local/share/hpchub/dask", session, site))
else:
    os.environ["DASK_ROOT_CONFIG"] = tempfile.mkdtemp(dir=HOME)  # an empty one

import dask.array as da  # noqa: E402 - dask reads its configuration when it is imported
from dask_jobqueue import SLURMCluster  # noqa: E402
from distributed import Client, wait  # noqa: E402


def cluster(**asked: object) -> SLURMCluster:
    """A cluster of the queue; stock has to be told what the site tells ours."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    stock = {
        "queue": "regular",
        "account": "climate",
        "log_directory": tempfile.mkdtemp(dir=HOME),
        "python": f"PYTHONPATH={packages} {sys.executable} -S",  # no .pth files, in which ours are
    }
    return SLURMCluster(**(stock if WHOSE == "stock" else {}), **asked)


def jobs() -> int:
    """How many jobs there are."""
    queue = subprocess.run(["squeue", "--noheader", "--user=alice"], capture_output=True, text=True, check=True)
    return len(queue.stdout.splitlines())


def scale() -> dict[str, object]:
    """From scale(n) to n workers; the 360 ask for as many cores as a node of this cluster can give."""
    processes = PROCESSES[NUMBER]
    size = {"cores": processes, "processes": processes, "memory": f"{processes // 2}GiB", "job_cpu": min(processes, 7)}
    with cluster(**size) as asked, Client(asked) as client:
        began = time.monotonic()
        asked.scale(NUMBER)
        client.wait_for_workers(NUMBER, timeout=900)
        return {"seconds": time.monotonic() - began, "submissions": jobs()}


def idle() -> dict[str, object]:
    """From the end of the last task to no job, adaptive."""
    with cluster(cores=1, memory="1GiB", processes=1) as asked, Client(asked) as client:
        asked.adapt(minimum=0, maximum=2)
        client.gather(client.map(abs, range(100)))
        began = time.monotonic()
        while jobs() and time.monotonic() < began + 120:
            time.sleep(0.5)
        return {"seconds": time.monotonic() - began}


def shuffle() -> dict[str, object]:
    """0.2 GB from rows to columns between four workers, all to all: the best of five after one that does not count."""
    with cluster(cores=4, processes=4, memory="6GiB") as asked, Client(asked) as client:
        asked.scale(4)
        client.wait_for_workers(4, timeout=300)
        rows = da.random.random((5000, 5000), chunks=(5000 // 20, 5000)).persist()
        wait(rows)
        times = []
        for number in range(6):
            fresh = (rows + number).rechunk((5000, 5000 // 20), method="tasks")  # what is there is not computed again
            began = time.monotonic()
            wait(fresh.persist())
            times.append(time.monotonic() - began)
        return {"seconds": min(times[1:]), "scheme": asked.scheduler_address.split(":")[0]}


if __name__ == "__main__":
    print(json.dumps({"scale": scale, "idle": idle, "shuffle": shuffle}[WHAT]()))
