"""`hpchub batch NOTEBOOK`: a notebook as a batch job with workers of its own, without a person.

Runs as the user, in a terminal of the Lab or on the login node. What belongs to the run stands in a directory of its
own beside the notebook, in which the job executes a copy: see hpchub.batch_runs.job.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from hpchub.privileged import batch_systems, job_order
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.request import clock, parse_walltime
from hpchub.scheduler.messages import refusal
from hpchub.scheduler.registry import dialect

DELIMITER = "END-OF-HPCHUB-BATCH"
SUBMIT_SECONDS = 60


class BatchError(Exception):
    """The notebook cannot be submitted; the text is for the person who asked."""


@dataclass(frozen=True)
class Site:
    """<shared prefix>/etc/batch.json: the machine as `hpchub batch` has to know it; a limit of 0 minutes is none."""

    scheduler: str
    scheduler_prefix: str
    support_contact: str
    queues: dict[str, int]
    default_queue: str
    mpi_launcher: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a person may say about the run."""
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--workers", type=int, default=4, help="Dask workers (default: %(default)s)")
    parser.add_argument("--cores", type=int, help="of each worker (default: the site's)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of each worker (default: the site's)")
    parser.add_argument("--queue", help="default: the one that you work in, or the site's default")
    parser.add_argument("--project", help="default: the one that you work in, or your default")
    parser.add_argument("--walltime", default="01:00", metavar="HH:MM", help="default: %(default)s")
    parser.add_argument("--mpi", action="store_true", help="start the workers by MPI")


def prefix() -> Path:
    """The shared prefix: environments are <prefix>/lab/<name>."""
    return Path(sys.prefix).resolve().parents[1]


def read_site(path: Path) -> Site:
    """Read batch.json. Raises BatchError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        batch_systems.orders(found["scheduler"])
        return Site(**{**found, "mpi_launcher": tuple(found["mpi_launcher"])})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BatchError(f"{path} cannot be used ({error}). Run `hpchub batch` of your centre's environment.") from None


def run(choice: argparse.Namespace) -> None:
    """Write the run's directory, submit it, and say where it is. Raises BatchError."""
    site = read_site(prefix() / "etc/batch.json")
    os.environ.setdefault("DASK_ROOT_CONFIG", str(prefix() / "etc/dask"))  # dask reads it when it is imported
    import dask.config

    settings = dask.config.get(f"jobqueue.{dialect(site.scheduler).dask.section}", {})
    order = make_order(choice, site, settings)
    directory = make_directory(Path(order.notebook), datetime.now())
    try:
        (directory / "job.sh").write_text(script(order, directory), encoding="utf-8")
        job = submit(site, directory)
    except BatchError:
        shutil.rmtree(directory)
        raise
    print(
        f"Job {job}: {Path(order.notebook).name} with {order.workers} workers in the queue {order.queue}, "
        f"at most {clock(order.walltime_minutes)}.\nAll that it gives comes into {directory}"
    )


