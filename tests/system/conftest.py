"""A running container cluster, people who sign in to it, and what is printed when a test fails.

CLUSTER is demo, test or a name of yours with a CLUSTER_PORT; all are the same to the tests. SCHEDULER=pbs says that its
batch system is PBS. Screenshots stay in build/screenshots/$CLUSTER-$SUITE. PART=name leaves out what parts.toml has in
other parts; HPCHUB_TURNS is the file by which parts that run side by side let one test run alone.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import testinfra
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from testinfra.host import Host

ROOT = Path(__file__).parents[2]
CLUSTER = os.environ.get("CLUSTER", "demo")
PORT = int(os.environ.get("CLUSTER_PORT") or {"demo": 8443}.get(CLUSTER, 9443))
SCHEDULER = os.environ.get("SCHEDULER", "slurm")
SUITE = "pbs" if SCHEDULER == "pbs" else os.environ.get("SUITE", "trixie")
SCREENSHOTS = ROOT / "build" / "screenshots" / f"{CLUSTER}-{SUITE}"
BENCHMARK = ROOT / "build" / "benchmark.json"
PART = os.environ.get("PART", "")
PARTS = tomllib.loads((Path(__file__).parent / "parts.toml").read_text())["parts"]
TURNS = os.environ.get("HPCHUB_TURNS", "")
HOSTS = ("ctl", "login1", "c1", "c2")

LEFT_OUT: dict[str, str] = {}

# For tests that run a playbook.
if SCHEDULER == "pbs":
    os.environ.setdefault("ANSIBLE_INVENTORY", "inventories/demo,inventories/demo-pbs.yml")

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


# -- parts that run side by side


def in_part(items: list[pytest.Item], files: list[str]) -> list[pytest.Item]:
    """Give the tests of these files in the order of the files."""
    mine = [item for item in items if item.path.name in files]
    return sorted(mine, key=lambda item: files.index(item.path.name))


@contextmanager
def turn(turns: str, alone: bool) -> Iterator[None]:
    """Run a test beside those of other parts, or alone: then wait for their end and let none begin meanwhile."""
    with Path(f"{turns}.gate").open("a") as gate, Path(f"{turns}.room").open("a") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)  # who waits for the room lets nobody pass
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the test's turn, outside the time that is measured."""
    if not TURNS:
        return (yield)
    with turn(TURNS, alone=item.get_closest_marker("alone") is not None):
        return (yield)


# -- the batch system


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what other parts have, and what only Slurm has where there is none.

    `pytest_report_collectionfinish` names the latter.
    """
    if PART and PART not in PARTS:
        raise pytest.UsageError(f"There is no part {PART}: tests/system/parts.toml has {', '.join(PARTS)}.")
    if files := PARTS.get(PART, {}).get("files"):
        mine = in_part(items, files)
        config.hook.pytest_deselected(items=[item for item in items if item not in mine])
        items[:] = mine
    if SCHEDULER != "slurm":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slurm")])
        LEFT_OUT.update((item.name, mark.args[0]) for item in items if (mark := item.get_closest_marker("slurm")))
        items[:] = [item for item in items if not item.get_closest_marker("slurm")]


def pytest_report_collectionfinish() -> list[str]:
    """Say what is left out, and why."""
    return [f"not here: {name}: {reason}" for name, reason in LEFT_OUT.items()]


@dataclass(frozen=True)
class Batch:
    """What an administrator types on ctl, with {job} and {node}, and what people read then."""

    name: str
    """As in `SCHEDULER`."""
    last: str
    """Prints something that changes with every submission."""
    show: str
    """All that can be seen of a job."""
    script: str
    """Prints a job's script, to root, on the host that has it."""
    tag: str
    cancel: str
    requeue: str
    """So that it runs again after `again`."""
    again: str
    reservation: str
    """Prints the name of the one called tutorial."""
    drain: str
    resume: str
    die: str
    """Typed on a node: its daemon dies, and bob's processes."""
    lose: str
    """Then."""
    found: str
    """When its daemon runs again."""
    submit: str
    """Typed by a user on login1, with {tag}; prints the id of a job that sleeps."""
    unit: str
    """Of the server on ctl."""
    revive: str
    """Typed on a node whose daemon has died."""
    freeze: str
    thaw: str
    log: str
    """The name of a Lab's log."""
    cluster: str
    """The class that the notebook has."""
    asked: dict[str, str]
    """What `show` prints for 90 minutes, 2 cores and 6 GiB."""
    drained: str
    """Why a job waits while all nodes are drained."""
    clear: str
    """Cancels all that {user} has of this {name}."""
    later: str
    """A directive, so that a job waits for an hour."""
    wait: str
    """Typed by a user on login1, with {later}; prints the id of a job of that kind which is called dask-worker."""
    own: tuple[str, ...]
    """Typed in a job, with a command after it; prints the id of a job that runs it with all of this job's variables."""
    end: str
    """Prints how a job has ended, which begins as one of `ends`."""
    ends: dict[str, str]
    billed: str
    """Prints project, queue and wall time of a job that has ended, in whatever order."""
    dask_log: str
    """A pattern for the name of a Dask job's log."""
    unknown_queue: str
    failed: str
    """How the words about a job with exit status 3 begin."""
    asked_memory: str
    """In the script of a Dask job with the site's 4 GiB."""


