"""Who gets in, and what the others read."""

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import APIResponse, BrowserContext, Page, expect

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("nothing_submitted")]

DENIED = "Sign-in refused. Check user name and secret."


@pytest.fixture(scope="module")
def bobs_secret(password: Callable[[str], str]) -> str:
    return password("bob")


@pytest.fixture
def stranger(visitor: Callable[[], BrowserContext]) -> Page:
    return visitor().new_page()


def test_the_login_page_says_what_to_type(stranger: Page, shot: Callable[[Page, str], None]) -> None:
    stranger.goto("/")
    expect(stranger.locator("label[for=password_input]")).to_contain_text("PIN followed by token code")
    expect(stranger.locator("input[name=username]")).to_be_focused()
    shot(stranger, "01-login")


def test_a_wrong_pin_with_the_right_code_is_refused_and_uses_the_code_up(
    stranger: Page, password: Callable[[str], str], sign_in: Callable[[Page, str, str], None]
) -> None:
    secret = password("carol")
    pin, code = secret[:-6], secret[-6:]
    for attempt in (f"{int(pin) ^ 1:0{len(pin)}d}{code}", secret):
        sign_in(stranger, "carol", attempt)
        expect(stranger.locator(".login_error")).to_contain_text(DENIED)
        assert stranger.context.request.get("/hub/api/user").status == 403


def test_pin_and_code_let_bob_in(
    stranger: Page,
    bobs_secret: str,
    sign_in: Callable[[Page, str, str], None],
    known: dict[str, BrowserContext],
) -> None:
    sign_in(stranger, "bob", bobs_secret)
    expect(stranger.get_by_text("bob").first).to_be_visible()
    assert stranger.context.request.get("/hub/home").ok
    known["bob"] = stranger.context


def test_a_code_that_was_used_is_refused_and_the_page_says_to_wait_for_the_next(
    stranger: Page, bobs_secret: str, sign_in: Callable[[Page, str, str], None], shot: Callable[[Page, str], None]
) -> None:
    sign_in(stranger, "bob", bobs_secret)
    expect(stranger.locator(".login_error")).to_contain_text("Each code works once: wait for the next one")
    expect(stranger.locator("input[name=username]")).to_have_value("bob")
    assert stranger.context.request.get("/hub/api/user").status == 403
    shot(stranger, "refused-replayed-code")


def test_a_pin_without_a_code_is_refused(
    stranger: Page, bobs_secret: str, sign_in: Callable[[Page, str, str], None]
) -> None:
    sign_in(stranger, "bob", bobs_secret[:-6])
    expect(stranger.locator(".login_error")).to_contain_text(DENIED)


def test_a_name_that_nobody_has_is_refused_in_the_same_words(
    stranger: Page, sign_in: Callable[[Page, str, str], None]
) -> None:
    sign_in(stranger, "mallory", "123456654321")
    expect(stranger.locator(".login_error")).to_contain_text(DENIED)


def test_root_is_refused_in_the_same_words(stranger: Page, sign_in: Callable[[Page, str, str], None]) -> None:
    sign_in(stranger, "root", "123456654321")
    expect(stranger.locator(".login_error")).to_contain_text(DENIED)


def test_dave_reads_that_his_account_is_closed_and_whom_to_ask(
    stranger: Page,
    password: Callable[[str], str],
    sign_in: Callable[[Page, str, str], None],
    shot: Callable[[Page, str], None],
) -> None:
    sign_in(stranger, "dave", password("dave"))
    error = stranger.locator(".login_error")
    expect(error).to_contain_text("account")
    expect(error).to_contain_text("help@example.org")
    assert DENIED not in error.inner_text()
    assert stranger.context.request.get("/hub/api/user").status == 403
    shot(stranger, "refused-dave")


def test_the_journal_has_a_line_for_each_attempt_and_no_secret(
    bobs_secret: str, run: Callable[[str, str], str]
) -> None:
    journal = run("login1", "journalctl --no-pager --output=cat --since=-10min")
    assert "bob" in journal
    assert bobs_secret not in journal