def make_order(choice: argparse.Namespace, site: Site, settings: dict[str, object]) -> BatchRunOrder:
    """What was asked for, with the defaults of site and session (a section of dask-jobqueue). Raises BatchError."""
    from dask.utils import parse_bytes  # when it is run: the hub has the same command line

    queue = choice.queue or str(settings.get("queue") or site.default_queue)
    if choice.queue and queue not in site.queues:  # that of the session may be a reservation
        raise BatchError(f"There is no queue {queue} here. Choose one of {', '.join(site.queues)}.")
    walltime, limit = parse_walltime(choice.walltime), site.queues.get(queue, 0)
    if not walltime:
        raise BatchError(f"{choice.walltime!r} is not a wall time. Write hours and minutes, as 02:30, or minutes.")
    if limit and walltime > limit:
        raise BatchError(f"The queue {queue} ends jobs after {clock(limit)}. Ask for less, or choose another queue.")
    cores = choice.cores if choice.cores is not None else int(str(settings.get("cores") or 1))
    asked = parse_bytes(str(settings.get("memory") or "2GiB")) / 2**30 if choice.memory is None else choice.memory
    if min(choice.workers, cores) < 1 or asked <= 0:
        raise BatchError("--workers, --cores and --memory must be positive.")
    extra = settings.get("job-extra-directives")
    here = dialect(site.scheduler)
    mpi = choice.mpi or here.tasks is None
    if mpi and not site.mpi_launcher:
        raise BatchError(f"MPI is not set up for this here: please ask {site.support_contact}.")
    return BatchRunOrder(
        notebook=str(check_notebook(choice.notebook)),
        scheduler=site.scheduler,
        queue=queue,
        project=choice.project or str(settings.get(here.dask.project_key) or ""),
        workers=choice.workers,
        cores=cores,
        memory_mib=round(asked * 1024),
        walltime_minutes=walltime,
        launcher=site.mpi_launcher if mpi or here.tasks is None else (f"{site.scheduler_prefix}/{here.tasks.program}",),
        mpi=mpi,
        shared_prefix=str(prefix()),
        directives=tuple(map(str, extra)) if isinstance(extra, list) else (),
    )


def check_notebook(path: Path) -> Path:
    """Give the notebook's absolute path. Raises BatchError if it is none, or one for another kernel."""
    import nbformat

    if not path.is_file():
        raise BatchError(f"There is no notebook {path}.")
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise BatchError(f"{path} is not a notebook that can be read: {str(error).splitlines()[0]}") from None
    kernel = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    if kernel != "python3":
        raise BatchError(f"{path} is for the kernel {kernel}. Notebooks of the kernel python3 can be run here.")
    return path.resolve()


def make_directory(notebook: Path, now: datetime) -> Path:
    """Make a new directory beside the notebook, with a copy of it. Raises BatchError if there can be none."""
    runs = notebook.with_name(f"{notebook.stem}.runs")
    names = [f"{now:%Y-%m-%d-%H%M%S}", *(f"{now:%Y-%m-%d-%H%M%S}-{number}" for number in range(2, 100))]
    try:
        runs.mkdir(exist_ok=True)
        for name in names:
            try:
                (runs / name).mkdir()
            except FileExistsError:
                continue
            shutil.copyfile(notebook, runs / name / notebook.name)
            return runs / name
    except OSError as error:
        raise BatchError(
            f"{runs} cannot be written ({error.strerror}), and that is where the run is kept. "
            "Copy the notebook to a directory of yours that has room."
        ) from None
    raise BatchError(f"More than {len(names)} runs were started in the same second: see {runs}.")


def script(order: BatchRunOrder, directory: Path) -> str:
    """The job's script. It names no path to the batch system: it is submitted from the run's directory."""
    here = dialect(order.scheduler)
    python = shlex.quote(f"{Path(sys.prefix).resolve()}/bin/python")
    text = job_order.write(replace(order, directory=str(directory)))
    start = f"exec {python} -I -m hpchub.batch_runs.job <<'{DELIMITER}'\n{text}\n{DELIMITER}\n"
    return "\n".join(["#!/bin/bash", *here.directives([*here.batch_run(order), *order.directives]), start])


def submit(site: Site, directory: Path) -> str:
    """Hand the script to the batch system; gives the job's number. Raises BatchError with its words."""
    here = dialect(site.scheduler)
    program, *options = here.orders.submit_command
    command = [f"{site.scheduler_prefix}/{program}", *options, "job.sh"]
    # What a job of the user's own has in its environment does not hold for this one.
    asked = here.variables.of_submission
    environment = {name: value for name, value in os.environ.items() if not name.startswith(asked)}
    try:
        done = subprocess.run(  # noqa: S603 - an argument list of our own
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SUBMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BatchError(f"{command[0]} does not work here: {error}. Please ask {site.support_contact}.") from None
    if done.returncode:
        raise BatchError(refusal(" ".join((done.stderr or done.stdout).split()), site.support_contact))
    return here.orders.submitted(done.stdout)
