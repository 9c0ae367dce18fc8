"""What a real OpenPBS 23.06 printed: tests/unit/data/openpbs-23.06."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from hpchub.scheduler import Phase, Place, Project, SchedulerUnavailable
from hpchub.scheduler.pbs import (
    Pbs,
    parse_jobs,
    parse_nodes,
    parse_places,
    parse_queues,
    parse_records,
    parse_reservations,
    parse_tags,
)

DATA = Path(__file__).parents[1] / "data" / "openpbs-23.06"
WORDS = Pbs("/opt/pbs/bin", None)  # type: ignore[arg-type]
ALICE = Project("climate")


def recorded(name: str) -> str:
    return (DATA / name).read_text()


def test_the_hubs_jobs_are_read_and_no_others() -> None:
    jobs = parse_jobs(recorded("qstat-jobs.txt"))
    assert set(jobs) == {"0.pbs", "1.pbs", "2.pbs", "3.pbs", "5.pbs", "6.pbs"}
    running, waiting, held, later = (jobs[f"{number}.pbs"] for number in (0, 2, 3, 6))
    assert (running.phase, running.user, running.node) == (Phase.RUNNING, "alice", "pbs")
    assert running.start is not None
    assert WORDS.explain(running) == ""
    assert (waiting.phase, waiting.user, waiting.node) == (Phase.WAITING, "bob", None)
    assert WORDS.explain(waiting) == "Waiting for free nodes."
    assert (held.phase, held.state) == (Phase.WAITING, "held")
    assert (later.phase, later.state) == (Phase.WAITING, "waiting for its time")
    assert WORDS.explain(later) == "Its earliest start has not come yet."
    assert later.start == datetime(2026, 12, 31, 23, 59).astimezone().timestamp()


def test_the_expected_start_is_read_and_the_time_of_submission_is_none() -> None:
    text = recorded("qstat-jobs.txt")
    assert parse_jobs(text)["2.pbs"].start is None
    estimated = "    queue = regular\n    estimated.start_time = Wed Nov 25 20:29:13 2026"
    start = parse_jobs(text.replace("    queue = regular", estimated))["2.pbs"].start
    assert start == 3600 + (parse_jobs(text)["0.pbs"].start or 0)
    unknown = "    queue = regular\n    estimated.start_time = UNKNOWN"
    assert parse_jobs(text.replace("    queue = regular", unknown))["2.pbs"].start is None


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "The job was cancelled."), (23, "The job reached its wall time."), (25, "(exit status 5)")],
)
def test_the_history_says_how_a_job_ended(number: int, words: str) -> None:
    job = parse_jobs(recorded("qstat-history.txt"))[f"{number}.pbs"]
    assert job.phase is Phase.ENDED
    assert words in WORDS.explain(job)


def test_tags_are_the_users_own() -> None:
    text = recorded("qstat-jobs.txt")
    assert parse_tags(text, "alice") == {f"{number}.pbs": "demo:00000000:alice::aaaa" for number in (0, 3)}
    assert set(parse_tags(text, "bob")) == {"1.pbs", "2.pbs"}


def test_no_value_of_one_users_job_becomes_a_line_about_another() -> None:
    """Mallory's variables hold line breaks of several kinds, with the attributes of a job of alice behind them."""
    text = recorded("qstat-hostile.txt")
    assert "Job_Owner = alice@pbs" in text
    assert "\u2028" in text
    assert {job.user for job in parse_jobs(text).values()} == {"mallory"}
    assert set(parse_jobs(text)) == {"16.pbs", "17.pbs"}
    assert parse_tags(text, "alice") == {}


def test_the_first_line_of_an_attribute_counts() -> None:
    text = "Job Id: 1.pbs\n    job_state = R\n    Variable_List = A=1\n    job_state = F\n"
    assert dict(parse_records(text))["1.pbs"]["job_state"] == "R"


def test_queues_are_read_with_the_tighter_of_their_own_limits_and_their_nodes() -> None:
    queues = parse_queues(recorded("qstat-queues.json"), parse_nodes(recorded("pbsnodes.json")))
    assert {"regular", "gpu", "closed"} <= set(queues)
    assert "submit" not in queues, "a routing queue runs nothing"
    regular = queues["regular"]
    assert (regular.max_walltime_minutes, regular.max_cores, regular.max_memory_mib) == (720, 4, 8192)
    assert queues["gpu"].max_walltime_minutes is None
    assert not queues["closed"].up


@pytest.mark.parametrize(
    ("user", "groups", "admitted"),
    [
        ("alice", {"gpuusers"}, True),
        ("bob", {"gpuusers"}, True),
        ("alice", {"users"}, False),
        ("mallory", {"gpuusers"}, False),
        ("carol", {"gpuusers"}, False),
    ],
)
def test_a_queue_admits_whom_both_its_access_lists_admit(user: str, groups: set[str], admitted: bool) -> None:
    queue = parse_queues(recorded("qstat-queues.json"), {})["gpu"]
    assert queue.admits(user, groups, ALICE) is admitted


def test_nodes_of_one_queue_count_for_that_queue_alone() -> None:
    nodes = parse_nodes(
        '{"nodes": {"a": {"resources_available": {"ncpus": 36, "mem": "109gb"}},'
        ' "b": {"queue": "gpu", "resources_available": {"ncpus": 8, "ngpus": 4}},'
        ' "c": {"resources_available": {"ncpus": 64, "Qlist": "large,huge"}}}}'
    )
    assert nodes == {"": (64, 111616, 0), "gpu": (8, 0, 4), "large": (64, 0, 0), "huge": (64, 0, 0)}


