"""Who gets in, and what the others read."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

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


def test_a_wrong_pin_with_the_right_code_is_refused(
    stranger: Page, bobs_secret: str, sign_in: Callable[[Page, str, str], None]
) -> None:
    pin, code = bobs_secret[:-6], bobs_secret[-6:]
    sign_in(stranger, "bob", f"{int(pin) ^ 1:0{len(pin)}d}{code}")
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
    assert bobs_secret[-6:] not in run("login1", "journalctl --no-pager --output=cat --since=-10min -u 'hpchub*'")
