"""A running container cluster, people who sign in to it, and what is printed when a test fails.

CLUSTER is demo, test or a name of yours with a CLUSTER_PORT; all are the same to the tests. Screenshots stay in
build/screenshots/$CLUSTER-$SUITE.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from testinfra.host import Host

ROOT = Path(__file__).parents[2]
CLUSTER = os.environ.get("CLUSTER", "demo")
PORT = int(os.environ.get("CLUSTER_PORT") or {"demo": 8443}.get(CLUSTER, 9443))
SCREENSHOTS = ROOT / "build" / "screenshots" / f"{CLUSTER}-{os.environ.get('SUITE', 'trixie')}"
HOSTS = ("ctl", "login1", "c1", "c2")
JOB = {"id": "%A", "user": "%u", "project": "%a", "queue": "%P", "state": "%T", "name": "%j", "node": "%N"}

# podman as the cluster needs it.
os.environ["PATH"] = f"{ROOT / 'molecule' / 'bin'}:{os.environ['PATH']}"
expect.set_options(timeout=15_000)


@pytest.fixture(scope="session")
def host() -> Callable[[str], Host]:
    """Give a host of the cluster by its short name."""
    known = {name: testinfra.get_host(f"podman://hpchub-{CLUSTER}-{name}") for name in HOSTS}
    return known.__getitem__


@pytest.fixture(scope="session")
def run(host: Callable[[str], Host]) -> Callable[[str, str], str]:
    """Run a command as root on a host and give its output; it has to succeed."""

    def command(name: str, line: str) -> str:
        done = host(name).run(line)
        assert done.rc == 0, f"{name}: {line}\n{done.stdout}{done.stderr}"
        return str(done.stdout).strip()

    return command


@pytest.fixture(scope="session")
def url() -> str:
    """The hub's address, without a slash at the end."""
    return f"https://127.0.0.1:{PORT}"


