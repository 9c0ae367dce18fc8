"""What may break around the hub: nothing is lost or doubled, no good server is dropped, and it is said in words.

After the form and the proof, which want a user without a server: this leaves one running.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
Api = Callable[..., tuple[int, Any]]
Wait = Callable[..., None]

OUTAGE_SECONDS = 25
"""Two polls or more."""
LOCK_SECONDS = 22


@pytest.fixture
def repair(run: Run, healthy: Callable[[], None]) -> Iterator[Callable[[str, str], None]]:
    """Commands that put right what a test broke, the last one first, whatever happens; the hub answers afterwards."""
    with ExitStack() as stack:
        yield lambda host, line: stack.callback(run, host, line) and None
    healthy()


@pytest.fixture
def bob(api: Api, jobs: Jobs, wait_until: Wait) -> Iterator[Callable[[], str]]:
    """Start bob's server and give the number of its one job; it is stopped afterwards."""

    def mine() -> list[str]:
        return [job["id"] for job in jobs("bob") if job["name"] == "hpchub"]

    def start() -> str:
        before = set(mine())
        wish = {"project": "climate", "queue": "interactive", "walltime": "00:30"}
        assert api("bob", "POST", "/users/bob/server", {"user_options": wish})[0] in (201, 202)
        wait_until("bob has a job", lambda: set(mine()) - before)
        (number,) = set(mine()) - before
        return number

    yield start
    api("bob", "DELETE", "/users/bob/server")
    wait_until("bob has no job", lambda: not mine(), 60)
    wait_until("the hub has noticed", lambda: api("bob", "GET", "/users/bob")[1]["servers"] == {}, 60)


@pytest.fixture
def state(api: Api) -> Callable[[str], dict[str, Any]]:
    """What the hub says about a user's server."""

    def ask(user: str) -> dict[str, Any]:
        server = api(user, "GET", f"/users/{user}")[1]["servers"].get("", {})
        return server if isinstance(server, dict) else {}

    return ask


@pytest.fixture
def says(signed_in: Callable[[str], BrowserContext]) -> Callable[[str, str], None]:
    """Look at bob's server as he does: this element of the page holds these words."""

    def look(element: str, words: str) -> None:
        page = signed_in("bob").new_page()
        page.goto("/user/bob/lab")
        expect(page.locator(element)).to_contain_text(words)
        page.close()

    return look


@pytest.fixture
def ready(bob: Callable[[], str], state: Callable[[str], dict[str, Any]], wait_until: Wait) -> Callable[[], str]:
    """Start bob's server and wait for his Lab; gives the number of its job."""

    def start() -> str:
        number = bob()
        wait_until("bob's Lab is ready", lambda: state("bob").get("ready"), 90)
        return number

    return start


def test_while_the_batch_system_is_down_the_lab_stays_and_the_form_says_so(
    lab: Callable[[str], str],
    signed_in: Callable[[str], BrowserContext],
    run: Run,
    batch: Any,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
    wait_until: Wait,
) -> None:
    number = lab("alice")
    request = signed_in("alice").request
    repair("ctl", f"systemctl start {batch.unit}")
    run("ctl", f"systemctl stop {batch.unit}")
    broken = time.monotonic()
    while time.monotonic() - broken < OUTAGE_SECONDS:
        assert request.get("/user/alice/api/status").ok
        assert state("alice")["ready"]
        time.sleep(5)
    page = signed_in("bob").new_page()
    page.goto("/hub/spawn")
    expect(page.locator("#hpchub-notice, [name=project]").first).to_be_visible()
    page.close()
    run("ctl", f"systemctl start {batch.unit}")
    wait_until("it answers", lambda: number in [job["id"] for job in jobs("alice")], 60)
    time.sleep(11)  # a poll
    assert state("alice")["ready"]
    assert [job["id"] for job in jobs("alice") if job["name"] == "hpchub"] == [number]


@pytest.mark.slurm("PBS has no accounting daemon")
def test_while_slurmdbd_is_down_the_lab_stays(
    lab: Callable[[str], str],
    signed_in: Callable[[str], BrowserContext],
    run: Run,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
) -> None:
    lab("alice")
    repair("ctl", "systemctl start slurmdbd")
    run("ctl", "systemctl stop slurmdbd")
    time.sleep(11)
    assert state("alice")["ready"]
    assert signed_in("alice").request.get("/user/alice/api/status").ok


