"""On a node that alice shares with bob, he gets nothing of what her Lab and her Dask clusters open on it.

Which ports and sockets those are is not written here: root looks for all that are hers.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect
from testinfra.host import Host

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
PROGRAMS = Path(__file__).parent / "programs"
PYTHON = "/opt/hpchub/lab/current/bin/python"
NODES = ("c1", "c2")


@pytest.fixture(scope="module")
def node(lab: Callable[[str], str], jobs: Jobs) -> str:
    """Where the Labs of alice and of bob both run."""
    labs = [lab(user) for user in ("alice", "bob")]
    nodes = {job["node"] for user in ("alice", "bob") for job in jobs(user) if job["id"] in labs}
    assert len(nodes) == 1, "the test needs both Labs on one node"
    return nodes.pop()


@pytest.fixture(scope="module")
def session(node: str, signed_in: Callable[[str], BrowserContext], run: Run) -> Callable[[str], str]:
    """The words before a command that run it on any node as in a terminal of the user's Lab."""
    known: dict[str, str] = {}

    def words(user: str) -> str:
        if user not in known:
            page = signed_in(user).new_page()
            page.goto(f"/user/{user}/lab")
            xsrf = next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and user in c["path"])
            for what in ("terminals", "kernels"):
                assert page.request.post(f"/user/{user}/api/{what}", headers={"X-XSRFToken": xsrf}, data="{}").ok
            page.close()
            shells = "grep --files-with-matches --null-data ^DASK_ROOT_CONFIG= /proc/[0-9]*/environ"
            found = run(node, f"for f in $({shells}); do [ $(stat -c %U $f) = {user} ] && echo $f; done; true")
            variables = run(node, f"tr '\\0' '\\n' <{found.split()[0]}").splitlines()
            known[user] = shlex.join(["runuser", "-u", user, "--", "env", "-i", *variables])
        return known[user]

    return words


@pytest.fixture(scope="module")
def clusters(
    node: str,
    session: Callable[[str], str],
    host: Callable[[str], Host],
    run: Run,
    batch: Any,
    wait_until: Callable[..., None],
) -> Iterator[list[int]]:
    """Alice's two Dask clusters with a worker each, the site's and one by hand; gives the ports of their dashboards."""
    program = shlex.quote((PROGRAMS / "cluster.py").read_text())
    run(node, f"echo {program} >/home/alice/cluster.py; rm -f /run/neighbours.log")
    outputs = [f"--property=Standard{name}=append:/run/neighbours.log" for name in ("Output", "Error")]
    unit = shlex.join(["systemd-run", "--quiet", "--collect", "--unit=neighbours", *outputs])
    run(node, f"{unit} {session('alice')} {PYTHON} /home/alice/cluster.py {batch.cluster}")

    def ready() -> list[str]:
        said = run(node, "cat /run/neighbours.log; systemctl is-active --quiet neighbours")
        return re.findall(r"proxy/(\d+)/status", said)

    try:
        wait_until("alice's clusters have workers", ready, 90)
        yield [int(port) for port in ready()]
    finally:
        host(node).run("systemctl stop neighbours; rm /home/alice/cluster.py")


@pytest.fixture(scope="module")
def ports(clusters: list[int], run: Run) -> dict[str, list[int]]:
    """Every TCP port on which something of alice's listens, by node."""
    listening = {name: run(name, "ss --no-header --listening --tcp --numeric --extended") for name in NODES}
    found = {name: re.findall(r":(\d+) .* uid:2001 ", lines) for name, lines in listening.items()}
    assert sum(map(len, found.values())) >= 9  # a Lab; of two schedulers and two workers the comm and the dashboard
    return {name: sorted(map(int, some)) for name, some in found.items()}


Visit = Callable[[str, str], dict[tuple[str, str], str]]


@pytest.fixture(scope="module")
def visit(session: Callable[[str], str], ports: dict[str, list[int]], run: Run) -> Visit:
    """Try all ways into all that is alice's, as a user on a node. Gives the outcome of each address and way."""

    def go(user: str, machine: str) -> dict[tuple[str, str], str]:
        to = [f"{name}:{port}" for name in NODES for port in ports[name]]
        to += [f"127.0.0.1:{port}" for port in ports[machine]]
        program = shlex.quote((PROGRAMS / "visit.py").read_text())
        printed = run(machine, f"{session(user)} {PYTHON} -c {program} {shlex.join(to)}")
        return {(address, way): what for address, way, what in json.loads(printed)}

    return go


def test_alice_herself_is_let_in_so_whoever_gets_nothing_was_refused(node: str, visit: Visit) -> None:
    outcomes = visit("alice", node)
    assert {"200", "101", "Scheduler", "Worker", "Nanny"} <= set(outcomes.values())


@pytest.mark.parametrize("machine", NODES)
def test_bob_gets_nothing_on_her_node_and_on_another(
    machine: str, node: str, clusters: list[int], visit: Visit
) -> None:
    outcomes = visit("bob", machine)
    answers = re.compile(r"[12]\d\d|Scheduler|Worker|Nanny")
    assert [(*what, got) for what, got in outcomes.items() if answers.fullmatch(got)] == []
    if machine == node:
        assert {outcomes[f"127.0.0.1:{port}", "/status"] for port in clusters} == {"403"}


