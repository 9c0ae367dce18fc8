"""Measures Dask clusters of batch jobs as alice: `dask_speed.py ours|stock WHAT [N]`; prints one JSON object.

Ours is the site's configuration in a session of its own; stock is dask-jobqueue with its own defaults, so plain
tcp, and has project, queue and a job's size as settings of the user's own.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WHOSE, WHAT, NUMBER = sys.argv[1], sys.argv[2], int((*sys.argv, "0")[3])
HOME = Path.home()
NOTEBOOK = Path("/opt/hpchub/notebooks/ensemble.ipynb")
PROCESSES = {16: 4, 64: 16, 180: 18, 360: 36}
"""Workers of one thread that share a job: four jobs for 16 and for 64, ten for 180 and for 360."""
PATIENCE = 300  # seconds

if WHOSE == "ours":
    from hpchub.dask_jobs import configuration as own

    site = own.read_site(Path("/opt/hpchub/etc/dask"))
    session = own.Session("slurm", "climate", "regular", None, "", tempfile.mkdtemp(dir=HOME))
    os.environ["DASK_ROOT_CONFIG"] = str(own.write_session(HOME / ".local/share/hpchub/dask", session, site))
else:
    os.environ["DASK_ROOT_CONFIG"] = tempfile.mkdtemp(dir=HOME)  # an empty one

import dask.array as da  # noqa: E402 - dask reads its configuration when it is imported
import dask.config  # noqa: E402
import matplotlib as mpl  # noqa: E402
from dask_jobqueue import SLURMCluster  # noqa: E402
from distributed import Client, wait  # noqa: E402

if WHOSE == "stock":
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    user = {
        "queue": "regular",
        "account": "climate",
        "cores": 2,
        "memory": "4GiB",
        "log-directory": tempfile.mkdtemp(dir=HOME),
        "python": f"PYTHONPATH={packages} {sys.executable} -S",  # no .pth files, in which ours are
    }
    dask.config.set({f"jobqueue.slurm.{key}": value for key, value in user.items()})


def jobs(what: str = "%i") -> int:
    """How many jobs there are, or by %F how many submissions they came from."""
    ask = ["squeue", "--noheader", "--array", "--user=alice", f"--format={what}"]
    return len(set(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()))


def scale() -> dict[str, object]:
    """From scale(n) to n workers; ten jobs fit into the node that is free of reservations."""
    processes = PROCESSES[NUMBER]
    size = {"cores": processes, "processes": processes, "memory": f"{processes // 4}GiB", "job_cpu": 3}
    with SLURMCluster(**size) as asked, Client(asked) as client:
        began = time.monotonic()
        asked.scale(NUMBER)
        there = submissions = 0
        while there < NUMBER and time.monotonic() < began + PATIENCE:
            time.sleep(0.2)
            submissions = max(submissions, jobs("%F")) if there < 1 else submissions
            there = len(client.scheduler_info(n_workers=-1)["workers"])
        return {"seconds": time.monotonic() - began, "submissions": submissions, "workers": there}


def idle() -> dict[str, object]:
    """From the end of the last task to no job, adaptive; with N, after as many looks without work, one a second."""
    asks = {"wait_count": NUMBER} if NUMBER else {}
    with SLURMCluster(cores=1, memory="1GiB", processes=1) as asked, Client(asked) as client:
        asked.adapt(minimum=0, maximum=4, **asks)
        client.gather(client.map(lambda n: time.sleep(1) or n, range(20)))
        began = time.monotonic()
        while jobs() and time.monotonic() < began + 120:
            time.sleep(0.1)
        return {"seconds": time.monotonic() - began}


def shuffle() -> dict[str, object]:
    """0.2 GB from rows to columns between four workers, all to all: best of NUMBER after one for nothing."""
    with SLURMCluster(cores=4, processes=4, memory="6GiB") as asked, Client(asked) as client:
        asked.scale(4)
        client.wait_for_workers(4, timeout=300)
        rows = da.random.random((5000, 5000), chunks=(5000 // 20, 5000)).persist()
        wait(rows)
        times = []
        for number in range(NUMBER + 1):
            fresh = (rows + number).rechunk((5000, 5000 // 20), method="tasks")  # what is there is not computed again
            began = time.monotonic()
            wait(fresh.persist())
            times.append(time.monotonic() - began)
        return {"seconds": min(times[1:]), "scheme": asked.scheduler_address.split(":")[0]}


def notebook() -> dict[str, object]:
    """The notebook's cells, with their plots drawn, from the first cell to the last plot."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names: dict[str, object] = {"__name__": "__main__"}
    plots = []
    began = time.monotonic()
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
            for number in plt.get_fignums():
                plt.figure(number).savefig(io.BytesIO())
                plots.append(time.monotonic() - began)
            plt.close("all")
    return {"seconds": plots[-1], "plots": len(plots)}


if __name__ == "__main__":
    print(json.dumps({"scale": scale, "idle": idle, "shuffle": shuffle, "notebook": notebook}[WHAT]()))
