"""Workers die and leave, in real jobs: results stay right, and the user reads what happened and where."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Run = Callable[[str, str], str]
PYTHON = "/opt/hpchub/lab/current/bin/python"
PROGRAM = (Path(__file__).parent / "programs" / "mishaps.py").read_text()
LOGS = r"/home/alice/\.local/state/hpchub/"


@pytest.fixture(scope="module")
def story(host: Callable[[str], Host], run: Run, batch: Any) -> tuple[dict[str, Any], str]:
    """What the program found, and what its user could read meanwhile."""
    line = f"cd /home/alice && timeout 400 {PYTHON} -c {shlex.quote(PROGRAM)} {batch.name} {batch.cluster}"
    done = host("login1").run(f"runuser -u alice -- bash -lc {shlex.quote(line)}")  # with the PATH of ssh
    run("ctl", batch.clear.format(user="alice", name="dask-worker"))
    assert done.rc == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_result_is_right_although_a_worker_was_killed_in_the_middle(story: tuple[dict[str, Any], str]) -> None:
    seen, _ = story
    assert not seen["finished_before"]
    assert seen["right"]


def test_the_user_reads_that_its_tasks_are_tried_again(story: tuple[dict[str, Any], str], batch: Any) -> None:
    _, said = story
    place = rf"node c[12], job \d+\S*; its log is {LOGS}{batch.dask_log}"
    sentence = rf"A Dask worker died: \S+ \({place}\)\. The .* tried again elsewhere\."
    assert re.search(sentence, said), said


def test_after_three_deaths_of_a_task_its_name_the_node_and_the_log_are_named(
    story: tuple[dict[str, Any], str], batch: Any, run: Run
) -> None:
    seen, _ = story
    assert seen["killed"].startswith("KilledWorker: The task 'die-1' was tried 3 times")
    found = re.search(rf"node c[12], job \d+\S*; its log is ({LOGS}{batch.dask_log})", seen["killed"])
    assert found, seen["killed"]
    assert "Starting Worker" in run("login1", f"cat {found[1]}") or "Nanny" in run("login1", f"cat {found[1]}")


@pytest.mark.parametrize("limit", ["a minute", "an hour"])
def test_a_worker_near_its_wall_time_hands_over_what_it_has_and_nothing_is_computed_twice(
    limit: str, story: tuple[dict[str, Any], str]
) -> None:
    seen = story[0][limit]
    assert seen["before"]
    assert seen["left"]
    assert (seen["sum"], seen["computed"]) == (190, 20)


def test_a_worker_whose_results_nobody_can_take_keeps_them_until_somebody_can(
    story: tuple[dict[str, Any], str],
) -> None:
    assert story[0]["an hour"]["stayed"]  # 15 s were its lifetime, and it was alone for 20


def test_what_a_worker_was_computing_when_it_left_goes_on_elsewhere_and_is_no_failure(
    story: tuple[dict[str, Any], str],
) -> None:
    assert [story[0][limit]["long"] for limit in ("a minute", "an hour")] == [True, True]


@pytest.mark.parametrize("limit", ["a minute", "an hour"])
def test_the_job_of_a_worker_that_left_ended_by_itself_before_its_wall_time(
    limit: str, story: tuple[dict[str, Any], str], batch: Any, run: Run, wait_until: Callable[..., None]
) -> None:
    end = batch.end.format(job=story[0][limit]["job"])
    wait_until("the job has ended by itself", lambda: run("ctl", end) == batch.ends["well"])
