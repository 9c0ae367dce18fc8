"""What the form offers to whom, and what it refuses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

Api = Callable[..., tuple[int, Any]]

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("nothing_submitted")]


@pytest.fixture
def form(signed_in: Callable[[str], BrowserContext]) -> Iterator[Callable[[str], Page]]:
    pages = []

    def open_as(user: str) -> Page:
        pages.append(signed_in(user).new_page())
        pages[-1].goto("/hub/spawn")
        return pages[-1]

    yield open_as
    for page in pages:
        page.close()


def offered(page: Page, name: str) -> set[str]:
    """The values that can be chosen; "" stands for none."""
    return set(page.locator(f"select[name={name}] option").evaluate_all("all => all.map(one => one.value)")) - {""}


def message(page: Page, name: str) -> str:
    """What is written at a field, as somebody who cannot see the page is told it."""
    field = page.locator(f"[name={name}]").first
    expect(field).to_have_attribute("aria-invalid", "true")
    described = str(field.get_attribute("aria-describedby")).split()
    return " ".join(page.locator(f"[id='{one}']").inner_text() for one in described)


def test_alice_sees_exactly_her_projects_the_queues_and_her_reservation(
    form: Callable[[str], Page], reservation: str
) -> None:
    page = form("alice")
    assert offered(page, "project") == {"climate", "ocean"}
    assert offered(page, "queue") == {"interactive", "regular", "gpu"}
    assert offered(page, "reservation") == {reservation}
    assert "tutorial" in page.locator("select[name=reservation]").inner_text()


def test_bob_sees_his_one_project_and_no_reservation(form: Callable[[str], Page]) -> None:
    page = form("bob")
    assert offered(page, "project") == {"climate"}
    assert offered(page, "reservation") == set()


def test_the_form_shows_the_limits_of_the_queue_that_is_chosen(
    form: Callable[[str], Page], choose: Callable[..., None]
) -> None:
    page = form("alice")
    choose(page, queue="interactive")
    expect(page.locator("#help-walltime")).to_contain_text("04:00")
    expect(page.locator("#help-cores")).to_contain_text("36")
    choose(page, queue="regular")
    expect(page.locator("#help-walltime")).to_contain_text("12:00")


def test_carol_reads_that_she_has_no_project_and_whom_to_ask(
    form: Callable[[str], Page], shot: Callable[[Page, str], None]
) -> None:
    page = form("carol")
    expect(page.get_by_text("You have no project")).to_be_visible()
    expect(page.get_by_text("help@example.org").first).to_be_visible()
    expect(page.get_by_role("button", name="Start", exact=True)).to_have_count(0)
    shot(page, "refused-carol")


def test_a_wall_time_above_the_limit_comes_back_with_a_message_at_the_field_and_what_was_typed(
    form: Callable[[str], Page],
    choose: Callable[..., None],
    start: Callable[[Page], None],
    shot: Callable[[Page, str], None],
) -> None:
    page = form("alice")
    choose(page, project="ocean", queue="interactive", walltime="05:30", cores="3", memory="6")
    start(page)
    expect(page.locator("[name=walltime]")).to_have_value("05:30")
    assert "05:30 is longer than the queue interactive allows. Write 04:00 or less." in message(page, "walltime")
    expect(page.locator("[name=cores]")).to_have_value("3")
    expect(page.locator("[name=memory]")).to_have_value("6")
    assert page.locator("[name=project]").first.evaluate("field => new FormData(field.form).get('project')") == "ocean"
    shot(page, "refused-walltime")


def test_several_wrong_fields_each_get_their_own_message(
    form: Callable[[str], Page], choose: Callable[..., None], start: Callable[[Page], None]
) -> None:
    page = form("alice")
    choose(page, project="climate", walltime="soon", cores="37")
    start(page)
    assert "is not a duration" in message(page, "walltime")
    assert "37 is more than the 36 cores" in message(page, "cores")


def test_markup_that_was_typed_comes_back_as_text(
    form: Callable[[str], Page], choose: Callable[..., None], start: Callable[[Page], None]
) -> None:
    page = form("alice")
    choose(page, project="climate", walltime='"><b id="evil">1</b>')
    start(page)
    expect(page.locator("[name=walltime]")).to_have_value('"><b id="evil">1</b>')
    expect(page.locator("#evil")).to_have_count(0)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"project": "climate", "queue": "secret"}, "'secret' is not a queue that you can use here"),
        ({"project": "physics", "queue": "interactive"}, "'physics' is not one of your projects"),
        ({"project": "climate", "walltime": "9-00:00:00"}, "is longer than the queue"),
        ({"project": "climate", "reservation": "maintenance"}, "is not a reservation that you may use"),
        ({"project": "climate", "partition": "regular"}, "'partition' cannot be chosen here"),
        ({"project": "climate", "cores": "1; touch /tmp/evil"}, "is not a number of cores"),
    ],
)
def test_rest_refuses_what_the_form_refuses_in_the_same_words(api: Api, wish: dict[str, str], words: str) -> None:
    status, answer = api("alice", "POST", "/users/alice/server", {"user_options": wish})
    assert status == 400
    assert words in answer["message"]


def test_bob_may_not_use_alices_project_or_reservation(api: Api, reservation: str) -> None:
    status, answer = api("bob", "POST", "/users/bob/server", {"user_options": {"project": "ocean"}})
    assert (status, "'ocean' is not one of your projects" in answer["message"]) == (400, True)
    status, answer = api("bob", "POST", "/users/bob/server", {"user_options": {"reservation": reservation}})
    assert (status, f"'{reservation}' is not a reservation that you may use" in answer["message"]) == (400, True)


def test_bob_may_not_start_or_stop_for_alice(api: Api) -> None:
    assert api("bob", "POST", "/users/alice/server", {})[0] in (403, 404)
    assert api("bob", "DELETE", "/users/alice/server")[0] in (403, 404)


@pytest.mark.parametrize("link", ["/hub/spawn?opt-project=climate", "/hub/spawn/alice?project=climate&queue=regular"])
def test_a_link_from_elsewhere_starts_nothing(signed_in: Callable[[str], BrowserContext], url: str, link: str) -> None:
    page = signed_in("alice").new_page()
    page.goto("data:text/html,<p>A prize for you</p>")
    page.evaluate("address => { location.href = address }", url + link)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    page.close()
