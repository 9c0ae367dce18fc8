"""Measurements of Dask against dask-jobqueue with its own defaults, on the same cluster in the same run.

Rows as in test_bench.py. Both ask for the same jobs. Workers are processes of one thread each: of 16, four share a job,
of 64, sixteen; 180 and 360 are in ten jobs, as on ten nodes. The cluster claims 72 cores; the real ones are printed.
"""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.bench

Run = Callable[[str, str], str]
Measure = Callable[..., dict[str, Any]]
PYTHON = "/opt/hpchub/lab/current/bin/python"
PACKAGES = "/opt/hpchub/lab/current/lib/python3*/site-packages"
PROGRAM = Path(__file__).parent / "programs" / "dask_speed.py"
IDLE_SECONDS = 20  # the site's dask_site_idle_seconds
STOCK_LOOKS = 3  # without work, before dask's own adaptive scaling lets a worker go
COUNTS = [16] if os.environ.get("HPCHUB_BENCH_SMALL") else [16, 64, 180, 360]
STOCK_WORKER_MIB = 75


@pytest.fixture(scope="module")
def measure(run: Run) -> Measure:
    """Run one measurement of the program as alice."""

    def once(whose: str, what: str, number: int = 0) -> dict[str, Any]:
        # Stock reads no .pth files, in which the changes are that ours makes to Dask.
        python = f"PYTHONPATH=$(echo {PACKAGES}) {PYTHON} -S" if whose == "stock" else PYTHON
        line = f"cd && {python} -c {shlex.quote(PROGRAM.read_text())} {whose} {what} {number} 2>/dev/null"
        printed = run("login1", f"runuser -u alice -- sh -c {shlex.quote(line)}")
        run("login1", "rm -rf /home/alice/tmp????????")
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found

    return once


def free_mib() -> int:
    """What this machine has left, in MiB."""
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("count", COUNTS)
def test_from_scale_to_workers(count: int, measure: Measure, run: Run, record: Callable[..., None]) -> None:
    start = f"{PYTHON} -c 'import time; b = time.monotonic(); import distributed.cli.dask_worker; e = time.monotonic()"
    floor = float(run("c1", f"{start}; print(e - b)'"))
    name = f"scale to {count} workers (one start with imports: {floor:.1f} s)"
    ours = measure("ours", "scale", count)
    assert ours["workers"] == count
    if free_mib() < 1.3 * STOCK_WORKER_MIB * count:
        record(f"{name}; stock does not fit into memory", round(float(ours["seconds"]), 1), None, None, None, "s")
        return
    theirs = measure("stock", "scale", count)
    if theirs["workers"] < count:
        name += f"; stock gave up with {theirs['workers']}"
    seconds = [round(float(each["seconds"]), 1) for each in (ours, theirs)]
    record(name, *seconds, round(seconds[0] / seconds[1], 2), 1.0, "s")
    submissions = [float(each["submissions"]) for each in (ours, theirs)]
    record(f"submissions for {count} workers", *submissions, round(submissions[0] / submissions[1], 2), 1.0, "")
    assert seconds[0] < seconds[1]
    assert submissions[0] < submissions[1]


def test_from_idle_to_resources_back(measure: Measure, record: Callable[..., None]) -> None:
    seconds = [round(measure(whose, "idle", STOCK_LOOKS)["seconds"], 1) for whose in ("ours", "stock")]
    ratio = round(seconds[0] / seconds[1], 2)
    record(f"idle to no job, of 4, after {STOCK_LOOKS} looks without work", *seconds, ratio, 1.0, "s")
    as_the_site_says = round(measure("ours", "idle")["seconds"] - IDLE_SECONDS, 1)
    record(f"idle to no job, after the site's {IDLE_SECONDS} s", as_the_site_says, None, None, 10, "s")
    assert as_the_site_says <= 10
    assert ratio < 1


def test_the_notebook_from_its_first_cell_to_its_last_plot(measure: Measure, record: Callable[..., None]) -> None:
    ours, theirs = measure("ours", "notebook"), measure("stock", "notebook")
    assert ours["plots"] == theirs["plots"] == 5
    seconds = [round(float(each["seconds"]), 1) for each in (ours, theirs)]
    record("the notebook, first cell to last plot", *seconds, round(seconds[0] / seconds[1], 2), 1.0, "s")
    assert seconds[0] < seconds[1]


def test_what_tls_costs_on_a_shuffle(measure: Measure, record: Callable[..., None]) -> None:
    ours, theirs = measure("ours", "shuffle", 9), measure("stock", "shuffle", 9)
    assert (theirs["scheme"], ours["scheme"]) == ("tcp", "tls")
    seconds = [round(float(each["seconds"]), 2) for each in (ours, theirs)]
    record("a shuffle of 0.2 GB between 4 workers, best of 9", *seconds, round(seconds[0] / seconds[1], 2), 1.1, "s")
    assert seconds[0] / seconds[1] <= 1.1
