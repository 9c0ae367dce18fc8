from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpchub.privileged import durations
from hpchub.scheduler import JobState, Phase, Project, Queue, SchedulerUnavailable
from hpchub.scheduler.slurm import (
    PHASES,
    Slurm,
    parse_associations,
    parse_jobs,
    parse_nodes,
    parse_partitions,
    parse_reservations,
    parse_tags,
    phase_of,
)

RELEASES = sorted((Path(__file__).parents[1] / "data").glob("slurm-*"))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def recorded(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_jobs_of_all_users_are_read_with_phase_node_and_reason(recorded: Path) -> None:
    jobs = parse_jobs((recorded / "squeue-jobs.txt").read_text())
    states = {(job.state, job.phase, bool(job.node), job.reason) for job in jobs.values()}
    assert ("PENDING", Phase.WAITING, False, "BeginTime") in states
    assert ("PENDING", Phase.WAITING, False, "JobHeldUser") in states
    assert ("RUNNING", Phase.RUNNING, True, "") in states
    assert ("FAILED", Phase.ENDED, True, "NonZeroExitCode") in states
    assert {job.user for job in jobs.values()} == {"alice", "bob"}
    assert all(job.start is None or job.start > 1.6e9 for job in jobs.values())


def test_accounting_is_read_like_the_queue(recorded: Path) -> None:
    jobs = parse_jobs((recorded / "sacct.txt").read_text())
    assert {job.state for job in jobs.values()} >= {"CANCELLED", "FAILED", "COMPLETED", "RUNNING"}
    assert all(job.phase is Phase.ENDED for job in jobs.values() if job.state != "RUNNING")


def test_queues_are_read_with_their_limits(recorded: Path) -> None:
    nodes = parse_nodes((recorded / "sinfo.txt").read_text())
    queues = parse_partitions((recorded / "scontrol-partition.txt").read_text(), nodes)
    assert queues["interactive"] == Queue("interactive", True, 240, 36, 111616, 4)
    assert queues["regular"].max_walltime_minutes == 720
    assert queues["gpu"].max_gpus == 4


def test_projects_are_the_users_own_associations(recorded: Path) -> None:
    text = (recorded / "sacctmgr-alice.txt").read_text()
    assert [project.name for project in parse_associations(text)["alice"]] == ["climate", "ocean"]
    assert "bob" not in parse_associations(text)
    assert parse_associations((recorded / "sacctmgr-carol.txt").read_text()) == {}


def test_a_reservation_admits_only_those_it_names(recorded: Path) -> None:
    (tutorial,) = parse_reservations((recorded / "scontrol-reservation.txt").read_text())
    assert tutorial.name == "tutorial"
    assert tutorial.queue == "regular"
    assert tutorial.admits("alice", (), "climate")
    assert not tutorial.admits("bob", (), "climate")


def test_tags_are_read(recorded: Path) -> None:
    assert "demo:alice:two:bbbb" in parse_tags((recorded / "squeue-tags.txt").read_text()).values()


def test_no_reservations_is_an_answer_and_noise_is_none() -> None:
    assert parse_reservations("No reservations in the system\n") == []
    with pytest.raises(SchedulerUnavailable):
        parse_reservations("slurm_load_reservations error: Unable to contact slurm controller\n")


@pytest.mark.parametrize("line", ["", "slurm: warning", "1|alice|RUNNING", "x|alice|RUNNING|c1|1|None", "|||||"])
def test_a_line_of_another_kind_is_no_job(line: str) -> None:
    assert parse_jobs(line + "\n") == {}


@pytest.mark.parametrize("node", ["n/a", "None assigned", "c1;rm", "-c1", "c1/../x", "", "http://c1"])
def test_what_is_no_node_name_is_no_node(node: str) -> None:
    assert parse_jobs(f"1|alice|RUNNING|{node}|1|None\n")["1"].node is None


def test_an_unknown_state_never_counts_as_ended() -> None:
    assert phase_of("SOMETHING_NEW") is Phase.RUNNING
    assert phase_of("CANCELLED by 1000") is Phase.ENDED
    assert phase_of("COMPLETED+") is Phase.ENDED


@pytest.mark.parametrize("state", ["SUSPENDED", "STOPPED", "REQUEUE_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT"])
def test_a_job_that_may_come_back_is_alive(state: str) -> None:
    assert PHASES[state] in (Phase.WAITING, Phase.RUNNING)


def test_no_field_that_a_user_can_write_is_asked_about_other_users_jobs() -> None:
    seen: list[tuple[str, ...]] = []

    async def ask(argv: Sequence[str]) -> str:
        seen.append(tuple(argv))
        return ""

    asyncio.run(Slurm("/usr/bin", ask).jobs())
    (argv,) = seen
    form = next(arg for arg in argv if arg.startswith("--format="))
    assert argv[0] == "/usr/bin/squeue"
    assert not {"%k", "%j", "%Z", "%o"} & set(form.removeprefix("--format=").split("|"))


def test_an_association_without_a_partition_opens_all_queues_and_one_with_it_only_that() -> None:
    text = "climate|gpu|normal,long|alice\nocean|gpu|normal|alice\nocean||normal|alice\n"
    climate, ocean = parse_associations(text)["alice"]
    assert climate == Project("climate", frozenset({"gpu"}), frozenset({"normal", "long"}))
    assert ocean.queues is None


@pytest.mark.parametrize(
    ("fields", "admitted"),
    [
        ("AllowAccounts=ocean", False),
        ("AllowAccounts=climate,ocean", True),
        ("AllowAccounts=ALL DenyAccounts=climate", False),
        ("AllowGroups=staff", False),
        ("AllowGroups=users", True),
        ("AllowQos=long", False),
        ("AllowQos=normal", True),
        ("DenyQos=normal", False),
        ("State=DOWN", False),
    ],
)
def test_a_queue_admits_by_project_group_and_qos(fields: str, admitted: bool) -> None:
    queue = parse_partitions(f"PartitionName=q {fields} MaxTime=UNLIMITED\n", {})["q"]
    assert queue.max_walltime_minutes is None
    assert queue.admits("alice", {"users"}, Project("climate", None, frozenset({"normal"}))) is admitted


@pytest.mark.parametrize(("text", "minutes"), [("04:00:00", 240), ("1-00:30:00", 1470), ("UNLIMITED", None)])
def test_time_limits_are_read(text: str, minutes: int | None) -> None:
    assert durations.minutes(durations.of_days(text)) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"), [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1),shard:8", 4), ("gpu:a:1,gpu:b:2", 3)]
)
def test_gpus_of_a_node_are_counted(gres: str, gpus: int) -> None:
    assert parse_nodes(f"q|36+|111616+|{gres}\n")["q"] == (36, 111616, gpus)


@pytest.mark.parametrize(
    ("phase", "state", "reason", "words"),
    [
        (Phase.WAITING, "PENDING", "Priority", "Other jobs are ahead"),
        (Phase.WAITING, "PENDING", "ReqNodeNotAvail, UnavailableNodes:c[1-2]", "maintenance"),
        (Phase.WAITING, "PENDING", "SomethingNew", "The scheduler says: SomethingNew."),
        (Phase.ENDED, "TIMEOUT", "", "wall time"),
        (Phase.ENDED, "SOMETHING_NEW", "", "SOMETHING_NEW"),
    ],
)
def test_reasons_and_ends_are_told_in_plain_words(phase: Phase, state: str, reason: str, words: str) -> None:
    job = JobState("1", "alice", phase, state, reason=reason)
    assert words in Slurm("/usr/bin", None).explain(job)  # type: ignore[arg-type]
