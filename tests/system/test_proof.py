"""The main job, end to end, as alice does it in her browser: sign in, start, compute, give it back.

The tests are one story and follow each other; each says what is so at its point.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

pytestmark = pytest.mark.proof

Jobs = Callable[[str], list[dict[str, str]]]
NOTEBOOK = "/home/alice/ensemble.ipynb"
PLOTS = {"elevation", "uncertainty", "range", "snow", "austin"}
MINUTES = 60_000


@pytest.fixture(scope="module")
def page(signed_in: Callable[[str], BrowserContext], run: Callable[[str, str], str]) -> Page:
    """Alice's window, the same from the first test to the last; her Lab forgets what an earlier run had open."""
    run("login1", f"rm -rf {NOTEBOOK} /home/alice/.jupyter/lab/workspaces")
    return signed_in("alice").new_page()


def menu(page: Page, *path: str) -> None:
    """Choose from the Lab's own menu."""
    page.locator(".lm-MenuBar-itemLabel").get_by_text(path[0], exact=True).click()
    for name in path[1:]:
        entry = page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).last
        entry.hover()
        if name == path[-1]:
            entry.click()


def task_stream_beside_the_notebook(page: Page, dashboard: str) -> None:
    """Give the Lab's Dask panel the address, open the task stream, and drag it to the right of the notebook."""
    icon = page.locator(".jp-SideBar [data-id=dask-dashboard-launcher]")
    icon.click()
    panel = page.locator("#dask-dashboard-launcher")
    panel.locator("input").first.fill(dashboard)
    panel.locator("input").first.press("Enter")
    panel.get_by_role("button", name="Task Stream", exact=True).click()
    icon.click()  # closes the panel
    tab = page.locator("#jp-main-dock-panel .lm-TabBar-tab", has_text="Task Stream")
    expect(tab).to_be_visible()
    page.wait_for_timeout(500)  # until the panel is gone
    area = page.locator("#jp-main-dock-panel").bounding_box()
    tab.hover()
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, 10, steps=10)  # off by the top, where no frame takes the mouse
    page.mouse.move(area["x"] + area["width"] - 30, area["y"] + area["height"] / 2, steps=10)
    page.mouse.up()


@dataclass
class Evidence:
    """What could be seen while the notebook ran."""

    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    alices_page: str = ""
    bobs_status: int = 0
    images: int = 0
    bobs_page: str = ""
    notebook: dict[str, Any] = field(default_factory=dict)


def test_alice_signs_in_and_comes_to_the_form(page: Page, shot: Callable[[Page, str], None]) -> None:
    page.goto("/")
    page.goto("/hub/spawn")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    shot(page, "02-form")


def test_she_watches_the_pending_page_and_lands_in_jupyterlab(
    page: Page,
    choose: Callable[..., None],
    start: Callable[[Page], None],
    jobs: Jobs,
    wait_until: Callable[..., None],
    shot: Callable[[Page, str], None],
) -> None:
    choose(page, project="ocean", queue="regular", walltime="01:30", cores="2", memory="6")
    shot(page, "03-form-filled-in")
    start(page)
    page.wait_for_url("**/hub/spawn-pending/alice**")
    wait_until("alice has a job", lambda: jobs("alice"))
    number = jobs("alice")[0]["id"]
    expect(page.locator("body")).to_contain_text(number)
    expect(page.locator("body")).to_contain_text("ocean")
    shot(page, "04-pending")
    page.wait_for_url("**/user/alice/lab**", timeout=1.5 * MINUTES)
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=MINUTES)
    shot(page, "05-lab")


def test_the_job_belongs_to_alice_and_has_what_she_asked_for(
    jobs: Jobs, batch: Any, run: Callable[[str, str], str]
) -> None:
    (job,) = jobs("alice")
    assert {key: job[key] for key in ("user", "project", "queue", "state")} == {
        "user": "alice",
        "project": "ocean",
        "queue": "regular",
        "state": "RUNNING",
    }
    facts = dict(re.findall(r"([\w.]+) ?= ?(\S+)", run("ctl", batch.show.format(job=job["id"]))))
    assert facts.items() >= batch.asked.items()