def test_reservations_admit_whom_they_name_while_they_run() -> None:
    tutorial, group, maintenance = parse_reservations(recorded("pbs_rstat.txt"))
    assert (tutorial.name, tutorial.title, tutorial.active, group.active) == ("R18", "tutorial", True, False)
    assert tutorial.admits("alice", (), "climate")
    assert not tutorial.admits("carol", (), "climate")
    running = dataclasses.replace(group, active=True)
    assert running.admits("alice", {"gpuusers"}, "climate")
    assert not running.admits("alice", (), "climate")
    assert not running.admits("bob", {"gpuusers"}, "climate"), "PBS wants user and group in its lists"
    assert maintenance.maintenance
    assert maintenance.start is not None
    assert not dataclasses.replace(maintenance, active=True).admits("root", (), "climate")


def test_an_empty_cluster_has_no_jobs_and_no_reservations() -> None:
    assert parse_jobs("") == {}
    assert parse_reservations("") == []


@pytest.mark.parametrize("text", ["qstat: cannot connect to server", "Job Id: x y\n", "    job_state = R\n"])
def test_what_is_no_answer_says_nothing_about_jobs(text: str) -> None:
    with pytest.raises(SchedulerUnavailable):
        parse_jobs(text)


@pytest.mark.parametrize("text", ["", "[]", '{"Queue": 3}'])
def test_what_is_no_answer_says_nothing_about_queues(text: str) -> None:
    with pytest.raises(SchedulerUnavailable):
        parse_queues(text, {})


def test_every_question_is_an_argument_list_without_a_shell() -> None:
    asked: list[Sequence[str]] = []

    async def ask(argv: Sequence[str]) -> str:
        asked.append(argv)
        return "{}" if "json" in argv else ""

    async def all_of_them() -> None:
        pbs = Pbs("/opt/pbs/bin/", ask)
        await pbs.jobs()
        await pbs.jobs({"3.pbs"})
        await pbs.places()
        await pbs.ended(["12.pbs", "3.pbs"])
        await pbs.tags("alice")
        await pbs.queues()
        await pbs.reservations()

    asyncio.run(all_of_them())
    assert ("/opt/pbs/bin/qstat", "-f", "-w") in asked
    assert ("/opt/pbs/bin/qstat", "-x", "-E", "-f", "-w", "3.pbs") in asked, "the poll asks about its own jobs"
    assert ("/opt/pbs/bin/qstat", "-u", "alice", "-f", "-w") in asked
    assert ("/opt/pbs/bin/qstat", "-i", "-w") in asked
    assert ("/opt/pbs/bin/qstat", "-E", "-f", "-w", "12.pbs", "3.pbs") in asked
    assert ("/opt/pbs/bin/pbs_rstat", "-f") in asked


def test_places_are_those_of_the_queue_in_the_servers_order() -> None:
    text = recorded("qstat-waiting.txt")
    assert parse_places(text) == {"4.ctl": Place(1, 2), "5.ctl": Place(2, 2)}
    assert parse_places(text.replace("01:30 Q", "01:30 H")) == {"5.ctl": Place(1, 1)}, "what is held is in nobody's way"
    assert parse_places(text.replace("4.ctl  ", "a long *")) == {"5.ctl": Place(1, 1)}


@pytest.mark.parametrize(
    "message",
    [
        "status 153: qstat: Unknown Job Id 999.ctl",
        "status 35: qstat: 2.ctl Job has finished, use -x or -H to obtain historical job information",
    ],
)
def test_jobs_that_are_all_gone_are_an_answer(message: str) -> None:
    async def gone(argv: Sequence[str]) -> str:
        raise SchedulerUnavailable(f"qstat failed with {message}")

    assert asyncio.run(Pbs("/opt/pbs/bin", gone).jobs({"2.ctl"})) == {}


def test_a_server_that_does_not_answer_about_jobs_is_no_answer() -> None:
    async def silent(argv: Sequence[str]) -> str:
        raise SchedulerUnavailable("qstat failed with status 15: qstat: cannot connect to server ctl (errno=15010)")

    with pytest.raises(SchedulerUnavailable):
        asyncio.run(Pbs("/opt/pbs/bin", silent).jobs({"2.ctl"}))


def test_a_server_that_keeps_no_history_is_asked_for_it_once() -> None:
    asked: list[Sequence[str]] = []

    async def ask(argv: Sequence[str]) -> str:
        asked.append(argv)
        return "" if "-x" in argv else recorded("qstat-jobs.txt")

    async def twice() -> None:
        pbs = Pbs("/opt/pbs/bin", ask)
        assert "0.pbs" in await pbs.jobs({"0.pbs"})
        assert "0.pbs" in await pbs.jobs({"0.pbs"})

    asyncio.run(twice())
    assert [argv[1] for argv in asked] == ["-x", "-E", "-E"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (12, "The job was cancelled."),
        (13, "The job's node failed. Start again; it will get another node."),
        (15, "The job was cancelled before it ran."),
    ],
)
def test_the_poll_sees_how_a_job_has_ended(number: int, words: str) -> None:
    async def ask(argv: Sequence[str]) -> str:
        return recorded("qstat-ended.txt")

    job = asyncio.run(Pbs("/opt/pbs/bin", ask).jobs({"12.ctl", "13.ctl", "14.ctl", "15.ctl"}))[f"{number}.ctl"]
    assert (job.user, job.phase) == ("bob", Phase.ENDED)
    assert WORDS.explain(job) == words
