"""The first program of a batch job: starts the tasks, waits for them, and writes down what came of it.

`python -I -m hpchub.batch_runs.job` with a hpchub.privileged.job_order.BatchRunOrder as JSON on stdin. What is written
into the run's directory: the notebook as far as it has run, its plots, report.yaml. Exit status 0 if every cell has
run, else 1.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from hpchub.dask_jobs import configuration
from hpchub.dask_jobs.patches import worker_loss
from hpchub.privileged import job_order
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.scheduler.job_environment import job_environment
from hpchub.scheduler.registry import dialect

PACKAGES = ("hpchub", "dask", "distributed", "dask-jobqueue", "dask-mpi", "xarray", "zarr", "numpy", "nbclient")
LOOK_SECONDS, LEAVE_SECONDS = 5, 15
GRACE_SECONDS = 5
"""For tasks of a job that is to end. Batch systems kill after 10 to 30 s, and the report comes before."""
OUTCOME = "outcome.json"
"""In the session's directory: what the notebook's task tells this program."""


def environment(order: BatchRunOrder, account: pwd.struct_passwd, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the tasks get: the job's own variables and the account's."""
    programs = [f"{sys.prefix}/bin", *inherited.get("PATH", "").split(":"), "/usr/bin", "/bin"]
    return job_environment(dialect(order.scheduler), account, inherited, programs)


def prepare(order: BatchRunOrder, account: pwd.struct_passwd) -> Path:
    """Write the job's Dask configuration, with the user's keys and this order in it. Raises OSError."""
    session = configuration.Session(order.scheduler, order.project, order.queue, None, "", order.directory)
    site = configuration.read_site(Path(order.shared_prefix) / "etc/dask")
    directory = configuration.write_session(Path(account.pw_dir) / ".local/share/hpchub/dask", session, site)
    own = {
        "distributed": {"dashboard": {"link": "http://{host}:{port}/status"}},  # no hub leads here
        "logging": {"distributed": "warning"},
        "hpchub": {"batch": {**vars(order), "launcher": list(order.launcher), "directives": list(order.directives)}},
    }
    (directory / "zzz-batch.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")  # after the session's own
    return directory


def launch(order: BatchRunOrder, session: Path) -> list[str]:
    """The command that starts all tasks. Each begins as a Dask job of this site begins, with its prologue."""
    site = configuration.site_settings(configuration.read_site(session))
    here = dialect(order.scheduler)
    lines = configuration.sections(site)[here.dask.section].get("job-script-prologue")
    prologue = lines if isinstance(lines, list) else []
    task = "\n".join([*map(str, prologue), f'"{sys.executable}" -I -m hpchub.batch_runs.task'])
    options = ["-n", str(order.tasks)] if here.tasks is None or order.mpi else here.tasks.options(order.tasks)
    return [*order.launcher, *options, "/bin/bash", "-c", task]


def read_outcome(session: Path) -> dict[str, Any]:
    """What the notebook's task has told so far; nothing if it did not come so far."""
    try:
        outcome: dict[str, Any] = json.loads((session / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return outcome


def verdict(outcome: Mapping[str, Any], status: int, stopped: bool) -> str:
    """Why the run did not succeed, as a sentence; "" if it did."""
    at = f" while cell {outcome['cell']} was running" if "cell" in outcome and "done" not in outcome else ""
    if outcome.get("done"):
        return ""
    if stopped:
        return f"The job was ended by its wall time, or by somebody{at}."
    if outcome.get("failed"):
        return str(outcome["failed"])
    return f"The tasks ended before the notebook did, with exit status {status}{at}. The lines above say more."


def report(
    order: BatchRunOrder, outcome: Mapping[str, Any], problem: str, began: float, variables: Mapping[str, str]
) -> str:
    """The run report, as YAML that people read; seconds are wall clock."""

    def clock(when: float) -> str:
        return datetime.datetime.fromtimestamp(when).astimezone().isoformat(timespec="seconds")

    here = dialect(order.scheduler)
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    ended = time.time()
    said = {
        "outcome": problem or "Every cell has run.",
        "exit": 1 if problem else 0,
        "notebook": order.notebook,
        "job": here.job_id(variables) or None,
        "queue": variables.get(here.variables.queue) or order.queue,
        "project": variables.get(here.variables.project) or order.project,
        "walltime_minutes": order.walltime_minutes,
        "workers": {"asked": order.workers, "cores": order.cores, "memory_mib": order.memory_mib},
        "started_by": f"dask-jobqueue's {here.tasks.runner[1]}" if here.tasks and not order.mpi else "dask-mpi",
        "nodes": outcome.get("nodes", {}),
        "began": clock(began),
        "ended": clock(ended),
        "seconds": {"job": round(ended - began, 1), "notebook": outcome.get("seconds")},
        "cells": outcome.get("cells", []),
        "versions": versions,
        "environment": sys.prefix,
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120)


class Ended(Exception):
    """The job is to end now."""


def wait(tasks: subprocess.Popen[bytes], session: Path) -> tuple[int, bool]:
    """Wait for the tasks; gives their exit status, and whether they were ended because the job is.

    When the notebook is over they end by themselves, mostly; what is left of them soon after is ended.
    """

    def end(_number: int, _frame: object) -> None:
        raise Ended

    signal.signal(signal.SIGTERM, end)
    stopped = False
    try:
        while "seconds" not in read_outcome(session):
            try:
                return tasks.wait(LOOK_SECONDS), False
            except subprocess.TimeoutExpired:
                continue
        return tasks.wait(LEAVE_SECONDS), False
    except subprocess.TimeoutExpired:
        pass
    except Ended:
        stopped = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tasks.terminate()
    try:
        return tasks.wait(GRACE_SECONDS), stopped
    except subprocess.TimeoutExpired:
        return 1, stopped


def run(order: BatchRunOrder) -> int:
    """Start the tasks and wait for them; gives the job's exit status."""
    began = time.time()
    account = pwd.getpwuid(os.getuid())
    variables = environment(order, account, os.environ)
    target = Path(order.directory, "report.yaml")
    if target.exists():
        print(f"hpchub: {order.directory} has a run already. `hpchub batch` makes a new one.", file=sys.stderr)
        return 1
    session = prepare(order, account)
    try:
        variables |= {"DASK_ROOT_CONFIG": str(session), worker_loss.LOG: f"{order.directory}/job.log"}
        tasks = subprocess.Popen(launch(order, session), env=variables, cwd=order.directory)  # noqa: S603
        status, stopped = wait(tasks, session)
        outcome = read_outcome(session)
    finally:
        shutil.rmtree(session, ignore_errors=True)
    problem = verdict(outcome, status, stopped)
    target.write_text(report(order, outcome, problem, began, variables), encoding="utf-8")
    print(f"hpchub: {problem or 'Every cell has run.'}", flush=True)
    return 1 if problem else 0


def main() -> int:
    """Entry point of the job."""
    try:
        order = job_order.read(BatchRunOrder, sys.stdin.read())
    except job_order.UnreadableOrder as error:
        print(f"hpchub: the job's script does not fit this environment: {error}", file=sys.stderr)
        return 1
    try:
        return run(order)
    except OSError as error:
        print(f"hpchub: {error.strerror}: {error.filename}. Nothing was run.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
