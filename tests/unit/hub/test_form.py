from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.hub.spawn_page import context
from hpchub.request import FIELDS, check
from hpchub.scheduler import JobState, Phase
from hpchub.scheduler.offers import Facts
from hpchub.settings import Cluster

if TYPE_CHECKING:
    from conftest import FakeScheduler


class Page(HTMLParser):
    """The fields of a form: attributes by name, options by field, labels, ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fields: dict[str, dict[str, Any]] = {}
        self.options: dict[str, list[str]] = {}
        self.chosen: dict[str, str] = {}
        self.labels: set[str] = set()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag in ("input", "select"):
            self._select = str(values["name"])
            self.fields[self._select] = values
        if tag == "option":
            self.options.setdefault(self._select, []).append(str(values["value"]))
            if "selected" in values:
                self.chosen[self._select] = str(values["value"])
        if tag == "label":
            self.labels.add(str(values["for"]))


def form(
    cluster: Cluster, facts: Facts | None, wish: dict[str, Any] | None = None, wrong: dict[str, str] | None = None
) -> Page:
    return Page(context.render(cluster, facts, wish or {}, wrong or {}))


def test_the_form_offers_the_users_projects_queues_and_reservations(cluster: Cluster, facts: Facts) -> None:
    page = form(cluster, facts)
    assert page.options["project"] == ["", "climate", "ocean"]
    assert page.options["queue"] == ["interactive", "regular", "gpu"]
    assert page.options["reservation"] == ["", "tutorial"]
    assert page.chosen["queue"] == "interactive"


def test_the_form_as_it_opens_is_a_good_wish_but_for_the_project(cluster: Cluster, facts: Facts) -> None:
    page = form(cluster, facts)
    wish = {name: field.get("value", page.chosen.get(name, "")) for name, field in page.fields.items()}
    assert set(wish) == set(FIELDS)
    wrong = check(wish, facts, cluster)
    assert isinstance(wrong, dict)
    assert set(wrong) == {"project"}


def test_every_field_has_a_label_and_its_help_and_no_id_is_doubled(cluster: Cluster, facts: Facts) -> None:
    wrong = {name: "Wrong." for name in FIELDS}
    for page in (form(cluster, facts), form(cluster, facts, {"project": "x"}, wrong)):
        assert page.labels == set(page.fields)
        assert len(page.ids) == len(set(page.ids))
        for field in page.fields.values():
            assert set(str(field["aria-describedby"]).split()) <= set(page.ids)


def test_wrong_input_comes_back_as_typed_with_its_message_and_the_focus_on_the_first(
    cluster: Cluster, facts: Facts
) -> None:
    typed = {"project": "climate", "queue": "regular", "walltime": "13:00", "cores": "2x", "memory": "4"}
    wrong = check(typed, facts, cluster)
    assert isinstance(wrong, dict)
    html = context.render(cluster, facts, typed, wrong)
    page = Page(html)
    assert page.fields["walltime"]["value"] == "13:00"
    assert page.fields["cores"]["value"] == "2x"
    assert page.chosen == {"project": "climate", "queue": "regular"} | page.chosen
    assert "13:00 is longer than the queue regular allows. Write 12:00 or less." in html
    assert [name for name, field in page.fields.items() if "autofocus" in field] == ["walltime"]
    assert page.fields["walltime"]["aria-invalid"] == "true"


def test_what_was_typed_never_becomes_markup(cluster: Cluster, facts: Facts) -> None:
    evil = '"><script>alert(1)</script>'
    typed: dict[str, object] = dict.fromkeys(FIELDS, evil)
    wrong = check(typed, facts, cluster)
    assert isinstance(wrong, dict)
    html = context.render(cluster, facts, typed, wrong)
    assert "<script>alert" not in html


def test_a_stored_choice_that_is_gone_is_not_offered_again(cluster: Cluster, facts: Facts) -> None:
    page = form(
        cluster, facts, {"project": "ice", "queue": "old", "reservation": "gone", "cores": "8", "walltime": ["x"]}
    )
    assert "ice" not in page.options["project"]
    assert page.chosen["queue"] == "interactive"
    assert page.fields["cores"]["value"] == "8"


def test_who_has_no_project_sees_the_sentence_and_no_form(cluster: Cluster) -> None:
    html = context.render(cluster, Facts(user="carol", projects=(), offers=()), {}, {})
    assert "You have no project on demo, carol" in html
    assert "help@example.org" in html
    assert not {"input", "select", "button"} & set(Page(html).tags)


def test_without_an_answer_of_the_scheduler_there_is_a_sentence_and_no_form(cluster: Cluster) -> None:
    html = context.render(cluster, None, {}, {})
    assert "scheduler does not answer" in html
    assert "button" not in Page(html).tags


def test_limits_of_all_queues_are_there_without_javascript(cluster: Cluster, facts: Facts) -> None:
    html = re.sub(r"<script.*?</script>", "", context.render(cluster, facts, {}, {}), flags=re.S)
    assert re.search(r"regular</th><td>12:00</td><td>36</td><td>109 GiB</td><td>0</td>", html)


def test_a_site_without_gpus_and_reservations_does_not_mention_them(cluster: Cluster, facts: Facts) -> None:
    plain = Facts(user="bob", projects=("climate",), offers=facts.offers[:1])
    page = form(cluster, plain)
    assert set(page.fields) == {"project", "queue", "walltime", "cores", "memory"}
    assert page.options["project"] == ["climate"]


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (None, "Submitted"),
        (JobState("7", "alice", Phase.WAITING, "PENDING", reason="Priority"), "Waiting in the queue"),
        (JobState("7", "alice", Phase.RUNNING, "RUNNING", node="c1"), "Starting"),
        (JobState("7", "alice", Phase.ENDED, "FAILED"), "Ending"),
    ],
)
def test_a_waiting_server_is_told_in_words(scheduler: FakeScheduler, job: JobState | None, state: str) -> None:
    status = context.status(None, "7", job, 0.0, scheduler)
    assert status["state"] == state
    assert status["job"] == "7"
    assert status["sentence"].endswith(".") or job is not None


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.9, "59 s"), (61, "1 min"), (7500, "2 h 5 min")])
def test_durations_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert context.duration(seconds) == words
