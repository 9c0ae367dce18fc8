"""What a job's script carries: the job program writes it, the first program of a job reads it, days later and upgraded.

tests/unit/data/orders has whole scripts, as each version has written them. To change a field: a new VERSION, and its
two scripts, which UPDATE_GOLDEN=1 writes. A script that is there is never changed: jobs with it may still wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpchub.batch_runs import submit
from hpchub.lab import start
from hpchub.privileged import job_order, jobs
from hpchub.privileged.batch_systems import Job
from hpchub.privileged.job_order import VERSION, BatchRunOrder, LabOrder, UnreadableOrder

SAMPLES = Path(__file__).parents[1] / "data/orders"
RECORDED = {
    "lab-1.sh": "ac5f26ea04402262",
    "batch-run-1.sh": "dc875d7bbd40a346",
    "lab-2.sh": "bb6ef669a65786e8",
    "batch-run-2.sh": "721b354ca44e5915",
}
PREFIX = "/opt/hpchub/lab/0123456789ab"


def pem(kind: str) -> str:
    return f"-----BEGIN {kind}-----\n{'QUJD' * 16}\n-----END {kind}-----\n"


LAB = LabOrder(
    environment={
        "JUPYTERHUB_API_TOKEN": "t0ken",
        "JUPYTERHUB_API_URL": "https://login1.example.org:8081/hub/api",
        "JUPYTERHUB_PUBLIC_URL": "https://hub.example.org/user/alice/",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
        "JUPYTERHUB_USER": "alice",
        "JUPYTERHUB_COOKIE_OPTIONS": '{"samesite": "Strict"}',
    },
    tls={"key": pem("PRIVATE KEY"), "certificate": pem("CERTIFICATE"), "authority": pem("CERTIFICATE")},
    tag="demo:0a1b2c3d:alice::n0nce",
    shared_prefix="/opt/hpchub",
    scheduler="slurm",
    scheduler_prefix="/usr/bin",
    project="climate",
    queue="regular",
    reservation=None,
    log_directory="{home}/.local/state/hpchub",
)
BATCH_RUN = BatchRunOrder(
    notebook="/home/alice/a.ipynb",
    scheduler="slurm",
    queue="gpu",
    project="climate",
    workers=3,
    cores=2,
    memory_mib=4096,
    walltime_minutes=90,
    launcher=("/usr/bin/srun",),
    mpi=False,
    shared_prefix="/opt/hpchub",
    directives=("--reservation=tutorial",),
    directory="/home/alice/a.runs/1",
)
ORDERS: list[tuple[str, LabOrder | BatchRunOrder]] = [("lab", LAB), ("batch-run", BATCH_RUN)]


def lab_script() -> str:
    config = jobs.Config("slurm", "/usr/bin", PREFIX, "/opt/hpchub", LAB.log_directory, ("regular",))
    return jobs.script(config, Job(LAB.tag, "climate", "regular", 90, 2, 4096, 0, None), LAB.environment, LAB.tls)


def payload(script: str) -> str:
    return script.splitlines()[-2]


def test_what_is_written_now_is_what_was_recorded_for_this_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", PREFIX)
    written = {"lab": lab_script(), "batch-run": submit.script(BATCH_RUN, Path(BATCH_RUN.directory))}
    for kind, text in written.items():
        sample = SAMPLES / f"{kind}-{VERSION}.sh"
        if "UPDATE_GOLDEN" in os.environ and not sample.exists():
            sample.write_text(text)
        assert text == sample.read_text(), f"another {kind} order needs another VERSION"


def test_no_recorded_script_is_ever_changed_and_each_version_has_both() -> None:
    versions = range(1, VERSION + 1)
    wanted = {f"{kind}-{version}.sh" for kind, _ in ORDERS for version in versions}
    assert {path.name for path in SAMPLES.iterdir()} == wanted == RECORDED.keys()
    for name, digest in RECORDED.items():
        assert hashlib.sha256((SAMPLES / name).read_bytes()).hexdigest()[:16] == digest, "it needs another VERSION"


@pytest.mark.parametrize("version", [VERSION - 1, VERSION])
@pytest.mark.parametrize(("kind", "order"), ORDERS, ids=["lab", "batch-run"])
def test_an_order_of_this_version_and_of_the_one_before_is_read_whole(
    kind: str, order: LabOrder | BatchRunOrder, version: int
) -> None:
    text = payload((SAMPLES / f"{kind}-{version}.sh").read_text())
    assert json.loads(text).get("version", 1) == version
    assert job_order.read(type(order), text) == order


@pytest.mark.parametrize("version", [VERSION - 1, VERSION])
@pytest.mark.parametrize(
    ("kind", "module", "last"), [("lab", "lab.start", "serve"), ("batch-run", "batch_runs.job", "run")]
)
def test_a_job_of_this_version_and_of_the_one_before_starts(
    kind: str, module: str, last: str, version: int, tmp_path: Path
) -> None:
    """The whole way: the shell, the module that the script names, its main, up to what takes the order."""
    run = f"import sys; sys.path.insert(0, {str(Path(job_order.__file__).parents[2])!r})\n"
    run += f"from hpchub.{module} import main; import hpchub.{module} as m\n"
    run += f"m.{last} = lambda order, *_: print(order.queue, order.project) or 0; sys.exit(main())"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\necho "$*"\nexec {sys.executable} -c {shlex.quote(run)}\n')
    python.chmod(0o755)
    script = (SAMPLES / f"{kind}-{version}.sh").read_text().replace(PREFIX, str(tmp_path))
    done = subprocess.run(["/bin/bash"], input=script, capture_output=True, text=True, check=False)
    wanted = "regular climate" if kind == "lab" else "gpu climate"
    assert done.stdout.splitlines() == [f"-I -m hpchub.{module}", wanted], done.stderr
    assert done.returncode == 0


def test_an_order_of_a_newer_version_is_refused_with_what_to_do() -> None:
    newer = json.dumps({**json.loads(job_order.write(LAB)), "version": VERSION + 1, "more": 1})
    with pytest.raises(start.Stop, match=rf"submitted by a newer hpchub \(version {VERSION + 1} .* start again"):
        start.read_order(newer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 0}, "has version 0"),
        ({"version": "2"}, "has version '2'"),
        ({"version": True}, "has version True"),
        ({"extra": 1}, "exactly the fields"),
        ({"queue": None}, "queue of it is of another type"),
        ({"reservation": 1}, "reservation of it is of another type"),
        ({"environment": []}, "environment of it is of another type"),
        ({"scheduler": "job_order"}, "batch system 'job_order', which this hpchub does not know"),
        ({"scheduler": ["slurm"]}, "scheduler of it is of another type"),
    ],
)
def test_what_is_no_order_is_refused_in_a_sentence(change: dict[str, object], words: str) -> None:
    with pytest.raises(UnreadableOrder, match=words):
        job_order.read(LabOrder, json.dumps({**json.loads(job_order.write(LAB)), **change}))


def test_every_order_is_read_as_it_was_written() -> None:
    hostile = replace(BATCH_RUN, notebook="/home/alice/\nEND-OF-HPCHUB-BATCH\nrm -rf ~\né.ipynb", project="")
    text = job_order.write(hostile)
    assert "\n" not in text
    assert text.isascii()
    assert job_order.read(BatchRunOrder, text) == hostile