@pytest.fixture(scope="module")
def evidence(
    page: Page,
    signed_in: Callable[[str], BrowserContext],
    jobs: Jobs,
    run: Callable[[str, str], str],
    wait_until: Callable[..., None],
    shot: Callable[[Page, str], None],
) -> Evidence:
    """Copy the notebook in a terminal, open it, run every cell by the menu, and look around while it runs."""
    seen = Evidence()
    bob = signed_in("bob").new_page()
    dashboard = page.context.new_page()

    menu(page, "File", "New", "Terminal")
    page.locator(".jp-Terminal .xterm-helper-textarea").wait_for(state="attached")
    page.wait_for_timeout(1500)  # until the shell has its prompt
    page.locator(".jp-Terminal .xterm-helper-textarea").focus()
    page.keyboard.type("cp /opt/hpchub/notebooks/ensemble.ipynb ~ && chmod u+w ensemble.ipynb\n", delay=5)
    wait_until("the notebook is copied", lambda: run("login1", f"ls {NOTEBOOK} 2>/dev/null || true"))
    shot(page, "06-terminal")

    menu(page, "File", "Open from Path…")
    page.locator(".jp-Dialog input").fill(NOTEBOOK)
    page.keyboard.press("Enter")
    indicator = page.locator(".jp-NotebookPanel:visible .jp-Notebook-ExecutionIndicator")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle", timeout=MINUTES)
    images = page.locator(".jp-NotebookPanel:visible .jp-OutputArea-output img")
    # As the notebook says: up to the dashboard first, open it, then go on.
    next_cell = page.locator(".jp-NotebookPanel:visible .jp-MarkdownCell", has_text="Where the mountains are")
    next_cell.click()
    menu(page, "Run", "Run All Above Selected Cell")
    link = page.locator(".jp-NotebookPanel:visible a", has_text="Open the dashboard")
    link.wait_for(state="attached", timeout=MINUTES)
    address = str(link.get_attribute("href"))
    task_stream_beside_the_notebook(page, address.removesuffix("/status"))
    dashboard.goto(address)
    expect(dashboard.locator("canvas").first).to_be_visible(timeout=MINUTES)  # plots come through a WebSocket
    seen.alices_page = dashboard.title()
    answer = bob.goto(address)
    seen.bobs_status, seen.bobs_page = (answer.status if answer else 0), bob.title()

    def running() -> bool:
        now = {job["id"]: job for job in jobs("alice")}
        seen.jobs.update(now)
        return any(job["name"] != "hpchub" and job["state"] == "RUNNING" for job in now.values())

    def done() -> bool:
        if running() and images.count():  # the last picture shows the most
            images.last.scroll_into_view_if_needed()
            shot(page, "07-lab-with-dashboard")
            shot(dashboard, "08-dashboard")
        return indicator.get_attribute("data-status") == "idle"

    next_cell.click()
    menu(page, "Run", "Run Selected Cell and All Below")
    wait_until("a worker runs", running, 90)
    wait_until("all cells have run", done, 240)
    seen.images = images.count()
    images.first.scroll_into_view_if_needed()
    shot(page, "09-notebook")
    menu(page, "File", "Save Notebook")

    def saved() -> bool:
        try:
            seen.notebook = json.loads(run("login1", f"cat {NOTEBOOK}"))
        except json.JSONDecodeError:  # the Lab is writing it
            return False
        cells = [cell for cell in seen.notebook["cells"] if cell["cell_type"] == "code"]
        return any(cell["execution_count"] for cell in cells)

    wait_until("the notebook is saved", saved)
    bob.close()
    dashboard.close()
    return seen


def test_every_cell_of_the_notebook_has_run_and_none_has_failed(evidence: Evidence) -> None:
    cells = [cell for cell in evidence.notebook["cells"] if cell["cell_type"] == "code"]
    errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert errors == []
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_every_plot_is_there(evidence: Evidence) -> None:
    plots = {
        cell["id"]
        for cell in evidence.notebook["cells"]
        for output in cell.get("outputs", [])
        if len(output.get("data", {}).get("image/png", "")) > 20_000
    }
    assert plots == PLOTS
    assert evidence.images == len(PLOTS)


def test_the_cluster_is_the_schedulers_and_needed_no_argument(evidence: Evidence, batch: Any) -> None:
    (cell,) = (cell for cell in evidence.notebook["cells"] if cell["id"] == "cluster")
    assert "Cluster()" in "".join(cell["source"])
    printed = "".join(text for output in cell["outputs"] for text in output.get("text", []))
    assert batch.cluster in printed


def test_workers_ran_as_jobs_of_alice_under_the_same_project_and_queue(evidence: Evidence) -> None:
    workers = [job for job in evidence.jobs.values() if job["name"] != "hpchub"]
    assert workers
    assert {(job["user"], job["project"], job["queue"]) for job in workers} == {("alice", "ocean", "regular")}


def test_the_dashboard_opens_through_the_hub_for_alice(evidence: Evidence) -> None:
    assert evidence.alices_page == "Dask: Status"


def test_the_dashboard_does_not_open_for_bob(evidence: Evidence) -> None:
    assert evidence.bobs_status in (403, 404)
    assert "Dask" not in evidence.bobs_page


def test_after_idling_only_the_labs_job_is_left(
    evidence: Evidence, jobs: Jobs, wait_until: Callable[..., None]
) -> None:
    wait_until("only the Lab is left", lambda: [job["name"] for job in jobs("alice")] == ["hpchub"], 60)
    (cell,) = (cell for cell in evidence.notebook["cells"] if cell["id"] == "idle")
    assert "0 worker jobs left" in "".join(text for output in cell["outputs"] for text in output.get("text", []))


def test_stop_my_server_leaves_no_job(
    page: Page, jobs: Jobs, wait_until: Callable[..., None], shot: Callable[[Page, str], None]
) -> None:
    page.goto("/hub/home")
    page.get_by_role("button", name="Stop My Server").or_(page.get_by_role("link", name="Stop My Server")).click()
    wait_until("alice has no job", lambda: not jobs("alice"), 60)
    wait_until("her page says so", lambda: page.goto("/hub/home") and page.get_by_text("Start My Server").count())
    shot(page, "10-stopped")
    page.close()