SLURM = Batch(
    name="slurm",
    last="scontrol show config | grep NEXT_JOB_ID",
    show="scontrol show -d job {job}; sacct -j {job} --format=ALL -P; squeue -o '%all'",
    script="scontrol write batch_script {job} -",
    tag="squeue --noheader --array --jobs={job} --format=%k",
    cancel="scancel {job}",
    requeue="scontrol update JobId={job} Requeue=1 && scontrol requeue {job}",
    again="scontrol update JobId={job} StartTime=now",
    reservation="scontrol --oneliner show reservation tutorial | grep -o tutorial | head -n 1",
    drain="scontrol update NodeName=c1,c2 State=DRAIN Reason=test",
    resume="scontrol update NodeName=c1,c2 State=RESUME",
    die="systemctl kill --signal=KILL slurmd; systemctl stop slurmd; pkill -KILL -u bob || true",
    lose="scontrol update NodeName={node} State=DOWN Reason=test",
    found="scontrol update NodeName={node} State=RESUME || true",
    submit="sbatch --parsable --job-name=hpchub --account=climate --partition=interactive --time=10 --chdir=/tmp"
    " --output=/dev/null --wrap='sleep 300' --comment={tag}",
    unit="slurmctld",
    revive="systemctl start slurmd",
    freeze="systemctl kill --signal=STOP slurmctld",
    thaw="systemctl kill --signal=CONT slurmctld",
    log="lab-{job}.log",
    cluster="SLURMCluster",
    asked={"TimeLimit": "01:30:00", "NumCPUs": "2", "MinMemoryNode": "6G"},
    drained="The nodes for this job are reserved or down",
    clear="scancel --user={user} --name={name}",
    later="--begin=now+1hour",
    wait="sbatch --parsable --job-name=dask-worker {later} --chdir=/ --wrap=true",
    own=("sbatch", "--parsable", "--job-name=own", "--mem=1G", "--output=/tmp/own", "--wrap"),
    end="sacct -nPX -j {job} --format=State,ExitCode",
    ends={"well": "COMPLETED|0:0", "failed": "FAILED|1:0", "late": "TIMEOUT"},
    billed="sacct -nPX -j {job} --format=Account,Partition,Timelimit | tr '|' '\\n'",
    dask_log=r"dask-worker-\d+(_\d+)?\.(err|out)",
    unknown_queue="invalid partition specified",
    failed="The job failed",
    asked_memory="#SBATCH --mem=4G",
)
PBS = Batch(
    name="pbs",
    last="/opt/pbs/bin/qstat -x | wc -l",
    show="/opt/pbs/bin/qstat -x -f {job}; /opt/pbs/bin/qstat -f; /opt/pbs/bin/tracejob {job}",
    script="runuser -u postgres -- psql -w -p 15007 -d pbs_datastore -At"
    " -c \"select replace(script, chr(92) || chr(92), chr(92)) from pbs.job_scr where ji_jobid = '{job}'\"",
    tag="/opt/pbs/bin/qstat -f -w {job} | sed -n 's/.*Variable_List.*HPCHUB_TAG=\\([^,]*\\).*/\\1/p'",
    cancel="/opt/pbs/bin/qdel {job}",
    requeue="/opt/pbs/bin/qalter -ry {job} && /opt/pbs/bin/qrerun {job}",
    again="true",
    reservation="/opt/pbs/bin/pbs_rstat -f | grep -A 12 'Resv ID' | sed -n 's/^queue = //p'",
    drain="/opt/pbs/bin/pbsnodes -o c1 c2",
    resume="/opt/pbs/bin/pbsnodes -r c1 c2",
    die="pkill -KILL pbs_mom; pkill -KILL -u bob || true",
    lose="true",
    found="true",
    submit="/opt/pbs/bin/qsub -N hpchub -A climate -q interactive -l walltime=600 -j oe -o /dev/null -R oe"
    " -v HPCHUB_TAG={tag} -- /bin/sleep 300",
    unit="pbs",
    revive="systemctl restart pbs",
    freeze="pkill --signal STOP pbs_server",
    thaw="pkill --signal CONT pbs_server",
    log="{job}.OU",
    cluster="PBSCluster",
    asked={
        "Resource_List.walltime": "01:30:00",
        "Resource_List.ncpus": "2",
        "Resource_List.mem": "6144mb",
        "euser": "alice",
    },
    drained="Waiting for free nodes",
    clear="/opt/pbs/bin/qselect -u {user} -N {name} | xargs -r /opt/pbs/bin/qdel",
    later=f"-a {datetime.now(UTC) + timedelta(hours=1):%Y%m%d%H%M}",
    wait="/opt/pbs/bin/qsub -N dask-worker {later} -- /bin/true",
    own=("qsub", "-V", "-N", "own", "-l", "select=1:ncpus=1:mem=1gb", "-j", "oe", "-o", "/tmp/own", "--"),
    end="/opt/pbs/bin/qstat -x -f {job} | sed -n 's/^ *Exit_status = //p'",
    ends={"well": "0", "failed": "1", "late": "-29"},
    billed="/opt/pbs/bin/qstat -x -f {job} | sed -nE 's/^ *(Account_Name|queue|Resource_List.walltime) = //p'",
    dask_log=r"\d+\.\w+\.(ER|OU)",
    unknown_queue="unknown queue",
    failed="The job ended with an error (exit status 3)",
    asked_memory="mem=4096MB",
)