@pytest.fixture(scope="session")
def password() -> Callable[[str], str]:
    """PIN and current code of a user; each works once, so this may wait for the next."""

    def ask(user: str) -> str:
        done = subprocess.run(
            [ROOT / "molecule" / "bin" / "password", user],
            env={**os.environ, "CLUSTER": CLUSTER},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return ask


@pytest.fixture(scope="session")
def jobs(run: Callable[[str, str], str]) -> Callable[[str], list[dict[str, str]]]:
    """The jobs of a user in the queue, oldest first, as Slurm sees them."""

    def queue(user: str) -> list[dict[str, str]]:
        lines = run("ctl", f"squeue --noheader --user={user} --sort=i --format='{'|'.join(JOB.values())}'").splitlines()
        return [dict(zip(JOB, line.split("|"), strict=True)) for line in lines]

    return queue


@pytest.fixture
def nothing_submitted(run: Callable[[str, str], str]) -> Iterator[None]:
    """Fail if the test has submitted a job, even one that is over already."""

    def last() -> str:
        return run("ctl", "scontrol show config | grep NEXT_JOB_ID")

    before = last()
    yield
    assert last() == before, "a job was submitted"


# -- the browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, quiet, for which every name of example.org is this machine."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
    quiet.append("--host-resolver-rules=MAP *.example.org 127.0.0.1")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage", *quiet]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def visitor(browser: Browser, url: str) -> Callable[[], BrowserContext]:
    """A new person at the door: no cookies. The cluster's certificate is self-signed."""

    def enter() -> BrowserContext:
        return browser.new_context(
            base_url=url, ignore_https_errors=True, viewport={"width": 1280, "height": 860}, locale="en-GB"
        )

    return enter


@pytest.fixture(scope="session")
def sign_in() -> Callable[[Page, str, str], None]:
    """Fill in the login page and send it."""

    def fill(page: Page, user: str, secret: str) -> None:
        page.goto("/hub/login")
        page.fill("input[name=username]", user)
        page.fill("input[name=password]", secret)
        page.click("#login_submit, input[type=submit], button[type=submit]")

    return fill


@pytest.fixture(scope="session")
def known() -> dict[str, BrowserContext]:
    """Who is signed in."""
    return {}


@pytest.fixture(scope="session")
def signed_in(
    known: dict[str, BrowserContext],
    visitor: Callable[[], BrowserContext],
    sign_in: Callable[[Page, str, str], None],
    password: Callable[[str], str],
) -> Callable[[str], BrowserContext]:
    """The browser of a user, signed in once for all tests."""

    def enter(user: str) -> BrowserContext:
        if user not in known:
            context = visitor()
            page = context.new_page()
            sign_in(page, user, password(user))
            page.wait_for_url(lambda address: "/hub/login" not in address)
            page.close()
            known[user] = context
        return known[user]

    return enter


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """An empty directory for this run's pictures."""
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    return SCREENSHOTS


@pytest.fixture(scope="session")
def shot(screenshots: Path) -> Callable[[Page, str], None]:
    """Keep a picture of the page."""

    def keep(page: Page, name: str) -> None:
        page.screenshot(path=screenshots / f"{name}.png")

    return keep


# -- the hub


@pytest.fixture(scope="session")
def api(signed_in: Callable[[str], BrowserContext]) -> Callable[..., tuple[int, Any]]:
    """Ask the hub's REST API as a user whose browser is signed in: status and JSON (or text)."""

    def ask(user: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        context = signed_in(user)
        xsrf = next((c["value"] for c in context.cookies() if c["name"] == "_xsrf" and c["path"] == "/hub/"), "")
        answer = context.request.fetch(
            f"/hub/api{path}",
            method=method,
            headers={"X-XSRFToken": xsrf, "Content-Type": "application/json"},
            data=None if body is None else json.dumps(body),
        )
        text = answer.text()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    return ask


@pytest.fixture(scope="session")
def choose() -> Callable[..., None]:
    """Fill in the form; what is not named stays as it is."""

    def fill(page: Page, **wanted: str) -> None:
        for name, value in wanted.items():
            field = page.locator(f"[name={name}]")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)

    return fill


@pytest.fixture(scope="session")
def start() -> Callable[[Page], None]:
    """Press Start on the form."""

    def press(page: Page) -> None:
        page.get_by_role("button", name="Start", exact=True).click()

    return press


@pytest.fixture(scope="session")
def lab(
    signed_in: Callable[[str], BrowserContext],
    api: Callable[..., tuple[int, Any]],
    jobs: Callable[[str], list[dict[str, str]]],
    choose: Callable[..., None],
    start: Callable[[Page], None],
) -> Iterator[Callable[[str], str]]:
    """A user's running Lab, started by the form unless it runs already; gives the number of its job."""
    users = set()

    def running(user: str) -> str:
        users.add(user)
        page = signed_in(user).new_page()
        page.goto("/hub/spawn")
        if "/hub/spawn" in page.url:
            choose(page, project="climate", queue="interactive", walltime="00:30")
            start(page)
        page.wait_for_url(f"**/user/{user}/lab**", timeout=90_000)
        page.close()
        return next(job["id"] for job in jobs(user) if job["name"] == "hpchub")

    yield running
    for user in users:
        api(user, "DELETE", f"/users/{user}/server")


# -- what is printed when a test fails


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the cluster has to say to a failure."""
    report = yield
    if report.failed:
        report.sections += [(what, diagnose(*command)) for what, command in DIAGNOSES.items()]
        for number, page in enumerate(open_pages(item)):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"failed-{item.name}-{number}.png")
            report.sections.append((f"page {page.url}", page.locator("body").inner_text()[:3000]))
    return report


DIAGNOSES = {
    "journal of the hub's units": (
        "login1",
        "journalctl --no-pager --lines=60 --output=short-iso --since=-3min"
        " -u hpchub -u hpchub-proxy -u 'hpchub-login@*' -u hpchub-login.socket",
    ),
    "jobs": ("ctl", "squeue --long; sacct --allusers --allocations --starttime=now-10minutes"),
    "log of the newest job": (
        "login1",
        "f=$(ls -t /home/*/.local/state/hpchub/*.log 2>/dev/null | head -1); echo $f; tail -n 40 $f",
    ),
}


def diagnose(name: str, line: str) -> str:
    """Give whatever the command says."""
    command = ["podman", "exec", f"hpchub-{CLUSTER}-{name}", "bash", "-c", line]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def open_pages(item: pytest.Item) -> list[Page]:
    """Give the pages that are open in the test's browser, the visible end of it."""
    chromium = getattr(item, "funcargs", {}).get("browser")
    return [page for context in chromium.contexts for page in context.pages][-3:] if chromium else []


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Ask again until it is true, or fail with what was waited for."""

    def ask(what: str, condition: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {seconds:.0f} s it is still not so that {what}"
            time.sleep(0.5)

    return ask
