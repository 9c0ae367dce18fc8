"""`hpchub batch`: what it asks the scheduler for, what it refuses, and what it says about a run."""

import argparse
import json
import os
import pwd
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from hpchub import cli
from hpchub.batch_runs import job, submit, task
from hpchub.privileged import job_order
from hpchub.privileged.job_order import BatchRunOrder

SITE = submit.Site("slurm", "/usr/bin", "help@example.org", {"regular": 720, "gpu": 0}, "regular", ("mpirun",))
SECTION = {"cores": 2, "memory": "4GiB", "queue": None, "account": None}
ORDER = BatchRunOrder("/home/alice/a.ipynb", "slurm", "gpu", "climate", 3, 2, 4096, 90, ("srun",), False, "/opt/hpchub")


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    return path


def asked(path: Path, **wish: Any) -> argparse.Namespace:
    nothing = {"workers": 4, "cores": None, "memory": None, "queue": None, "project": None, "walltime": "01:00"}
    return argparse.Namespace(**{"notebook": path, "mpi": False, **nothing, **wish})


def test_sizes_project_and_queue_are_the_sites_and_the_sessions_until_somebody_says_otherwise(notebook: Path) -> None:
    plain = submit.make_order(asked(notebook), SITE, {**SECTION, "account": "ocean"})
    assert (plain.queue, plain.project, plain.cores, plain.memory_mib) == ("regular", "ocean", 2, 4096)
    assert (plain.launcher, plain.mpi) == (("/usr/bin/srun",), False)
    other = submit.make_order(asked(notebook, queue="gpu", project="climate", cores=8, memory=1.5), SITE, SECTION)
    assert (other.queue, other.project, other.cores, other.memory_mib) == ("gpu", "climate", 8, 1536)
    held = submit.make_order(asked(notebook), SITE, {**SECTION, "job-extra-directives": ["--reservation=tutorial"]})
    assert "\n#SBATCH --reservation=tutorial\n" in submit.script(held, Path("/x"))


def test_pbs_is_always_mpi(notebook: Path) -> None:
    order = submit.make_order(asked(notebook), replace(SITE, scheduler="pbs"), SECTION)
    assert (order.launcher, order.mpi) == (("mpirun",), True)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"queue": "night"}, "There is no queue night here. Choose one of regular, gpu."),
        ({"walltime": "13:00"}, "The queue regular ends jobs after 12:00. Ask for less, or choose another queue."),
        ({"walltime": "0"}, "'0' is not a wall time."),
        ({"workers": 0}, "--workers, --cores and --memory must be positive."),
        ({"memory": -1.0}, "--workers, --cores and --memory must be positive."),
        ({"notebook": Path("nowhere.ipynb")}, "There is no notebook nowhere.ipynb."),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(notebook: Path, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(submit.BatchError, match=words.replace(".", r"\.")):
        submit.make_order(asked(notebook, **wish), SITE, SECTION)


def test_mpi_that_is_not_set_up_is_refused(notebook: Path) -> None:
    with pytest.raises(submit.BatchError, match="MPI is not set up"):
        submit.make_order(asked(notebook, mpi=True), replace(SITE, mpi_launcher=()), SECTION)


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(submit.BatchError, match=r"notes\.txt is not a notebook that can be read"):
        submit.check_notebook(tmp_path / "notes.txt")


def test_a_notebook_for_another_kernel_is_refused(notebook: Path) -> None:
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "ir", "display_name": "R"}})
    nbformat.write(node, notebook)
    with pytest.raises(submit.BatchError, match="is for the kernel ir"):
        submit.check_notebook(notebook)


def test_the_script_asks_slurm_for_the_workers_and_two_tasks_more() -> None:
    lines = submit.script(ORDER, Path("/home/alice/a.runs/1")).splitlines()
    for line in ("--partition=gpu", "--account=climate", "--ntasks=5", "--cpus-per-task=2", "--mem-per-cpu=2048M"):
        assert f"#SBATCH {line}" in lines
    assert "#SBATCH --time=90" in lines
    assert "#SBATCH --export=NIL" in lines
    carried = job_order.read(BatchRunOrder, lines[-2])
    assert carried == replace(ORDER, directory="/home/alice/a.runs/1")