@pytest.mark.slurm("PBS does without munge as built by default")
def test_while_munge_is_down_on_the_login_node_nothing_is_dropped_and_a_start_is_refused_in_words(
    lab: Callable[[str], str],
    api: Api,
    run: Run,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
) -> None:
    lab("alice")
    before = [job["id"] for job in jobs("bob")]
    repair("login1", "systemctl start munge")
    run("login1", "systemctl stop munge")
    time.sleep(11)
    assert state("alice")["ready"]
    status, answer = api("bob", "POST", "/users/bob/server", {"user_options": {"project": "climate"}})
    assert status >= 400
    assert any(words in json.dumps(answer) for words in ("please tell", "try again", "please ask")), answer
    run("login1", "systemctl start munge")
    assert [job["id"] for job in jobs("bob")] == before


def test_a_job_that_is_cancelled_from_outside_ends_the_session_and_the_page_says_so(
    ready: Callable[[], str],
    says: Callable[[str, str], None],
    run: Run,
    batch: Any,
    state: Callable[[str], dict[str, Any]],
    wait_until: Wait,
) -> None:
    number = ready()
    run("ctl", batch.cancel.format(job=number))
    wait_until("the hub has noticed", lambda: not state("bob"), 60)
    says("#hpchub-ended", f"job {number}) has ended. The job was cancelled.")


def test_a_node_that_fails_under_a_lab_ends_the_session_and_the_page_says_so(
    ready: Callable[[], str],
    says: Callable[[str, str], None],
    run: Run,
    batch: Any,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
    wait_until: Wait,
) -> None:
    number = ready()
    node = next(job["node"] for job in jobs("bob") if job["id"] == number)
    repair("ctl", batch.found.format(node=node))
    repair(node, batch.revive)
    run(node, batch.die)
    run("ctl", batch.lose.format(node=node))
    wait_until("the hub has noticed", lambda: not state("bob"), 90)
    says("#hpchub-ended", "node failed")


@pytest.mark.parametrize("back", ["on another node", "on the same node before the next poll"])
def test_a_requeued_job_becomes_the_same_server_again(
    back: str,
    ready: Callable[[], str],
    says: Callable[[str, str], None],
    signed_in: Callable[[str], BrowserContext],
    run: Run,
    batch: Any,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    drain: Callable[..., Callable[[], None]],
    wait_until: Wait,
) -> None:
    number = ready()
    node = jobs("bob")[0]["node"]
    drain(node if back == "on another node" else {"c1": "c2", "c2": "c1"}[node])
    request = signed_in("bob").request

    def started() -> str:
        request.get("/user/bob/lab")  # each Lab wants to see who comes
        answer = request.get("/user/bob/api/status")
        return str(answer.json().get("started", "")) if "json" in answer.headers["content-type"] else ""

    began = started()
    assert began
    run("ctl", batch.requeue.format(job=number))
    if back == "on another node":
        wait_until("the page says that it waits", lambda: state("bob").get("pending") == "spawn", 60)
        says("#hpchub-pending", number)
    if batch.again != "true":
        wait_until("the job waits", lambda: jobs("bob")[0]["state"] == "PENDING", 60)
        run("ctl", batch.again.format(job=number))

    wait_until("bob's next Lab answers at the same address", lambda: started() > began, 90)
    assert state("bob")["ready"]
    assert [job["id"] for job in jobs("bob")] == [number]
    assert (jobs("bob")[0]["node"] == node) is (back != "on another node")


@pytest.mark.parametrize("moment", ["pending", "starting", "running"])
def test_a_hub_that_is_killed_finds_its_one_job_again(
    moment: str,
    run: Run,
    batch: Any,
    jobs: Jobs,
    bob: Callable[[], str],
    state: Callable[[str], dict[str, Any]],
    drain: Callable[..., Callable[[], None]],
    healthy: Callable[[], None],
    wait_until: Wait,
) -> None:
    resume = drain() if moment == "pending" else lambda: None
    number = bob()
    if moment == "starting":
        wait_until("the job runs", lambda: [job["state"] for job in jobs("bob")] == ["RUNNING"])
    if moment == "running":
        wait_until("bob's Lab is ready", lambda: state("bob").get("ready"), 90)
    run("login1", "systemctl kill --signal=KILL hpchub && systemctl start hpchub")
    healthy()
    if moment == "pending":
        assert state("bob")["pending"] == "spawn"
        resume()
    wait_until("bob's Lab is ready", lambda: state("bob").get("ready"), 90)
    assert [job["id"] for job in jobs("bob")] == [number]