def test_a_dashboard_on_all_addresses_opens_from_no_other_machine(
    node: str, clusters: list[int], host: Callable[[str], Host]
) -> None:
    (machine,) = set(NODES) - {node}
    address = f"http://{node}:{clusters[1]}/status"
    asked = host(machine).run(f"runuser -u alice -- python3 -c 'import urllib.request as r; r.urlopen(\"{address}\")'")
    assert "HTTP Error 403" in asked.stderr


PING = """address => new Promise(done => {
    const socket = new WebSocket(address.replace('https:', 'wss:'))
    socket.onopen = () => socket.send('ping')
    socket.onmessage = message => done('heard')
    socket.onclose = socket.onerror = () => done('closed')
    setTimeout(() => done('silent'), 10000)
})"""


@pytest.mark.parametrize(("user", "status", "heard"), [("alice", 200, "heard"), ("bob", 403, "closed")])
def test_her_dashboards_open_through_her_lab_and_not_through_bobs(
    user: str, status: int, heard: str, clusters: list[int], signed_in: Callable[[str], BrowserContext], url: str
) -> None:
    page = signed_in(user).new_page()
    page.goto(f"/user/{user}/lab")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
    for port in clusters:
        for path in ("status", "info/main/workers.html", "metrics"):
            answer = page.request.get(f"/user/{user}/proxy/{port}/{path}")
            assert (answer.status, "for the user who runs it" in answer.text()) == (status, user == "bob")
        assert page.evaluate(PING, f"{url}/user/{user}/proxy/{port}/eventstream") == heard
    page.close()


STATUSES = """paths => Promise.all(paths.map(path =>
    fetch(path, {redirect: 'manual', signal: AbortSignal.timeout(5000)}).then(answer => answer.status, () => 0)))"""


def test_none_of_her_ports_opens_through_bobs_lab(
    node: str, ports: dict[str, list[int]], signed_in: Callable[[str], BrowserContext]
) -> None:
    page = signed_in("bob").new_page()
    page.goto("/user/bob/lab")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
    pages = [(port, path) for port in ports[node] for path in ("", "status", "user/alice/api/contents")]
    paths = [f"/user/bob/proxy/{way}{port}/{path}" for port, path in pages for way in ("", "absolute/", f"{node}:")]
    statuses = page.evaluate(STATUSES, paths)
    page.close()
    assert [(path, got) for path, got in zip(paths, statuses, strict=True) if 0 < got < 400] == []
    assert 403 in statuses


def test_the_schedulers_proxy_is_off_for_alice_too(
    clusters: list[int], signed_in: Callable[[str], BrowserContext]
) -> None:
    for port in clusters:
        address = f"/user/alice/proxy/{port}/proxy/{port}/127.0.0.1/status"
        assert signed_in("alice").request.get(address).status == 404


def test_bob_cannot_connect_to_her_kernels(
    clusters: list[int], node: str, run: Run, host: Callable[[str], Host]
) -> None:
    pids = set(run(node, "pgrep -u alice").split())
    listening = run(node, "ss --no-header --listening --unix --processes").splitlines()
    hers = [line.split()[4] for line in listening if pids & set(re.findall(r"pid=(\d+)", line))]
    assert [path for path in hers if "kernel" in path]
    assert [path for path in hers if not path.startswith("/")] == []  # an abstract one would have no permissions
    for path in hers:
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        for user, refused in (("alice", False), ("bob", True)):
            done = host(node).run(f"runuser -u {user} -- python3 -c {shlex.quote(program)}")
            assert ("PermissionError" in done.stderr) == refused, f"{user} {path}: {done.stderr}"


READ = """{{
ps axeww; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'
{show}; {script}
journalctl --no-pager --output=cat
find /var/spool /var/lib/slurm /var/log /run /tmp /dev/shm /etc/hpchub /opt/hpchub/etc /home/alice \\
    -type f -size -1024k -exec cat {{}} +
}} | tr --complement --delete '[:print:][:space:]'
"""


@pytest.mark.parametrize("machine", NODES)
def test_bob_reads_no_token_and_no_key(
    machine: str,
    node: str,
    clusters: list[int],
    lab: Callable[[str], str],
    batch: Any,
    order: Callable[[str], dict[str, Any]],
    run: Run,
    host: Callable[[str], Host],
) -> None:
    job = lab("alice")
    key = run(node, "cat /home/alice/.local/share/hpchub/dask/keys/*/key.pem").splitlines()[1]
    words = shlex.quote(READ.format(show=batch.show.format(job=job), script=batch.script.format(job=job)))
    as_root = host(node).run(f"bash -c {words}").stdout  # PBS has a job's script there alone
    as_bob = host(machine).run(f"runuser -u bob -- bash -c {words}").stdout
    for secret in (order(job)["environment"]["JUPYTERHUB_API_TOKEN"], key):
        assert secret in as_root
        assert secret not in as_bob
    assert len(as_bob) > 1000