def test_the_script_asks_pbs_for_the_same() -> None:
    lines = submit.script(replace(ORDER, scheduler="pbs", mpi=True, launcher=("mpirun",)), Path("/x")).splitlines()
    for line in ("-q gpu", "-A climate", "-l select=5:ncpus=2:mpiprocs=1:mem=4096mb", "-l walltime=01:30:00", "-k oed"):
        assert f"#PBS {line}" in lines


def test_a_path_cannot_end_the_scripts_text_early() -> None:
    hostile = replace(ORDER, notebook=f"/home/alice/\n{submit.DELIMITER}\nrm -rf ~\n.ipynb")
    lines = submit.script(hostile, Path("/x")).splitlines()
    assert lines.count(submit.DELIMITER) == 1
    assert job_order.read(BatchRunOrder, lines[-2]).notebook == hostile.notebook


def test_a_second_run_of_the_same_second_gets_a_directory_of_its_own(notebook: Path) -> None:
    now = datetime(2026, 11, 25, 12, 0, 0)
    first, second = submit.make_directory(notebook, now), submit.make_directory(notebook, now)
    assert [path.name for path in (first, second)] == ["2026-11-25-120000", "2026-11-25-120000-2"]
    assert (first / "a.ipynb").read_bytes() == notebook.read_bytes()


def test_the_command_says_what_is_wrong_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["batch", "a.ipynb"]) == 1  # this Python is in no shared prefix
    assert "batch.json cannot be used" in capsys.readouterr().err


def test_tasks_get_the_jobs_variables_and_the_accounts() -> None:
    account = pwd.getpwuid(os.getuid())
    variables = job.environment(ORDER, account, {"SLURM_JOB_ID": "1", "SLURM_EXPORT_ENV": "NIL", "PATH": "/site/bin"})
    assert variables["SLURM_JOB_ID"] == "1"
    assert variables["HOME"] == account.pw_dir
    assert "SLURM_EXPORT_ENV" not in variables
    assert "/site/bin" in variables["PATH"].split(":")


@pytest.mark.parametrize(
    ("outcome", "stopped", "words"),
    [
        ({"cell": "[2] (x)", "done": True}, False, ""),
        ({"cell": "[2] (x)", "done": True}, True, ""),
        ({"cell": "[2] (x)", "failed": "Cell [2] (x) failed: ValueError: no"}, False, "Cell [2] (x) failed"),
        (
            {"cell": "[2] (x)", "failed": "The kernel died"},
            True,
            "ended by its wall time, or by somebody while cell [2]",
        ),
        ({}, False, "with exit status 9"),
    ],
)
def test_the_verdict_is_a_sentence(outcome: dict[str, Any], stopped: bool, words: str) -> None:
    assert words in job.verdict(outcome, 9, stopped)
    assert bool(job.verdict(outcome, 9, stopped)) == bool(words)


def test_the_report_is_yaml_with_what_ran_where(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = {"nodes": {"scheduler": "c1", "workers": {"c1": 2, "c2": 1}}, "seconds": 4.5, "cells": [0.1]}
    told = yaml.safe_load(job.report(ORDER, outcome, "", 0.0, {"SLURM_JOB_ID": "17"}))
    assert (told["job"], told["exit"], told["nodes"]["workers"]) == ("17", 0, {"c1": 2, "c2": 1})
    assert told["versions"]["distributed"]


def test_every_picture_of_a_notebook_becomes_a_file() -> None:
    shown = nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8=", "text/plain": "x"})
    drawn = nbformat.v4.new_output("execute_result", data={"image/svg+xml": "<svg/>"})
    cells = [nbformat.v4.new_markdown_cell("x"), nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("2")]
    cells[2].outputs = [shown, drawn]
    node = nbformat.from_dict(json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells))))
    assert task.plots(node) == {"02-1.png": b"hello", "02-2.svg": b"<svg/>"}