def guess(context: BrowserContext, user: str, secret: str, claimed: str) -> APIResponse:
    """Send the login form without a page, from an invented address; gives what the person would read."""
    context.request.get("/hub/login")
    xsrf = next(c["value"] for c in context.cookies() if c["name"] == "_xsrf" and c["path"] == "/hub/")
    form = {"username": user, "password": secret, "_xsrf": xsrf}
    claims = {"X-Real-Ip": claimed, "X-Forwarded-For": claimed, "Forwarded": f"for={claimed}"}
    return context.request.post("/hub/login", form=form, headers=claims)


def test_whoever_guesses_bobs_code_is_slowed_down_while_alice_signs_in_and_then_bob(
    visitor: Callable[[], BrowserContext],
    sign_in: Callable[[Page, str, str], None],
    password: Callable[[str], str],
    run: Callable[[str, str], str],
) -> None:
    guesser, asked = visitor(), "journalctl --no-pager --output=cat -t hpchub-login | grep -c 'user=\"bob\"' || true"
    before = int(run("login1", asked))
    answers = []
    while len(answers) < 9 and (not answers or answers[-1].status == 403):  # each pause is twice the one before
        answers.append(guess(guesser, "bob", "000000000000", f"203.0.113.{len(answers)}"))
    assert answers[-1].status == 429
    assert "203.0.113." not in run("login1", "journalctl --no-pager --output=cat --since=-5min"), "a claim was believed"
    words = re.search(r"Too many failed attempts to sign in. Wait (\d+) seconds?, then try again", answers[-1].text())
    assert words
    assert int(run("login1", asked)) - before == len(answers) - 1, "a throttled attempt reached PAM"

    alice = visitor().new_page()
    sign_in(alice, "alice", password("alice"))
    expect(alice.get_by_text("alice").first).to_be_visible()

    secret = password("bob")  # which may wait for the next code
    time.sleep(int(words[1]))
    bob = visitor().new_page()
    sign_in(bob, "bob", secret)
    expect(bob.get_by_text("bob").first).to_be_visible()


@pytest.fixture
def bobs_session(
    visitor: Callable[[], BrowserContext],
    sign_in: Callable[[Page, str, str], None],
    password: Callable[[str], str],
    run: Callable[[str, str], str],
    known: dict[str, BrowserContext],
) -> Iterator[BrowserContext]:
    """A browser in which bob has just signed in. Afterwards his account is good, and he has to sign in anew."""
    context = visitor()
    page = context.new_page()
    sign_in(page, "bob", password("bob"))
    expect(page.get_by_text("bob").first).to_be_visible()
    yield context
    run("login1", "usermod --expiredate '' bob")
    known.pop("bob", None)


def test_a_disabled_account_starts_nothing_and_has_lost_its_session(
    bobs_session: BrowserContext, run: Callable[[str, str], str]
) -> None:
    request = bobs_session.request
    assert request.get("/hub/api/user").ok
    run("login1", "usermod --expiredate 1 bob")
    xsrf = next(c["value"] for c in bobs_session.cookies() if c["name"] == "_xsrf" and c["path"] == "/hub/")
    headers = {"X-XSRFToken": xsrf, "Content-Type": "application/json"}
    assert request.post("/hub/api/users/bob/server", headers=headers, data="{}").status in (400, 403)
    assert request.get("/hub/api/user").status == 403
    assert "/hub/login" in request.get("/hub/home").url
    journal = run("login1", "journalctl --no-pager --output=cat -t hpchub-login")
    assert re.search('account result=(locked|expired) user="bob"', journal)  # which, depends on the stack of modules
    run("login1", "usermod --expiredate '' bob")
    assert request.get("/hub/api/user").status == 403  # a session does not revive with its account


@pytest.mark.soak
def test_a_disabled_account_that_does_nothing_else_is_out_within_five_minutes(
    bobs_session: BrowserContext, run: Callable[[str, str], str], wait_until: Callable[..., None]
) -> None:
    request = bobs_session.request
    run("login1", "usermod --expiredate 1 bob")
    wait_until("bob is out", lambda: request.get("/hub/api/user").status == 403, 300)
