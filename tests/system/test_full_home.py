"""A home directory that is full costs comfort, and is said in words."""

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
    before = {job["id"] for job in jobs("erin")}
    page = signed_in("erin").new_page()
    page.goto("/hub/spawn")
    choose(page, project="climate", queue="interactive", walltime="00:30")
    start(page)
    try:
        lab, refusal = (
            page.locator("#jp-main-dock-panel"),
            page.locator("#hpchub-failed:visible, #hpchub-error:visible"),
        )
        expect(lab.or_(refusal).first).to_be_visible(timeout=90_000)
        page.wait_for_load_state("networkidle")
        shot(page, "erin")
        words = page.locator("body").inner_text()
        assert "Traceback" not in words
        assert "Errno" not in words
    finally:
        page.close()
        api("erin", "DELETE", "/users/erin/server")
    wait_until("erin's job is gone", lambda: {job["id"] for job in jobs("erin")} <= before, 60)
