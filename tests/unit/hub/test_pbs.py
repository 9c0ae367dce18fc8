from __future__ import annotations

from pathlib import Path

import pytest

from hpchub.scheduler import Phase, Project, SchedulerUnavailable
from hpchub.scheduler.pbs import Pbs, parse_jobs, parse_queues, parse_reservations, parse_tags

DATA = Path(__file__).parents[1] / "data" / "openpbs-23.06"
WORDS = Pbs("/opt/pbs/bin", None)  # type: ignore[arg-type]


def test_the_hubs_jobs_are_read_and_no_others() -> None:
    jobs = parse_jobs((DATA / "qstat-jobs.json").read_text())
    assert set(jobs) == {"12.ctl", "13.ctl", "14.ctl", "16.ctl"}
    running, waiting, ended = jobs["12.ctl"], jobs["13.ctl"], jobs["14.ctl"]
    assert (running.phase, running.user, running.node) == (Phase.RUNNING, "alice", "c1")
    assert (waiting.phase, waiting.node) == (Phase.WAITING, None)
    assert waiting.start is not None
    assert "free nodes" in WORDS.explain(waiting)
    assert "wall time" in WORDS.explain(ended)
    assert jobs["16.ctl"].phase is Phase.WAITING


def test_tags_are_the_users_own() -> None:
    text = (DATA / "qstat-jobs.json").read_text()
    assert parse_tags(text, "alice") == {"demo:alice::aaaa": "12.ctl"}


def test_queues_are_read_with_limits_and_access() -> None:
    queues = parse_queues((DATA / "qstat-queues.json").read_text())
    assert set(queues) == {"regular", "gpu", "closed"}
    regular = queues["regular"]
    assert (regular.max_walltime_minutes, regular.max_cores, regular.max_memory_mib) == (720, 36, 111616)
    assert queues["gpu"].max_gpus == 4
    assert queues["gpu"].admits("alice", {"staff"}, Project("climate"))
    assert not queues["gpu"].admits("alice", {"users"}, Project("climate"))
    assert not queues["closed"].up


def test_reservations_admit_whom_they_name_while_they_run() -> None:
    tutorial, later = parse_reservations((DATA / "pbs_rstat.txt").read_text())
    assert tutorial.admits("alice", (), "climate")
    assert not tutorial.admits("bob", (), "climate")
    assert not later.admits("bob", (), "climate")


def test_an_empty_cluster_has_no_jobs() -> None:
    assert parse_jobs('{"timestamp":1, "pbs_server":"ctl"}') == {}


@pytest.mark.parametrize("text", ["", "qstat: cannot connect to server", "[]", '{"Jobs": 3}'])
def test_what_is_no_answer_says_nothing_about_jobs(text: str) -> None:
    with pytest.raises(SchedulerUnavailable):
        parse_jobs(text)