@pytest.fixture(scope="session")
def batch() -> Batch:
    """The batch system of the cluster."""
    return {"slurm": SLURM, "pbs": PBS}[SCHEDULER]


JOB = {"id": "%A", "user": "%u", "project": "%a", "queue": "%P", "state": "%T", "name": "%j", "node": "%N"}
PBS_STATES = {"Q": "PENDING", "H": "PENDING", "W": "PENDING", "R": "RUNNING", "S": "SUSPENDED", "E": "COMPLETING"}


def slurm_jobs(run: Callable[[str, str], str], user: str) -> list[dict[str, str]]:
    """Jobs by squeue."""
    lines = run(
        "ctl", f"squeue --noheader --array --user={user} --sort=i --format='{'|'.join(JOB.values())}'"
    ).splitlines()
    return [dict(zip(JOB, line.split("|"), strict=True)) for line in lines]


def pbs_jobs(run: Callable[[str, str], str], user: str) -> list[dict[str, str]]:
    """Jobs by qstat, in Slurm's words."""
    found = json.loads(run("ctl", "/opt/pbs/bin/qstat -f -F json"), strict=False).get("Jobs", {})
    return [
        {
            "id": number,
            "user": user,
            "project": job.get("Account_Name", ""),
            "queue": job["queue"],
            "state": PBS_STATES.get(job["job_state"], job["job_state"]),
            "name": job["Job_Name"],
            "node": job.get("exec_host", "").split("/")[0],
        }
        for number, job in sorted(found.items(), key=lambda one: int(one[0].split(".")[0]))
        if job["Job_Owner"].split("@")[0] == user
    ]


