"""A home directory that is full costs comfort, and is said in words."""

import re
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect


def test_erin_gets_a_lab_or_a_sentence_but_never_a_traceback(
    signed_in: Callable[[str], BrowserContext],
    choose: Callable[..., None],
    start: Callable[[Page], None],
    jobs: Callable[[str], list[dict[str, str]]],
    wait_until: Callable[..., None],
    api: Callable[..., object],
    shot: Callable[[Page, str], None],
) -> None:
    page = signed_in("erin").new_page()
    page.goto("/hub/spawn")
    choose(page, project="climate", queue="interactive", walltime="00:30")
    start(page)
    try:
        lab, refusal = (
            page.locator("#jp-main-dock-panel"),
            page.get_by_text(re.compile(r"home|ended|log", re.IGNORECASE)),
        )
        expect(lab.or_(refusal.locator("visible=true").first)).to_be_visible(timeout=90_000)
        shot(page, "erin")
        assert "Traceback" not in page.locator("body").inner_text()
        assert "Errno" not in page.locator("body").inner_text()
    finally:
        page.close()
        api("erin", "DELETE", "/users/erin/server")
    wait_until("erin has no job", lambda: not jobs("erin"), 60)