def test_a_hub_that_is_killed_while_it_submits_has_one_job_or_none_but_never_one_that_it_does_not_know(
    api: Api,
    signed_in: Callable[[str], BrowserContext],
    run: Run,
    batch: Any,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
    healthy: Callable[[], None],
    wait_until: Wait,
) -> None:
    assert signed_in("bob").request.get("/hub/spawn").ok  # the form's facts are fresh now
    repair("ctl", batch.thaw)
    run("ctl", batch.freeze)
    api("bob", "POST", "/users/bob/server", {"user_options": {"project": "climate", "walltime": "00:30"}})
    run("login1", "systemctl kill --signal=KILL hpchub")
    run("ctl", batch.thaw)
    run("login1", "systemctl start hpchub")
    healthy()
    try:
        wait_until("the hub and the scheduler agree", lambda: len(jobs("bob")) == bool(state("bob").get("ready")), 120)
        time.sleep(5)
        assert len(jobs("bob")) == bool(state("bob").get("ready"))
    finally:
        api("bob", "DELETE", "/users/bob/server")
    wait_until("bob has no job", lambda: not jobs("bob"), 60)


@pytest.fixture
def second(
    signed_in: Callable[[str], BrowserContext], choose: Callable[..., None], start: Callable[[Page], None], api: Api
) -> Iterator[Callable[[], None]]:
    """Ask for a second server of alice and do not wait for it; it is deleted afterwards."""

    def ask() -> None:
        page = signed_in("alice").new_page()
        page.goto("/hub/spawn/alice/second")
        choose(page, project="climate", queue="interactive", walltime="00:30")
        start(page)
        page.wait_for_url("**/spawn-pending/**")
        page.close()

    yield ask
    api("alice", "DELETE", "/users/alice/servers/second", {"remove": True})


@pytest.fixture
def undisturbed(
    signed_in: Callable[[str], BrowserContext],
    api: Api,
    jobs: Jobs,
) -> Iterator[Callable[[float], None]]:
    """For so long, alice's Lab and the hub's pages answer, and a new start is refused in words and without a job."""

    def watch(seconds: float) -> None:
        request, before = signed_in("alice").request, jobs("alice")
        end = time.monotonic() + seconds
        slowest = 0.0
        while time.monotonic() < end:
            began = time.monotonic()
            home = request.get("/hub/home", max_redirects=0)
            slowest = max(slowest, time.monotonic() - began)
            assert home.status == 200, home.text()
            assert request.get("/user/alice/api/status", max_redirects=0).ok
            time.sleep(1)
        print(f"slowest page: {slowest:.1f} s")
        assert slowest < 5
        wish = {"project": "climate", "queue": "interactive", "walltime": "00:30"}
        status, answer = api("alice", "POST", "/users/alice/servers/third", {"user_options": wish})
        assert (status, "try again in some minutes" in answer["message"]) == (503, True), answer
        assert [job["id"] for job in jobs("alice")] == [job["id"] for job in before]

    yield watch
    api("alice", "DELETE", "/users/alice/servers/third", {"remove": True})


def test_while_another_program_holds_the_database_labs_stay_and_afterwards_all_is_as_it_should_be(
    lab: Callable[[str], str],
    ready: Callable[[], str],
    second: Callable[[], None],
    undisturbed: Callable[[float], None],
    run: Run,
    batch: Any,
    jobs: Jobs,
    api: Api,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
    wait_until: Wait,
) -> None:
    def servers() -> dict[str, Any]:
        return dict(api("alice", "GET", "/users/alice")[1]["servers"])

    number, ending = lab("alice"), ready()
    process = run("login1", "systemctl show --property=MainPID hpchub")
    second()
    said = "journalctl --unit=hpchub --since=-2min --output=cat"
    wait_until("alice's second Lab comes up", lambda: "alice:second will listen" in run("login1", said), 60)
    starting = jobs("alice")[-1]["id"]
    hold = "import sqlite3, time; c = sqlite3.connect('/var/lib/hpchub/hub.sqlite'); c.execute('BEGIN EXCLUSIVE'); "
    repair("login1", "systemctl stop hpchub-test-lock 2>/dev/null || true")
    run("login1", f'systemd-run --unit=hpchub-test-lock --collect python3 -c "{hold}time.sleep(300)"')
    run("ctl", batch.cancel.format(job=ending))
    undisturbed(LOCK_SECONDS)
    assert state("bob"), "its end cannot have been written down"
    run("login1", "systemctl stop hpchub-test-lock")
    wait_until("bob's server has ended", lambda: not state("bob"), 30)
    wait_until("alice's second server is ready", lambda: servers()["second"]["ready"], 60)
    assert servers()[""]["ready"]
    assert [job["id"] for job in jobs("alice")] == [number, starting]
    assert jobs("bob") == []
    ready()
    assert run("login1", "systemctl show --property=MainPID hpchub") == process, "the hub was restarted"


