"""Dask jobs know their session, and a session finds what its processes left; why workers are not there, in words."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest

import hpchub
from hpchub.dask_jobs import cleanup, cli, missing_workers, session
from hpchub.scheduler import JobState, Phase, of_session
from hpchub.scheduler.slurm import parse_own

TAG = "demo:0a1b2c3d:alice::n0nce"


@pytest.fixture(autouse=True)
def of_a_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process belongs to job 7, a Lab."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with dask.config.set(hpchub={"session": {"tag": TAG, "job": "7"}}):
        yield


def test_a_job_is_marked_with_its_session_and_its_process() -> None:
    assert session.mark() == f"{TAG}:{session.process()}:dask"


def test_a_batch_job_that_inherits_a_sessions_settings_is_not_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert (session.tag(), session.mark()) == ("", "")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert session.mark() == ""
    assert "home" in session.directory().parts


def test_a_process_is_alive_until_it_ends_and_another_one_with_its_number_is_another() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        name = f"{other.pid}.{session.began(other.pid)}"
        assert session.alive(name)
        assert not session.alive(f"{other.pid}.1")
        other.kill()
    assert not session.alive(name)
    assert not session.alive("")


def test_a_process_tells_of_its_clusters_as_long_as_it_has_any() -> None:
    session.keep(("tls://192.0.2.1:1",), 3)
    (session.directory() / "1.2").write_text('{"addresses": ["tls://192.0.2.9:1"], "jobs": 9}')  # another's, dead
    assert session.running() == [session.Running(session.process(), ("tls://192.0.2.1:1",), 3)]
    session.keep((), 0)
    assert session.running() == []


class Own:
    """A scheduler that knows two jobs of a killed kernel, one of a live one, and cannot cancel."""

    async def own(self, _user: str) -> dict[str, tuple[JobState, str]]:
        marks = {"11": f"{TAG}:1.2:dask", "12": f"{TAG}:1.2:dask", "13": f"{TAG}:1.23:dask", "14": TAG, "15": "x"}
        return {job_id: (JobState(job_id, "alice", Phase.WAITING, "PENDING"), mark) for job_id, mark in marks.items()}


@pytest.mark.parametrize(("tag", "job_ids"), [(f"{TAG}:1.2", "11 12"), (TAG, "11 12 13")])
async def test_only_the_jobs_of_a_dead_process_are_cancelled(
    tag: str, job_ids: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "scancel"
    stub.write_text(f"#!/bin/sh\necho $* >{tmp_path}/cancelled\n")
    stub.chmod(0o755)
    monkeypatch.setattr(session, "batch_system", Own)
    with dask.config.set({"hpchub.scheduler": "slurm", "hpchub.scheduler-prefix": str(tmp_path)}):
        assert not await cleanup.end(tag)
    assert (tmp_path / "cancelled").read_text() == f"{job_ids}\n"


def test_a_comment_with_line_breaks_claims_nothing_about_other_users() -> None:
    text = f"1|alice|PENDING||N/A|Priority|x\n2|bob|PENDING||N/A|Priority|{TAG}:1.2:dask\n"
    assert of_session(parse_own(text, "alice"), TAG) == []


WAITS = missing_workers.Absent("1")
JOBS = {
    "1": JobState("1", "alice", Phase.WAITING, "PENDING", reason="Priority", start=1_800_000_000),
    "2": JobState("2", "alice", Phase.WAITING, "PENDING", reason="Priority"),
    "3": JobState("3", "alice", Phase.RUNNING, "RUNNING", node="c1"),
    "4": JobState("4", "alice", Phase.ENDED, "OUT_OF_MEMORY"),
}


def why(*absent: missing_workers.Absent, present: int = 0) -> list[str]:
    return missing_workers.why(
        present, absent, JOBS, lambda job: {"Priority": "Others first."}.get(job.reason, ""), "help"
    )


def test_workers_that_are_there_need_no_words() -> None:
    assert why(present=3) == []


def test_the_same_reason_is_said_once_with_the_earliest_start() -> None:
    first, waits = why(missing_workers.Absent("2"), WAITS, present=1)
    assert first == "1 of 3 workers are there."
    assert waits.startswith("2 jobs (2, 1) in the queue: Others first. Expected start: 15 Jan ")


def test_each_fate_has_its_words(tmp_path: Path) -> None:
    (tmp_path / "dask-worker-4.out").write_text("not this\n")
    (tmp_path / "dask-worker-4.err").write_text("\x1b[31mred\x1b[0m\nslurmstepd: oom_kill event\n")
    absent = (
        missing_workers.Absent(),
        missing_workers.Absent(refused="You may not."),
        missing_workers.Absent("3"),
        missing_workers.Absent("4", log_directory=str(tmp_path)),
        missing_workers.Absent("99"),
    )
    assert why(*absent)[1:] == [
        "Its job is being submitted.",
        "No job was queued: You may not.",
        "1 job (3) on c1: the job is running; its worker has not connected yet.",
        f"1 job (4): It ran out of memory. Start again with more. The last lines of {tmp_path}/dask-worker-4.err:\n"
        "red\nslurmstepd: oom_kill event",
        "1 job (99): the scheduler does not know it any more.",
    ]


def test_each_value_is_shown_with_the_file_or_variable_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, user = tmp_path / "root", tmp_path / "home/.config/dask"
    for directory in (root, user):
        directory.mkdir(parents=True)
    (root / "site.yaml").write_text("jobqueue: {slurm: {cores: 2, queue: null, memory: 4GiB}}")
    (root / "zz-session.yaml").write_text("jobqueue: {slurm: {queue: regular, account: climate}}")
    (user / "mine.yaml").write_text("jobqueue: {slurm: {account: ocean}}\ndistributed: {worker: {daemon: false}}")
    environment = {"HOME": str(tmp_path / "home"), "DASK_ROOT_CONFIG": str(root), "DASK_JOBQUEUE__SLURM__CORES": "3"}
    environment["PYTHONPATH"] = str(Path(hpchub.__file__).parents[1])
    code = "import sys; from hpchub.cli import main; sys.exit(main(['dask', *sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "config", "jobqueue.slurm"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert "jobqueue.slurm.cores = 3    variable: DASK_JOBQUEUE__SLURM__CORES" in lines, done.stderr
    assert f"jobqueue.slurm.memory = 4GiB    site: {root}/site.yaml" in lines
    assert f"jobqueue.slurm.queue = regular    session: {root}/zz-session.yaml" in lines
    assert f"jobqueue.slurm.account = ocean    user: {user}/mine.yaml" in lines
    assert "jobqueue.slurm.processes = None    default of Dask" in lines


def test_a_wrong_wish_is_answered_by_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.Nothing, match="No cluster of Dask jobs of yours runs here"):
        cli.scale([2], "")
    with pytest.raises(cli.Nothing, match="one number of workers, or the least and the most"):
        cli.scale([2, 1], "")
    session.keep(("tls://192.0.2.1:1", "tls://192.0.2.1:2"), 3)
    with pytest.raises(cli.Nothing, match="Which cluster"):
        cli.scale([2], "")
    with pytest.raises(cli.Nothing, match=r"No cluster at tls://192\.0\.2\.1:3"):
        cli.scale([2], "tls://192.0.2.1:3")