@pytest.fixture(scope="session")
def jobs(run: Callable[[str, str], str]) -> Callable[[str], list[dict[str, str]]]:
    """The jobs of a user in the queue, oldest first, as the batch system sees them."""
    ask = {"slurm": slurm_jobs, "pbs": pbs_jobs}[SCHEDULER]
    return lambda user: ask(run, user)


@pytest.fixture(scope="session")
def order(host: Callable[[str], Host], batch: Batch) -> Callable[[str], dict[str, Any]]:
    """What a Lab's script carries, which root and its user alone can see."""

    def read(job: str) -> dict[str, Any]:
        texts = [str(host(name).run(batch.script.format(job=job)).stdout) for name in ("ctl", "c1", "c2")]
        line = next(line for text in texts for line in text.splitlines() if line.startswith("{"))
        carried: dict[str, Any] = json.loads(line)
        return carried

    return read


@pytest.fixture(scope="session")
def reservation(run: Callable[[str, str], str], batch: Batch) -> str:
    """By what the batch system knows alice's reservation, which is called tutorial."""
    return run("ctl", batch.reservation)


@pytest.fixture
def nothing_submitted(run: Callable[[str, str], str], batch: Batch) -> Iterator[None]:
    """Fail if the test has submitted a job, even one that is over already."""
    before = run("ctl", batch.last)
    yield
    assert run("ctl", batch.last) == before, "a job was submitted"


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
def healthy(visitor: Callable[[], BrowserContext], wait_until: Callable[..., None]) -> Callable[[], None]:
    """Wait until the hub answers."""
    request = visitor().request
    return lambda: wait_until("the hub answers", lambda: request.get("/hub/health").ok, 60)


@pytest.fixture
def drain(run: Callable[[str, str], str], batch: Batch) -> Iterator[Callable[..., Callable[[], None]]]:
    """Let both nodes, or the one, take no new job; what it gives lets them again, as the end of the test does."""

    def take(node: str = "") -> Callable[[], None]:
        both = re.compile(r"c1[ ,]c2")
        run("ctl", both.sub(node, batch.drain) if node else batch.drain)
        return lambda: run("ctl", both.sub(node, batch.resume) if node else batch.resume) and None

    yield take
    run("ctl", f"{batch.resume} || true")


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


# -- Dask's dashboards

PLOT = ".bk-Figure:visible, .bk-DataTable:visible, svg#vis circle"
"""What a plot is made of: nearly all are figures, two are tables, and the map of the cluster is drawn without Bokeh."""


@pytest.fixture(scope="session")
def dask_panel() -> Callable[[Page], Locator]:
    """The Dask panel of the Lab in a page, open."""

    def show(page: Page) -> Locator:
        icon, panel = (
            page.locator(".jp-SideBar [data-id=dask-dashboard-launcher]"),
            page.locator("#dask-dashboard-launcher"),
        )
        icon.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)  # the Lab opens what was open before
        if not panel.is_visible():
            icon.click()
        return panel

    return show


@pytest.fixture(scope="session")
def plot() -> Callable[[Page, Locator, str], None]:
    """Open a plot from the Lab's Dask panel, wait until it is drawn, and close its tab."""

    def look(page: Page, panel: Locator, name: str) -> None:
        panel.get_by_role("button", name=name, exact=True).click()
        frame = page.frame_locator(".dask-DaskDashboard-widget:visible iframe")
        expect(frame.locator(PLOT).first, name).to_be_visible(timeout=30_000)
        page.locator("#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current .lm-TabBar-tabCloseIcon").click()

    return look


