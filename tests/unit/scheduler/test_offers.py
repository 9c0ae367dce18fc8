from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from hpchub.hub.spawn_page import context
from hpchub.scheduler import Project, Queue, Reservation, SchedulerUnavailable
from hpchub.scheduler.offers import Live, combine
from hpchub.scheduler.rate_limit import Bucket, CoalescingLookup
from hpchub.scheduler.slurm import Slurm
from hpchub.settings import Cluster, Projects

if TYPE_CHECKING:
    from conftest import FakeScheduler

GROUPS = frozenset({"proj-climate", "proj-ice", "users", "hpcusers"})


async def own(scheduler: FakeScheduler, cluster: Cluster, source: Projects, printed: str = "") -> list[str]:
    async def ask(argv: Sequence[str]) -> str:
        assert argv == ("/usr/local/bin/projects", "--short", "alice")
        if not printed:
            raise SchedulerUnavailable("the program failed")
        return printed

    live = Live(scheduler, cluster.model_copy(update={"projects": source}), ask)
    return [project.name for project in await live._own_projects("alice", GROUPS)]


async def test_projects_are_the_schedulers_own_unless_the_site_says_otherwise(
    scheduler: FakeScheduler, cluster: Cluster
) -> None:
    assert await own(scheduler, cluster, Projects()) == ["climate", "ocean"]


async def test_projects_may_stand_in_the_inventory(scheduler: FakeScheduler, cluster: Cluster) -> None:
    source = Projects(members={"ocean": ("alice", "bob"), "ice": ("bob",), "air": ("alice",)})
    assert await own(scheduler, cluster, source) == ["air", "ocean"]


@pytest.mark.parametrize(
    ("pattern", "names"), [("proj-(.+)", ["climate", "ice"]), ("proj-.+", ["proj-climate", "proj-ice"]), ("x", [])]
)
async def test_projects_may_be_groups(
    scheduler: FakeScheduler, cluster: Cluster, pattern: str, names: list[str]
) -> None:
    assert await own(scheduler, cluster, Projects(group_pattern=pattern)) == names


async def test_projects_may_come_from_a_program_of_the_site(scheduler: FakeScheduler, cluster: Cluster) -> None:
    source = Projects(command=("/usr/local/bin/projects", "--short"))
    assert await own(scheduler, cluster, source, "climate\n  ocean\n\n-x\nwith blank\n") == ["climate", "ocean"]
    with pytest.raises(SchedulerUnavailable):
        await own(scheduler, cluster, source)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"members": {"a": ["b"]}, "group_pattern": "x"}, "more than one source"),
        ({"command": ["projects"]}, "must be an absolute path"),
        ({"group_pattern": "("}, "should be a regular expression"),
    ],
)
def test_a_wrong_source_of_projects_is_refused_with_a_sentence(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Projects.model_validate(wrong)


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (3600, 7200, "A maintenance begins"),
        (-60, 3600, "Nodes are in maintenance until"),
        (-7200, -3600, ""),
    ],
)
def test_the_form_tells_of_the_next_maintenance_and_of_no_past_one(
    scheduler: FakeScheduler, cluster: Cluster, begins: float, ends: float, words: str
) -> None:
    now = time.time()
    window = Reservation("maint", True, maintenance=True, start=now + begins, end=now + ends)
    facts = combine(cluster, "alice", GROUPS, (Project("climate"),), (Queue("regular"),), (window,))
    assert facts.reservations == ()
    form = context.render(cluster, facts, {}, {})
    assert ("hpchub-maintenance" in form) is bool(words)
    assert words in form


PARTITION = "PartitionName=regular AllowAccounts=ALL AllowGroups=ALL AllowQos=ALL State=UP MaxTime=12:00:00\n"


async def test_a_class_that_opens_the_form_does_not_storm_the_scheduler(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.scheduler.slurm.QUESTIONS_PER_MINUTE", 600.0)  # a minute of the test takes 1.2 s
    asked: list[Sequence[str]] = []

    async def ask(argv: Sequence[str]) -> str:
        asked.append(argv)
        await asyncio.sleep(0.02)
        program = argv[0].rsplit("/", 1)[-1]
        if program == "sacctmgr":
            users = [f"user{number}" for number in range(190)] if argv[-2] == "associations" else [argv[-2][5:]]
            return "".join(f"climate||normal|{user}\n" for user in users if user != "user7")
        if program == "sinfo":
            return "regular|36|111616|(null)\n"
        return PARTITION if argv[-1] == "partition" else "No reservations in the system\n"

    live = Live(Slurm("/usr/bin", ask), cluster)

    async def form(number: int) -> tuple[str, ...]:
        await asyncio.sleep(1.2 * number / 190)
        return (await live.facts(f"user{number}")).projects

    projects = await asyncio.gather(*(form(number) for number in range(190)))
    assert [number for number, names in enumerate(projects) if names != ("climate",)] == [7], "each has his own answer"
    by_program = Counter(argv[0].rsplit("/", 1)[-1] for argv in asked)
    assert by_program.pop("sacctmgr") <= 12 + 3 + 1
    assert by_program == {"scontrol": 2, "sinfo": 1}


async def test_who_gives_up_a_shared_question_leaves_the_others_their_answer() -> None:
    async def ask(user: str) -> dict[str, str]:
        await asyncio.sleep(0.05)
        return {name: f"{name} of {user or 'everybody'}" for name in ("alice", "bob", "carol")}

    together = CoalescingLookup(ask, Bucket(0.1, 1), 60)
    alone, first, other = (asyncio.ensure_future(together.get(user)) for user in ("carol", "alice", "bob"))
    await asyncio.sleep(0.02)
    first.cancel()
    assert await alone == "carol of carol"
    assert await other == "bob of everybody"


async def test_a_shared_question_that_fails_fails_for_all_and_is_asked_again_a_little_later() -> None:
    now = 0.0
    answers = [SchedulerUnavailable("down"), {"alice": 1}]

    async def ask(user: str) -> dict[str, int]:
        assert user == ""
        answer = answers.pop(0)
        if isinstance(answer, SchedulerUnavailable):
            raise answer
        return answer

    together = CoalescingLookup(ask, Bucket(1, 0, lambda: 0.0), 60, lambda: now)
    for _ in range(3):
        failed = await asyncio.gather(together.get("alice"), together.get("bob"), return_exceptions=True)
        assert [type(one) for one in failed] == [SchedulerUnavailable, SchedulerUnavailable]
        now += 2
    assert await together.get("alice") == 1
    now += 59
    assert await together.get("bob") is None, "what is known about everybody is known about him"