@pytest.fixture
def small_disk(run: Run, healthy: Callable[[], None]) -> Iterator[None]:
    """The hub's state on a file system of 8 MiB; it is copied back afterwards."""
    there = "/var/lib/hpchub"
    copy = f"systemctl stop hpchub && mkdir /run/hpchub-test && cp -a {there}/. /run/hpchub-test"
    run("login1", f"{copy} && mount -t tmpfs -o size=8m,mode=0700,uid=hpchub,gid=hpchub tmpfs {there}")
    run("login1", f"cp -a /run/hpchub-test/. {there} && rm -r /run/hpchub-test && systemctl start hpchub")
    healthy()
    yield
    copy = f"systemctl stop hpchub && rm -f {there}/full && mkdir /run/hpchub-test && cp -a {there}/. /run/hpchub-test"
    run("login1", f"{copy} && umount {there} && rm -f {there}/hub.sqlite*")
    run("login1", f"cp -a /run/hpchub-test/. {there} && rm -r /run/hpchub-test && systemctl start hpchub")
    healthy()


def test_while_the_hubs_disk_is_full_labs_stay_and_afterwards_all_is_as_it_should_be(
    lab: Callable[[str], str],
    ready: Callable[[], str],
    small_disk: None,
    undisturbed: Callable[[float], None],
    run: Run,
    jobs: Jobs,
    api: Api,
    state: Callable[[str], dict[str, Any]],
    wait_until: Wait,
) -> None:
    number = lab("alice")
    ready()
    process = run("login1", "systemctl show --property=MainPID hpchub")
    run("login1", "cat /dev/zero > /var/lib/hpchub/full || df /var/lib/hpchub | grep -q 100%")
    api("bob", "DELETE", "/users/bob/server")
    undisturbed(5)
    assert state("alice")["ready"]
    assert state("bob").get("pending", "stop") == "stop", "its end waits to be written down, or has found room and is"
    run("login1", "rm /var/lib/hpchub/full")
    wait_until("bob's server has ended", lambda: not state("bob"), 60)
    assert [job["id"] for job in jobs("alice")] == [number]
    assert jobs("bob") == []
    ready()
    assert run("login1", "systemctl show --property=MainPID hpchub") == process, "the hub was restarted"


def test_a_job_of_this_hub_that_its_database_has_lost_is_cancelled_and_no_other_is(
    lab: Callable[[str], str],
    run: Run,
    batch: Any,
    jobs: Jobs,
    state: Callable[[str], dict[str, Any]],
    repair: Callable[[str, str], None],
    healthy: Callable[[], None],
    wait_until: Wait,
) -> None:
    number = lab("alice")
    tag = run("ctl", batch.tag.format(job=number))
    ours, nonce = tag.rsplit(":", 1)

    def submit(user: str, tag: str) -> str:
        number = run("login1", f'cd /tmp && su {user} -c "{batch.submit.format(tag=tag)}"')
        repair("ctl", f"{batch.cancel.format(job=number)} || true")
        return number

    lost = submit("alice", f"{ours}:{'0' * len(nonce)}")
    other = submit("alice", f"other:00000000:alice::{nonce}")
    forged = submit("bob", f"{ours}:{'1' * len(nonce)}")
    assert {number, lost, other} <= {job["id"] for job in jobs("alice")}
    repair(
        "login1", "sed -i 's/orphan_minutes: 1$/orphan_minutes: 10/' /etc/hpchub/site.yml && systemctl restart hpchub"
    )
    run("login1", "sed -i 's/orphan_minutes: 10$/orphan_minutes: 1/' /etc/hpchub/site.yml && systemctl restart hpchub")
    healthy()
    wait_until("the lost job is cancelled", lambda: lost not in [job["id"] for job in jobs("alice")], 150)
    assert {number, other} <= {job["id"] for job in jobs("alice")}
    assert forged in [job["id"] for job in jobs("bob")]
    assert state("alice")["ready"]
    journal = run("login1", "journalctl --unit=hpchub --since=-3min --output=cat")
    assert f"Cancelled job {lost} of alice: unknown to this hub for 1 minutes" in journal


