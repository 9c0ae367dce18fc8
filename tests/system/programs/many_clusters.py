"""Alice's clusters one after the other, outside the hub: so many as the first argument says, of the second's class.

Each grows, moves data between its workers, shrinks or adapts, and is closed. Prints one JSON object for each.
"""

import asyncio
import json
import logging
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import dask.array as da
import dask_jobqueue
from distributed import Client, wait
from distributed.comm.tcp import TLS

from hpchub.dask_jobs.session import batch_system
from hpchub.scheduler import Phase

Cluster = getattr(dask_jobqueue, sys.argv[2])
LOGS = Path.home() / ".local/state/hpchub"
WORKERS, SIDE, PARTS = 3, 1200, 6
JOB = {"cores": 15, "memory": "1GiB"}
"""A node has 36 cores: the workers are on both."""
CLOSED = re.compile(r"slurmstepd\S*: error: \*+ JOB \S+ ON \S+ CANCELLED AT .*")
"""What Slurm writes into a job's log when its cluster is closed."""
CUT_OFF = re.compile(r"(?m)^(\S+ \S+) - distributed\.worker - ERROR - .* during heartbeat\.\n(?:(?!\d{4}-).*\n)*")
"""What a worker says that just told its scheduler that it lives; no fault if the cluster is being closed by then."""
BAD = re.compile(r"ERROR|CRITICAL|Traceback|Error\b|error:")
complaints: list[str] = []


class Complaints(logging.Handler):
    """Keeps what scheduler and client report as an error, or warn of with a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.levelno >= logging.ERROR or record.exc_info:
            complaints.append(logging.Formatter("%(name)s: %(message)s").format(record))


def transposed(client: Client) -> bool:
    """All-to-all between the workers: rows of a matrix become columns. Whether each element is where it belongs."""
    rows = (SIDE // PARTS, SIDE)
    matrix = da.arange(SIDE * SIDE, chunks=SIDE * SIDE // PARTS).reshape(SIDE, SIDE).rechunk(rows).persist()
    wait(matrix)
    moved = matrix.T.rechunk(rows, method="tasks")
    return bool((moved == da.arange(SIDE)[None, :] * SIDE + da.arange(SIDE)[:, None]).all().compute())


def ends(dask_worker: Any = None, dask_scheduler: Any = None) -> dict[str, int]:
    """A process's ends of its connections: how many, how many without TLS; and the bytes that other workers sent it."""
    server = dask_worker or dask_scheduler
    comms = [*server._comms, *(comm for pool in (server.rpc.available, server.rpc.occupied) for comm in pool.values())]
    comms = [comm for some in comms for comm in (some if isinstance(some, set) else {some})]
    received = sum(each["total"] for each in getattr(server, "transfer_incoming_log", ()))
    plain = sum(not isinstance(comm, TLS) for comm in comms) + (not server.address.startswith("tls://"))
    return {"open": len(comms), "plain": plain, "received": received}


def alive() -> set[str]:
    """The jobs of this user that the batch system still has."""
    own = asyncio.run(batch_system().own(Path.home().name))
    return {job_id for job_id, (job, _) in own.items() if job.phase is not Phase.ENDED}


def one(adaptive: bool) -> dict[str, Any]:
    """The life of one cluster."""
    seen: dict[str, Any] = {"workers": WORKERS}
    before, others, began = set(LOGS.iterdir()), alive(), time.monotonic()
    with Cluster(**JOB, silence_logs="warning") as cluster, Client(cluster) as client:
        cluster.scale(WORKERS)
        client.wait_for_workers(WORKERS, timeout=120)
        seen["up"] = round(time.monotonic() - began, 1)
        seen["right"] = transposed(client)
        seen["nodes"] = len({worker["host"] for worker in client.scheduler_info()["workers"].values()})
        told = [client.run_on_scheduler(ends), *client.run(ends).values()]
        seen |= {what: sum(end[what] for end in told) for what in ("open", "plain", "received")}
        if adaptive:
            cluster.adapt(minimum=1, maximum=WORKERS, wait_count=2)
        else:
            cluster.scale(1)
        deadline = time.monotonic() + 60
        while len(client.scheduler_info(n_workers=-1)["workers"]) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        seen["shrunk"] = len(client.scheduler_info(n_workers=-1)["workers"])
        seen["right"] &= transposed(client)
        closing = str(datetime.now())[:23].replace(".", ",")
    deadline = time.monotonic() + 60
    while (jobs := alive() - others) and time.monotonic() < deadline:
        time.sleep(0.5)
    seen["jobs"], seen["seconds"] = len(jobs), round(time.monotonic() - began, 1)
    logs = set(LOGS.iterdir()) - before
    texts = [CUT_OFF.sub(lambda said: "" if said[1] >= closing else said[0], log.read_text()) for log in logs]
    lines = [line for text in texts for line in CLOSED.sub("", text).splitlines() if BAD.search(line)]
    seen["logs"], seen["complaints"] = len(logs), [*complaints, *lines]
    complaints.clear()
    return seen


if __name__ == "__main__":
    LOGS.mkdir(parents=True, exist_ok=True)
    for name in ("distributed", "asyncio", "tornado", "dask_jobqueue"):
        logging.getLogger(name).addHandler(Complaints())
    for number in range(int(sys.argv[1])):
        print(json.dumps(one(adaptive=number % 2 == 1)), flush=True)