@pytest.fixture(scope="session")
def live(wait_until: Callable[..., None]) -> Callable[[BrowserContext, str], None]:
    """Open a dashboard's link in a new tab and wait until its scheduler tells it something."""

    def look(context: BrowserContext, link: str) -> None:
        tab, heard = context.new_page(), []
        tab.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(frame)))
        tab.goto(link)
        expect(tab.locator("canvas").first).to_be_visible(timeout=30_000)
        told = len(heard)
        wait_until("the dashboard hears something new", lambda: tab.title() and len(heard) > told)
        assert tab.url == link
        assert tab.title() == "Dask: Status"
        tab.close()

    return look


# -- code in a kernel

# A kernel's side of Jupyter's protocol: what it prints, shows or raises while it runs some code.
EXECUTE = """([address, code]) => new Promise((done, failed) => {
    const socket = new WebSocket(address.replace('https:', 'wss:'))
    let said = ''
    socket.onopen = () => socket.send(JSON.stringify({
        header: {msg_id: code, msg_type: 'execute_request', session: 'test', username: '', version: '5.3'},
        parent_header: {}, metadata: {}, channel: 'shell', buffers: [],
        content: {code, silent: false, store_history: false, allow_stdin: false, stop_on_error: true},
    }))
    socket.onmessage = message => {
        const {msg_type, content, parent_header} = JSON.parse(message.data)
        if (msg_type == 'stream') said += content.text
        if (msg_type == 'execute_result') said += content.data['text/plain']
        if (msg_type == 'error') said += `${content.ename}: ${content.evalue}`
        const idle = msg_type == 'status' && content.execution_state == 'idle'
        if (idle && parent_header.msg_id == code) done(said)  // the reply may overtake what was printed
    }
    socket.onclose = () => failed(new Error('the kernel has hung up'))
})"""


@pytest.fixture(scope="session")
def new_kernel() -> Callable[[Page, str], tuple[str, dict[str, str]]]:
    """Open a user's Lab in a page and start a kernel; gives its id, and the headers with which it can be ended."""

    def begin(page: Page, user: str) -> tuple[str, dict[str, str]]:
        page.goto(f"/user/{user}/lab")
        cookie = next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and user in c["path"])
        headers = {"X-XSRFToken": cookie}
        # The proxy ends connections that nobody has used for 5 s, maybe just now; a browser tries again, too.
        answer = page.request.post(f"/user/{user}/api/kernels", headers=headers, data="{}", max_retries=2)
        assert answer.ok
        return str(answer.json()["id"]), headers

    return begin


@pytest.fixture(scope="session")
def in_kernel(url: str) -> Callable[[Page, str, str, str], str]:
    """Run code in a kernel of a user, whose Lab is open in the page, and give what it says."""
    return lambda page, user, kernel, code: str(
        page.evaluate(EXECUTE, [f"{url}/user/{user}/api/kernels/{kernel}/channels", code])
    )


# -- what `make bench` measures


@pytest.fixture(scope="session")
def record() -> Iterator[Callable[..., None]]:
    """Keep a row in build/benchmark.json, in the place of an older one of the same name; all are printed at the end."""
    columns = ("name", "ours", "stock", "ratio", "limit", "unit")

    def rows() -> list[dict[str, Any]]:
        known: list[dict[str, Any]] = json.loads(BENCHMARK.read_text()) if BENCHMARK.exists() else []
        return known

    def keep(*cells: object) -> None:
        row = dict(zip(columns, cells, strict=True))
        BENCHMARK.parent.mkdir(exist_ok=True)
        others = [one for one in rows() if one["name"] != row["name"]]
        BENCHMARK.write_text(json.dumps([*others, row], indent=2) + "\n")
        print(f"\n{row}", end="")

    yield keep
    table = [columns, *(["-" if row[column] is None else str(row[column]) for column in columns] for row in rows())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(f"load at the end: {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


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
    "jobs": (
        "ctl",
        "/opt/pbs/bin/qstat -x -f -w | tail -n 200; /opt/pbs/bin/pbsnodes -a"
        if SCHEDULER == "pbs"
        else "squeue --long; sacct --allusers --allocations --starttime=now-10minutes",
    ),
    "log of the newest job": (
        "login1",
        "f=$(ls -t /home/*/.local/state/hpchub/*.[lO]* 2>/dev/null | head -1); echo $f; tail -n 40 $f",
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