def test_a_node_without_the_shared_software_is_named_as_the_reason_with_the_end_of_the_log(
    signed_in: Callable[[str], BrowserContext],
    choose: Callable[..., None],
    start: Callable[[Page], None],
    run: Run,
    repair: Callable[[str, str], None],
    shot: Callable[[Page, str], None],
) -> None:
    for node in ("c1", "c2"):
        repair(node, "umount /opt/hpchub")
        run(node, "mount --bind /mnt /opt/hpchub")
    page = signed_in("bob").new_page()
    page.goto("/hub/spawn")
    choose(page, project="climate", queue="interactive", walltime="00:30")
    start(page)
    words = page.locator("#hpchub-failed, #hpchub-error").first
    expect(words).to_contain_text("Its node cannot see JupyterLab's software.", timeout=60_000)
    expect(words).to_contain_text("/home/bob/.local/state/hpchub/")
    log = page.locator("#hpchub-log pre")
    expect(log).to_be_hidden()
    page.locator("#hpchub-log summary").click()
    expect(log).to_contain_text("No such file or directory")
    shot(page, "failed")
    page.close()


def test_who_waits_reads_why_with_and_without_javascript_may_be_told_and_can_give_up(
    signed_in: Callable[[str], BrowserContext],
    browser: Browser,
    url: str,
    choose: Callable[..., None],
    start: Callable[[Page], None],
    batch: Any,
    jobs: Jobs,
    drain: Callable[..., Callable[[], None]],
    shot: Callable[[Page, str], None],
    wait_until: Wait,
) -> None:
    drain()
    page = signed_in("bob").new_page()
    page.goto("/hub/spawn")
    choose(page, project="climate", queue="interactive", walltime="00:30")
    start(page)
    pending = page.locator("#hpchub-pending")
    expect(pending).to_contain_text(batch.drained, timeout=60_000)
    expect(pending.locator("[data-show=job]")).to_have_text(jobs("bob")[-1]["id"])
    expect(pending.locator("[data-show=place]")).to_have_text("1 of 1", timeout=60_000)
    expect(page).to_have_title(re.compile("Waiting in the queue"))
    assert "/waiting.svg" in str(page.locator("link[rel=icon]").get_attribute("href"))
    expect(page.get_by_role("button", name="Tell me when it starts")).to_be_visible()
    shot(page, "waiting")
    address = page.url
    page.close()
    plain = browser.new_context(
        base_url=url,
        ignore_https_errors=True,
        java_script_enabled=False,
        storage_state=signed_in("bob").storage_state(),
    )
    page = plain.new_page()
    page.goto(address)
    expect(page.locator("#hpchub-pending")).to_contain_text(batch.drained)
    page.get_by_role("button", name="Cancel").click()
    wait_until("bob's job is gone", lambda: jobs("bob") == [], 60)
    plain.close()


NOTED = """
(() => {
  const Real = window.Notification;
  window.Notification = class extends Real {
    constructor(title, options) {
      super(title, options);
      note({title, ...options});
    }
    static get permission() { return window.name === "undecided" ? "default" : Real.permission; }
    static requestPermission() { note("asked"); return Promise.resolve("default"); }
  };
  addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
    note([document.title, document.querySelector("link[rel=icon]").href]);
  }).observe(document.head, {subtree: true, childList: true, characterData: true, attributes: true}));
})();
"""


def test_who_waits_is_told_when_the_job_starts_and_is_asked_for_leave_only_by_a_click(
    signed_in: Callable[[str], BrowserContext],
    browser: Browser,
    url: str,
    bob: Callable[[], str],
    drain: Callable[..., Callable[[], None]],
    wait_until: Wait,
) -> None:
    resume = drain()
    number = bob()
    noted: list[Any] = []
    context = browser.new_context(
        base_url=url, ignore_https_errors=True, storage_state=signed_in("bob").storage_state()
    )
    context.grant_permissions(["notifications"], origin=url)
    context.expose_binding("note", lambda _source, what: noted.append(what))
    context.add_init_script(NOTED)
    page = context.new_page()
    page.goto("/hub/spawn-pending/bob")
    told = page.locator("#hpchub-notify")
    expect(told).to_have_text("You will be told when it starts")
    page.evaluate("window.name = 'undecided'")
    page.reload()
    expect(told).to_have_text("Tell me when it starts")
    assert "asked" not in noted
    told.click()
    wait_until("the browser was asked", lambda: "asked" in noted)
    page.evaluate("window.name = ''")
    page.reload()
    expect(page).to_have_title(re.compile("Waiting in the queue"))
    noted.clear()
    resume()
    page.wait_for_url("**/user/bob/lab**", timeout=90_000)
    (message,) = [what for what in noted if isinstance(what, dict)]
    assert re.fullmatch("Your Lab session on .+ is starting", message["title"])
    assert re.fullmatch(r"Your job runs on c[12]; JupyterLab is starting\.", message["body"])
    assert message["tag"] == f"hpchub-{number}"
    heads = [what for what in noted if isinstance(what, list)]
    assert any(title.startswith("Starting") and "/starting.svg" in icon for title, icon in heads), heads
    assert "asked" not in noted
    context.close()
