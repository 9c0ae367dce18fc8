"""Measurements of Dask against dask-jobqueue with its own defaults, on the same cluster in the same run.

Rows as in bench/test_bench.py. Both ask for the same jobs. Workers have one thread each; 16 share a job, of the 360
there are 36 in each of ten jobs, as in ten nodes. The cluster claims 72 cores; what the machine below has is printed.
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
COUNTS = [int(count) for count in os.environ.get("HPCHUB_BENCH_WORKERS", "16 64 360").split()]


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


@pytest.mark.parametrize("count", COUNTS)
def test_from_scale_to_workers(count: int, measure: Measure, run: Run, record: Callable[..., None]) -> None:
    theirs, ours = measure("stock", "scale", count), measure("ours", "scale", count)
    start = f"{PYTHON} -c 'import time; b = time.monotonic(); import distributed.cli.dask_worker; e = time.monotonic()"
    floor = float(run("c1", f"{start}; print(e - b)'"))
    seconds = [round(float(each["seconds"]), 1) for each in (ours, theirs)]
    name = f"scale to {count} workers (one start with imports: {floor:.1f} s)"
    record(name, *seconds, round(seconds[0] / seconds[1], 2), 1.0, "s")
    jobs = [float(each["submissions"]) for each in (ours, theirs)]
    record(f"submissions for {count} workers", *jobs, round(jobs[0] / jobs[1], 2), 1.0, "jobs")
    assert seconds[0] <= seconds[1]
    assert jobs[0] <= jobs[1]


def test_from_idle_to_resources_back(measure: Measure, record: Callable[..., None]) -> None:
    seconds = round(measure("ours", "idle")["seconds"], 1)
    ratio = round(seconds - IDLE_SECONDS, 1)
    record(f"idle to no job, of which {IDLE_SECONDS} s are the site's wish", seconds, None, ratio, 10, "s")
    assert ratio <= 10


def test_what_tls_costs_on_a_shuffle(measure: Measure, record: Callable[..., None]) -> None:
    theirs, ours = measure("stock", "shuffle"), measure("ours", "shuffle")
    assert (theirs["scheme"], ours["scheme"]) == ("tcp", "tls")
    seconds = [round(float(each["seconds"]), 2) for each in (ours, theirs)]
    record("a shuffle of 0.2 GB between 4 workers", *seconds, round(seconds[0] / seconds[1], 2), 1.1, "s")
    assert seconds[0] / seconds[1] <= 1.1
