from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from hpchub.scheduler import Project, Queue, Reservation, SchedulerUnavailable
from hpchub.scheduler.live import Live, combine
from hpchub.settings import Projects, Site
from hpchub.spawn_page import context

if TYPE_CHECKING:
    from conftest import FakeScheduler

GROUPS = frozenset({"proj-climate", "proj-ice", "users", "hpcusers"})


async def own(scheduler: FakeScheduler, site: Site, source: Projects, printed: str = "") -> list[str]:
    async def ask(argv: Sequence[str]) -> str:
        assert argv == ("/usr/local/bin/projects", "--short", "alice")
        if not printed:
            raise SchedulerUnavailable("the program failed")
        return printed

    live = Live(scheduler, site.model_copy(update={"projects": source}), ask)
    return [project.name for project in await live._own_projects("alice", GROUPS)]


async def test_projects_are_the_schedulers_own_unless_the_site_says_otherwise(
    scheduler: FakeScheduler, site: Site
) -> None:
    assert await own(scheduler, site, Projects()) == ["climate", "ocean"]


async def test_projects_may_stand_in_the_inventory(scheduler: FakeScheduler, site: Site) -> None:
    source = Projects(members={"ocean": ("alice", "bob"), "ice": ("bob",), "air": ("alice",)})
    assert await own(scheduler, site, source) == ["air", "ocean"]


@pytest.mark.parametrize(
    ("pattern", "names"), [("proj-(.+)", ["climate", "ice"]), ("proj-.+", ["proj-climate", "proj-ice"]), ("x", [])]
)
async def test_projects_may_be_groups(scheduler: FakeScheduler, site: Site, pattern: str, names: list[str]) -> None:
    assert await own(scheduler, site, Projects(group_pattern=pattern)) == names


async def test_projects_may_come_from_a_program_of_the_site(scheduler: FakeScheduler, site: Site) -> None:
    source = Projects(command=("/usr/local/bin/projects", "--short"))
    assert await own(scheduler, site, source, "climate\n  ocean\n\n-x\nwith blank\n") == ["climate", "ocean"]
    with pytest.raises(SchedulerUnavailable):
        await own(scheduler, site, source)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"members": {"a": ["b"]}, "group_pattern": "x"}, "more than one source"),
        ({"command": ["projects"]}, "must be an absolute path"),
        ({"group_pattern": "("}, "is not a regular expression"),
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
    scheduler: FakeScheduler, site: Site, begins: float, ends: float, words: str
) -> None:
    now = time.time()
    window = Reservation("maint", True, maintenance=True, start=now + begins, end=now + ends)
    facts = combine(site, "alice", GROUPS, (Project("climate"),), (Queue("regular"),), (window,))
    assert facts.reservations == ()
    form = context.render(site, facts, {}, {})
    assert ("hpchub-maintenance" in form) is bool(words)
    assert words in form
