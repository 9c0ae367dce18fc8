"""A notebook as a batch job: the one that people run, by either launcher, with all that it gives kept beside it."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from testinfra.host import Host

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
HPCHUB = "/opt/hpchub/lab/current/bin/hpchub"
HOME, ELSEWHERE = "/home/alice/batch", "/home/alice/refused"
WAYS = {
    "runner": "--project ocean --workers 2 --walltime 10",
    "mpi": "--project climate --workers 2 --mpi --walltime 10",
}
FAILING = ["import time", "1 / 0", "print('never')"]
ENDLESS = ["print('kept')", "import time; time.sleep(3600)"]


def as_alice(line: str, directory: str = HOME) -> str:
    return f"runuser -u alice -- sh -c {shlex.quote(f'cd {directory} && {line}')}"


def notebook(cells: list[str]) -> str:
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    written = [{**code, "id": f"c{number}", "source": cell} for number, cell in enumerate(cells)]
    return json.dumps({"cells": written, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module")
def directories(run: Run, jobs: Jobs, batch: Any, wait_until: Callable[..., None]) -> Iterator[dict[str, str]]:
    """The run of the ensemble notebook by each launcher, one that fails, and one without an end: where each is kept."""
    run("login1", f"runuser -u alice -- mkdir -p {HOME}")
    run("login1", as_alice("cp /opt/hpchub/notebooks/ensemble.ipynb ."))
    run("login1", as_alice(f"echo {shlex.quote(notebook(FAILING))} >fails.ipynb"))
    run("login1", as_alice(f"echo {shlex.quote(notebook(ENDLESS))} >endless.ipynb"))
    wishes = {name: f"ensemble.ipynb {words}" for name, words in WAYS.items()}
    wishes["fails"] = "fails.ipynb --workers 1 --walltime 10"
    wishes["endless"] = "endless.ipynb --workers 1 --walltime 2"
    size = "--cores 1 --memory 2 --queue regular"
    said = {name: run("login1", as_alice(f"{HPCHUB} batch {wish} {size}")) for name, wish in wishes.items()}
    try:
        wait_until("all runs have ended", lambda: not jobs("alice"), 300)
        yield {name: text.rsplit("comes into ", 1)[1].strip() for name, text in said.items()}
    finally:
        run("ctl", batch.clear.format(user="alice", name="hpchub-batch"))
        run("login1", f"rm -rf {HOME}")


def read(run: Run, directory: str, name: str) -> Any:
    return (json.loads if name.endswith("ipynb") else yaml.safe_load)(run("login1", f"cat {directory}/{name}"))


@pytest.mark.parametrize("way", WAYS)
def test_the_ensemble_notebook_runs_unchanged_as_a_batch_job(way: str, directories: dict[str, str], run: Run) -> None:
    report = read(run, directories[way], "report.yaml")
    assert report["outcome"] == "Every cell has run.", run("login1", f"cat {directories[way]}/job.log")
    assert report["exit"] == 0
    cells = [cell for cell in read(run, directories[way], "ensemble.ipynb")["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"] == []
    printed = "".join(text for cell in cells for output in cell["outputs"] for text in output.get("text", []))
    assert "This batch job has 2 workers" in printed
    original = json.loads(run("login1", f"cat {HOME}/ensemble.ipynb"))
    assert not any(cell.get("outputs") for cell in original["cells"])


@pytest.mark.parametrize("way", WAYS)
def test_its_five_plots_are_kept_as_pictures(way: str, directories: dict[str, str], run: Run) -> None:
    listed = run("login1", f"cd {directories[way]}/plots && file --mime-type --brief * 2>/dev/null; wc -c *.png")
    sizes = [int(size) for size, name in re.findall(r"(\d+) (\S+\.png)", listed)]
    assert len(sizes) == 5
    assert min(sizes) > 15_000


@pytest.mark.parametrize("way", WAYS)
def test_the_report_says_what_ran_where(way: str, directories: dict[str, str], batch: Any, run: Run) -> None:
    report = read(run, directories[way], "report.yaml")
    project = {"runner": "ocean", "mpi": "climate"}[way]
    assert run("ctl", batch.end.format(job=report["job"])) == batch.ends["well"]
    assert set(run("ctl", batch.billed.format(job=report["job"])).split()) == {project, "regular", "00:10:00"}
    assert (report["project"], report["queue"], report["walltime_minutes"]) == (project, "regular", 10)
    assert report["workers"] == {"asked": 2, "cores": 1, "memory_mib": 2048}
    assert sum(report["nodes"]["workers"].values()) == 2
    assert {"c1", "c2"} >= {report["nodes"]["scheduler"], *report["nodes"]["workers"]}
    assert {"python", "hpchub", "dask", "distributed", "xarray"} <= set(report["versions"])
    assert 0 < report["seconds"]["notebook"] < report["seconds"]["job"]
    assert ("dask-mpi" if way == "mpi" or batch.name == "pbs" else "SLURMRunner") in report["started_by"]


def test_a_cell_that_fails_is_named_with_its_exception_and_the_job_has_failed(
    directories: dict[str, str], batch: Any, run: Run
) -> None:
    report = read(run, directories["fails"], "report.yaml")
    assert report["outcome"] == "Cell [2] (1 / 0) failed: ZeroDivisionError: division by zero"
    assert report["exit"] == 1
    assert run("ctl", batch.end.format(job=report["job"])) == batch.ends["failed"]
    cells = read(run, directories["fails"], "fails.ipynb")["cells"]
    assert [output["output_type"] for output in cells[1]["outputs"]] == ["error"]
    assert cells[2]["outputs"] == []


def test_a_run_that_meets_its_wall_time_says_where_and_keeps_what_there_is(
    directories: dict[str, str], batch: Any, run: Run
) -> None:
    report = read(run, directories["endless"], "report.yaml")
    assert report["outcome"].startswith(
        "The job was ended by its wall time, or by somebody while cell [2] (import time"
    )
    assert run("ctl", batch.end.format(job=report["job"])).startswith(batch.ends["late"])
    cells = read(run, directories["endless"], "endless.ipynb")["cells"]
    assert cells[0]["outputs"][0]["text"] == ["kept\n"]


def test_a_run_overwrites_no_other_and_leaves_nothing_else(directories: dict[str, str], run: Run) -> None:
    assert len(set(directories.values())) == 4
    assert sorted(run("login1", f"ls {HOME}").split()) == [
        "endless.ipynb", "endless.runs", "ensemble.ipynb", "ensemble.runs", "fails.ipynb", "fails.runs",
    ]  # fmt: skip
    kept = set(run("login1", f"ls -A {directories['mpi']}").split())
    assert kept == {"ensemble.ipynb", "job.log", "job.sh", "plots", "report.yaml"}


def test_no_key_is_in_what_a_run_keeps_nor_in_its_job(directories: dict[str, str], batch: Any, run: Run) -> None:
    keys = run("login1", "cat /home/alice/.local/share/hpchub/dask/keys/*/key.pem").splitlines()
    bodies = [line for line in keys if not line.startswith("-")]
    kept = run("login1", f"cat {HOME}/*.runs/*/*.*")
    for directory in directories.values():
        kept += run("ctl", batch.show.format(job=read(run, directory, "report.yaml")["job"]))
    assert bodies
    assert [line for line in bodies if line in kept] == []


REFUSED = {
    "nowhere.ipynb": "There is no notebook nowhere.ipynb.",
    "ok.ipynb --queue night": "There is no queue night here. Choose one of interactive, regular, gpu.",
    "ok.ipynb --walltime 99:00 --queue interactive": "The scheduler said:",
    "ok.ipynb --project secret": "The scheduler said:",
    "/opt/hpchub/notebooks/ensemble.ipynb": "Copy the notebook to a directory of yours that has room.",
}


NOT_HERE = {"ok.ipynb --project secret": [pytest.mark.slurm("PBS itself takes whatever is written as the project")]}


@pytest.mark.parametrize("wish", [pytest.param(wish, marks=NOT_HERE.get(wish, [])) for wish in REFUSED])
def test_what_cannot_be_run_is_refused_in_words_and_leaves_nothing(
    wish: str, nothing_submitted: None, run: Run, host: Callable[[str], Host]
) -> None:
    run("login1", f"runuser -u alice -- mkdir -p {ELSEWHERE}")
    try:
        run("login1", as_alice(f"echo {shlex.quote(notebook(['1']))} >ok.ipynb", ELSEWHERE))
        done = host("login1").run(as_alice(f"{HPCHUB} batch {wish}", ELSEWHERE))
        assert done.rc == 1
        assert REFUSED[wish] in done.stderr
        assert "Traceback" not in done.stderr
        assert run("login1", f"find {ELSEWHERE} -path '*.runs/*'") == ""
    finally:
        run("login1", f"rm -rf {ELSEWHERE}")
