"""What a user reads when a worker dies, and that a scheduler of Dask says it."""

import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpchub.dask_jobs.patches import worker_loss


def test_a_worker_is_described_by_what_it_told_or_else_by_its_address() -> None:
    told = {"hpchub": {"node": "c1", "job": "17", "log": "/home/alice/w.err"}}
    assert (
        worker_loss.describe("w-0", "tls://192.0.2.1:1", told) == "w-0 (node c1, job 17; its log is /home/alice/w.err)"
    )
    assert worker_loss.describe("w-0", "tls://192.0.2.1:1", {}) == "w-0 (node tls://192.0.2.1:1)"


def test_a_killed_worker_names_task_node_and_log() -> None:
    last = SimpleNamespace(name="w-0", address="tls://192.0.2.1:1", extra={"hpchub": {"node": "c1", "log": "/x.err"}})
    text = worker_loss.killed(SimpleNamespace(task="mean-1", last_worker=last, allowed_failures=2))
    assert text.startswith("The task 'mean-1' was tried 3 times")
    assert "node c1; its log is /x.err" in text


def test_the_log_is_what_the_launcher_names_or_where_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker_loss.LOG, "/x.log")
    assert worker_loss.whereabouts()["log"] == "/x.log"


def test_a_peer_that_closes_is_a_line_in_a_log_and_a_defect_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    import distributed.batched

    worker_loss.quiet(distributed.batched)
    for level in (logging.INFO, logging.ERROR):
        with caplog.at_level(logging.INFO, "distributed.batched"):
            distributed.batched.logger.log(level, "Batched Comm Closed", exc_info=OSError("gone"))
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("Batched Comm Closed", False),
        ("Batched Comm Closed", True),
    ]


async def test_a_listener_that_has_stopped_still_knows_where_it_listened() -> None:
    import distributed.comm.tcp as tcp

    listener = tcp.TCPListener("tcp://127.0.0.1:0", lambda _: None)
    await listener.start()
    address = listener.contact_address
    listener.stop()
    with pytest.raises(ValueError, match="non-started"):  # if it no longer does, our change can go
        inspect.unwrap(tcp.BaseTCPListener.get_host_port)(listener)
    worker_loss.remember(tcp)
    assert listener.contact_address == address
    with pytest.raises(ValueError, match="non-started"):
        tcp.TCPListener("tcp://127.0.0.1:0", lambda _: None).get_host_port()


def test_dask_as_it_is_installed_is_changed() -> None:
    import distributed.scheduler
    import distributed.worker

    worker_loss.tell(distributed.worker)
    assert distributed.worker.DEFAULT_STARTUP_INFORMATION["hpchub"] is worker_loss.whereabouts
    assert {"task", "last_worker", "allowed_failures"} <= set(vars(distributed.scheduler.KilledWorker))


CODE = """
import asyncio, json, logging, os, sys
import hpchub.dask_jobs.patches.import_hook, dask.config
from distributed import Client, Nanny, Scheduler

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("hpchub").addHandler(Keep())

def die():
    os._exit(1)

def wait():
    import time
    time.sleep(60)

async def main():
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(port=0, **here) as scheduler, Client(scheduler.address, asynchronous=True) as client:
        async with Nanny(scheduler.address, name="w-idle", nthreads=1, **here):
            await client.wait_for_workers(1)
        idle = list(lines)
        async with Nanny(scheduler.address, name="w-0", nthreads=2, **here):
            await client.wait_for_workers(1)
            address, = scheduler.workers
            killed = client.submit(die, pure=False)
            error = await killed.exception()
            told = list(lines)
            lines.clear()
            await client.wait_for_workers(1)
            address, = scheduler.workers
            going = [client.submit(wait, pure=False) for _ in range(2)]
            while len(scheduler.workers[address].processing) < 2:
                await asyncio.sleep(0.1)
            await scheduler.remove_worker(address, stimulus_id="gone", expected=True)
            expected = list(lines)
    print(json.dumps({"idle": idle, "told": told, "expected": expected, "error": str(error)}))

if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    asyncio.run(main())
"""


def test_a_scheduler_warns_of_each_worker_that_dies_with_tasks_and_of_no_other(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(CODE)
    variables = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    variables |= {"SLURM_JOB_ID": "17", worker_loss.LOG: "/x.log"}
    done = subprocess.run(
        [sys.executable, program], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    where = f"w-0 (node {os.uname().nodename}, job 17; its log is /x.log)"
    assert said["idle"] == said["expected"] == []
    assert said["told"] == [f"A Dask worker died: {where}. The 1 task that it had is tried again elsewhere."] * 2
    assert f"The last one was {where}." in said["error"]
