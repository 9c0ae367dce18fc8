"""Dask jobs that begin together are submitted as one array, and cancelled together."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import dask.config
import pytest

from hpchub.dask_jobs.cluster import Job
from hpchub.dask_jobs.job_arrays import CallBatcher, array_script, array_template
from hpchub.scheduler import registry

ARRAYS = registry.dialect("slurm").arrays
assert ARRAYS is not None
COMMAND = "/opt/python -m distributed.cli.dask_worker tls://192.0.2.1:1 --name {} --nthreads 2"
SCRIPT = "#!/usr/bin/env bash\n\n#SBATCH -J dask\n#SBATCH -o /logs/dask-%J.out\n#SBATCH -t 1\nmodule load x\n{}\n"


def one(name: str) -> tuple[str, str]:
    """Script and command of a job."""
    return SCRIPT.format(COMMAND.format(name)), COMMAND.format(name)


async def test_what_is_asked_for_together_is_done_once_and_what_comes_later_again() -> None:
    calls = []

    async def do(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        await asyncio.sleep(0)
        return [item * 10 for item in items]

    each = CallBatcher(do)
    assert await asyncio.gather(*(each.ask(number) for number in range(4))) == [0, 10, 20, 30]
    assert await each.ask(7) == 70
    assert calls == [[0, 1, 2, 3], [7]]


async def test_a_failure_is_everybodys_and_nobody_waits_for_ever() -> None:
    async def do(_: Sequence[int]) -> list[int]:
        raise OSError("no")

    each = CallBatcher(do)
    failures = await asyncio.gather(each.ask(1), each.ask(2), return_exceptions=True)
    assert [str(failure) for failure in failures] == ["no", "no"]


def test_jobs_that_differ_in_their_name_have_one_script() -> None:
    assert array_template(ARRAYS, *one("D-0"), "D-0") == array_template(ARRAYS, *one("D-17"), "D-17")
    assert array_template(ARRAYS, *one("D-0"), "D-0") != array_template(
        ARRAYS, one("D-0")[0].replace("-t 1", "-t 2"), one("D-0")[1], "D-0"
    )


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/tcsh\n" + COMMAND.format("D-0"),  # another language
        COMMAND.format("D-0"),
        SCRIPT.format(COMMAND.format("D-0") + "\n" + COMMAND.format("D-0")),
    ],
)
def test_a_script_that_cannot_be_changed_for_sure_is_submitted_as_it_is(script: str) -> None:
    assert array_template(ARRAYS, script, COMMAND.format("D-0"), "D-0") is None


def test_each_job_of_an_array_starts_the_worker_of_its_name(tmp_path: Path) -> None:
    names = [f"it's $HOME-{number}" for number in range(3)]
    command = COMMAND.replace("/opt/python", "echo").format("X")
    script = array_template(ARRAYS, f"#!/bin/sh\n{command}\n", command, "X")
    assert script is not None
    (tmp_path / "script").write_text(array_script(ARRAYS, script, names))
    for number, name in enumerate(names):
        environment = {"SLURM_ARRAY_TASK_ID": str(number)}
        said = subprocess.run(["/bin/sh", tmp_path / "script"], env=environment, capture_output=True, text=True)
        assert f"--name {name} --nthreads 2" in said.stdout


def test_the_log_of_one_of_an_array_is_named_as_the_job_is() -> None:
    assert "#SBATCH -o /logs/dask-%A_%a.out\n" in str(array_template(ARRAYS, *one("D-0"), "D-0"))


class Own(Job):
    """A job of Slurm, as far as it matters here."""

    submit_command, cancel_command, job_header = "sbatch", "scancel", "#SBATCH --comment=theirs"

    def __init__(self, name: str, walltime: str = "1") -> None:
        core = super().__init__.__func__.__globals__  # the real one asks the configuration of a site
        core["ProcessInterface"].__init__(self)
        script, self._command_template = one(name)
        self.name, self.job_id, self._text = name, None, script.replace("-t 1", f"-t {walltime}")

    def job_script(self) -> str:
        """The script."""
        return self._text


Slurm = Callable[..., list[str]]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Given a line of shell, in which $n counts, makes an sbatch of it; without, says what the commands were given."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    given = tmp_path / "given"

    def use(sbatch: str = "") -> list[str]:
        for name, line in {"sbatch": sbatch, "scancel": ""}.items() if sbatch else ():
            program = tmp_path / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >>{given}\nn=$(grep -c sbatch {given})\n{line}\n')
            program.chmod(0o755)
        return given.read_text().splitlines() if given.exists() else []

    return use


ACCEPT = "echo Submitted batch job 10$n"


async def start(*jobs: Own) -> list[object]:
    """Start jobs as a cluster does."""
    return await asyncio.gather(*(job.start() for job in jobs), return_exceptions=True)


async def test_jobs_that_begin_together_are_one_submission_and_end_by_one_command(
    slurm: Slurm,
) -> None:
    slurm(ACCEPT)
    jobs = [Own(f"D-{number}") for number in (3, 5, 6)]
    with dask.config.set({"hpchub.session": {"tag": "t", "job": ""}}):
        assert await start(*jobs) == [None] * 3
    assert [job.job_id for job in jobs] == ["101_0", "101_1", "101_2"]
    await asyncio.gather(*(job.close() for job in jobs))
    submitted, cancelled = slurm()
    assert "--comment=t:" in submitted
    assert ":dask theirs --array=0-2 /" in submitted
    assert cancelled == "scancel 101_0 101_1 101_2"


@pytest.mark.parametrize(
    ("header", "added"),
    [
        ("#SBATCH -p regular\n#SBATCH --exclusive", True),
        ("#SBATCH -p regular\n#SBATCH --reservation=another", False),
        ("#SBATCH -p other", False),
    ],
)
async def test_directives_of_the_users_own_do_not_lose_the_sessions_reservation(
    header: str, added: bool, slurm: Slurm
) -> None:
    slurm(ACCEPT)
    job = Own("D-1")
    job.job_header = header
    session = {"tag": "t", "job": "", "queue": "regular", "reservation": "workshop"}
    with dask.config.set({"hpchub.session": session}):
        await start(job)
    assert ("--reservation=workshop" in slurm()[0]) == added


async def test_one_job_and_jobs_of_another_kind_are_no_array(slurm: Slurm) -> None:
    slurm(ACCEPT)
    one, other = Own("D-1"), Own("D-2", walltime="2")
    await start(one, other)
    assert {one.job_id, other.job_id} == {"101", "102"}
    assert not [line for line in slurm() if "--array" in line]


async def test_where_an_array_is_refused_as_many_jobs_start_as_the_limit_lets(slurm: Slurm) -> None:
    refuse = "echo QOSMaxSubmitJobPerUserLimit >&2; exit 1"
    slurm(f'case "$n $*" in *--array*|[4-9]*) {refuse};; *) {ACCEPT};; esac')
    jobs = [Own(f"D-{number}") for number in range(6)]
    results = await start(*jobs)
    assert [job.job_id for job in jobs] == ["102", "103", None, None, None, None]
    assert len([line for line in slurm() if "sbatch" in line]) == 4  # the array, two that pass, one that does not
    assert {str(result) for result in results[2:]} == {jobs[5].refused}
    assert jobs[5].refused.startswith("You have reached your limit of jobs.")
