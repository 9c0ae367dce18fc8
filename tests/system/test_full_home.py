"""A home directory that is full costs comfort, is said in words, and can be made empty."""

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect


def test_erin_whose_home_is_full_reads_so_in_her_lab_and_can_delete_files(
    signed_in: Callable[[str], BrowserContext],
    choose: Callable[..., None],
    start: Callable[[Page], None],
    jobs: Callable[[str], list[dict[str, str]]],
    run: Callable[[str, str], str],
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
        notice = page.frame_locator(".jp-HTMLViewer iframe")
        expect(notice.get_by_text("Your home directory cannot be written")).to_be_visible(timeout=90_000)
        expect(notice.get_by_text("No space left on device")).to_be_visible()
        shot(page, "erin")
        words = page.locator("body").inner_text()
        assert "Traceback" not in words
        assert "Errno" not in words
        (node,) = {job["node"] for job in jobs("erin")}
        run(
            node, "mount -o remount,nr_inodes=2 /home/erin && touch /home/erin/old.dat && chown erin /home/erin/old.dat"
        )
        xsrf = next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and c["path"] == "/user/erin/")
        gone = page.request.delete("/user/erin/api/contents/home/erin/old.dat", headers={"X-XSRFToken": xsrf})
        assert gone.status == 204, gone.text()
        assert run(node, "find /home/erin -name 'old*'") == "", "what is deleted takes no room, not even in a trash"
    finally:
        page.close()
        api("erin", "DELETE", "/users/erin/server")
        for name in ("c1", "c2"):  # full again
            run(name, "find /home/erin -mindepth 1 -delete && mount -o remount,nr_inodes=1 /home/erin")
    wait_until("erin's job is gone", lambda: {job["id"] for job in jobs("erin")} <= before, 60)
