"""Dask in a Lab: it says why workers do not come, keeps to the site's number of jobs, and leaves none behind."""

import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import BrowserContext, Locator, Page, expect
from testinfra.host import Host

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
Execute = Callable[[str, str], str]
WaitUntil = Callable[..., None]
PYTHON = "/opt/hpchub/lab/current/bin/python"
HERS = Path("/home/alice/.config/dask/waiting.yaml")
NOW = "job_extra_directives=[], cores=1, memory='1GiB'"


@pytest.fixture(scope="module")
def window(
    signed_in: Callable[[str], BrowserContext],
    api: Callable[..., object],
    run: Run,
    jobs: Jobs,
    batch: Any,
    wait_until: WaitUntil,
) -> Iterator[Page]:
    """A window of alice's. As she has set it, Dask's jobs wait; nothing of hers is left at the end."""

    def stop() -> None:
        api("alice", "DELETE", "/users/alice/server")
        wait_until("alice has no job", lambda: not jobs("alice"), 60)

    stop()
    waiting = yaml.safe_dump({"jobqueue": {batch.name: {"job-extra-directives": [batch.later]}}})
    run("login1", f"runuser -u alice -- mkdir -p {HERS.parent} && echo {shlex.quote(waiting)} >{HERS}")
    window = signed_in("alice").new_page()
    yield window
    window.close()
    run("login1", f"rm {HERS}")
    for name in ("dask-worker", "own"):
        run("ctl", batch.clear.format(user="alice", name=name))
    stop()


@pytest.fixture
def page(window: Page, lab: Callable[[str], str]) -> Page:
    """A window of alice's, whose Lab runs."""
    lab("alice")
    return window


@pytest.fixture
def kernel(
    page: Page, new_kernel: Callable[[Page, str], tuple[str, dict[str, str]]], jobs: Jobs, wait_until: WaitUntil
) -> Iterator[str]:
    """A new kernel in alice's Lab, which has no Dask jobs afterwards."""
    number, headers = new_kernel(page, "alice")
    yield number
    page.request.delete(f"/user/alice/api/kernels/{number}", headers=headers, max_retries=2)
    wait_until("its jobs are gone", lambda: "dask-worker" not in [job["name"] for job in jobs("alice")], 60)


@pytest.fixture
def execute(page: Page, in_kernel: Callable[[Page, str, str, str], str], batch: Any) -> Execute:
    """Run code in a kernel, where Cluster is the batch system's class of clusters, and give what it says."""
    begin = f"from dask_jobqueue import {batch.cluster} as Cluster\n"
    return lambda kernel, code: in_kernel(page, "alice", kernel, begin + code)


WORDS = f"""
import time
waits, refused = Cluster(), Cluster(queue='nowhere')
died = Cluster({NOW}, job_script_prologue=['echo the node says no >&2', 'exit 3'])
for cluster in (waits, waits, refused, died):
    cluster.scale(len(cluster.worker_spec) + 1)
for _ in range(40):
    time.sleep(1)
    if 'says no' in str(died.why()) and '2 jobs' in str(waits.why()):
        break
waits._repr_html_(); time.sleep(3)
for words in (waits.why(), refused.why(), died.why(), waits._repr_html_()):
    print('--', words)
for cluster in (waits, refused, died):
    cluster.close()
"""


@pytest.mark.proof
def test_a_cluster_says_why_its_workers_do_not_come(kernel: str, execute: Execute, batch: Any) -> None:
    said = execute(kernel, WORDS)
    assert said.count("-- ") >= 4, said
    waits, refused, died, shown = f"\n{said}".split("\n-- ")[-4:]
    assert re.search(
        r"0 of 2 workers are there.\n2 jobs \(\d+\S*, \d+\S*\) in the queue: Its earliest start has not", waits
    )
    assert re.search(r"Expected start: \d\d \w+ \d\d:\d\d\.", waits)
    assert "No job was queued: You may not use this queue" in refused
    assert "Traceback" not in said
    assert batch.unknown_queue in refused.lower()
    assert re.search(
        rf"1 job \(\d+\S*\): {re.escape(batch.failed)}.* The last lines of /home/alice/\S+:\n(.*\n)*the node says no",
        died,
    )
    assert "Its earliest start has not come yet" in shown


LIMIT = """
import warnings
cluster = Cluster()
try:
    cluster.scale(1000)
except ValueError as error:
    print('--', error, len(cluster.worker_spec))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    print('--', cluster.adapt(maximum=1000).maximum, [str(one.message) for one in caught])
    print('--', cluster.adapt(maximum=5).maximum, len(caught))
cluster.scale(3)
other = Cluster()
try:
    other.scale(98)
except ValueError as error:
    print('--', error)
print('--', other.adapt().maximum)
other.close()
"""


def test_a_session_asks_for_no_more_jobs_than_the_site_allows_and_says_so(kernel: str, execute: Execute) -> None:
    refused, capped, small, shared, rest = execute(kernel, LIMIT).strip("- \n").split("\n-- ")
    words = "This site lets a session have 100 Dask jobs at a time"
    assert refused.startswith(f"{words}. Ask for at most 100, and for larger ones if you need more")
    assert refused.endswith(" 0")
    assert capped.startswith(f"100 ['{words}.")
    assert small == "5 1"
    assert shared.startswith(f"{words}, and your other clusters have 3 of them. Ask for at most 97")
    assert rest == "97"


TERMINAL = """
import subprocess
cluster = Cluster()
def hpchub(*words):
    done = subprocess.run(['hpchub', 'dask', *words], capture_output=True, text=True)
    print('--', done.returncode, done.stdout + done.stderr)
hpchub('scale', '2')
hpchub('scale', '0', '4')
print('--', cluster._adaptive.state, cluster._adaptive.maximum)
hpchub('scale', '1')
print('--', cluster._adaptive.state, len(cluster.worker_spec))
hpchub('why')
hpchub('scale', '1000')
"""


def test_a_terminal_scales_a_notebooks_cluster_and_asks_it_why(kernel: str, execute: Execute) -> None:
    two, adaptive, state, one, still, why, much = execute(kernel, TERMINAL).strip("- \n").split("\n-- ")
    assert "now asks for 2 workers" in two
    assert "now has 0 to 4 workers" in adaptive
    assert state == "running 4"
    assert "now asks for 1 workers" in one
    assert still == "stopped 1"
    assert re.match(r"0 tls://\S+: 0 of 1 workers are there.\n1 job \(\d+\S*\) in the queue: Its earliest start", why)
    assert "This site lets a session have 100 Dask jobs" in much


# Two jobs that wait, one that runs, and a batch job with a cluster of its own, which inherits all that the kernel has.
LEAVE = f"""
import os, shlex, subprocess
waits, runs = Cluster(), Cluster({NOW})
waits.scale(2); runs.scale(1)
own = f"from dask_jobqueue import {{Cluster.__name__}} as S; import time; c = S(); c.scale(1)"
program = [os.sys.executable, '-c', f"{{own}}; time.sleep(600)"]
line = [*SUBMIT, *([shlex.join(program)] if SUBMIT[-1] == '--wrap' else program)]
print(subprocess.run(line, capture_output=True, text=True).stdout)
runs.wait_for_workers(1, timeout=60)
print(os.getpid())
"""


@pytest.fixture
def by_ssh(run: Run, batch: Any) -> Iterator[str]:
    """A Dask job that alice queued without a Lab."""
    line = batch.wait.format(later=batch.later)
    number = run("login1", f"cd / && runuser -u alice -- {line}")
    yield number
    run("ctl", batch.cancel.format(job=number))


def of_session(jobs: Jobs, others: set[str]) -> list[str]:
    return [job["id"] for job in jobs("alice") if job["name"] == "dask-worker" and job["id"] not in others]


@pytest.mark.proof
def test_a_killed_kernel_leaves_no_job_and_a_batch_job_keeps_its_own(
    kernel: str, execute: Execute, by_ssh: str, batch: Any, run: Run, jobs: Jobs, wait_until: WaitUntil
) -> None:
    own, pid = execute(kernel, f"SUBMIT = {batch.own!r}\n{LEAVE}").split()
    wait_until("the batch job has a Dask job", lambda: len(of_session(jobs, {by_ssh})) == 4, 60)
    its_own = of_session(jobs, {by_ssh})[-1]
    others = {by_ssh, its_own}
    (node,) = {job["node"] for job in jobs("alice") if job["name"] == "hpchub"}
    run(node, f"kill -9 {pid}")
    wait_until("the kernel's jobs are gone", lambda: not of_session(jobs, others), 60)
    assert {by_ssh, its_own, own} <= {job["id"] for job in jobs("alice")}
    run("ctl", batch.cancel.format(job=f"{its_own} {own}"))


def test_a_lab_that_is_killed_leaves_no_job(
    kernel: str, execute: Execute, by_ssh: str, run: Run, jobs: Jobs, wait_until: WaitUntil
) -> None:
    execute(kernel, "cluster = Cluster(); cluster.scale(3); import time; time.sleep(3)")
    assert len(of_session(jobs, {by_ssh})) == 3
    (node,) = {job["node"] for job in jobs("alice") if job["name"] == "hpchub"}
    run(node, "pkill -9 -u alice")
    wait_until("the Lab's jobs are gone", lambda: not of_session(jobs, {by_ssh}), 60)
    assert by_ssh in {job["id"] for job in jobs("alice")}


def test_a_lab_that_is_stopped_leaves_no_job(
    kernel: str,
    execute: Execute,
    by_ssh: str,
    api: Callable[..., tuple[int, Any]],
    run: Run,
    jobs: Jobs,
    wait_until: WaitUntil,
) -> None:
    execute(kernel, "cluster = Cluster(); cluster.scale(3); import time; time.sleep(3)")
    assert len(of_session(jobs, {by_ssh})) == 3
    api("alice", "DELETE", "/users/alice/server")
    wait_until("the Lab's jobs are gone", lambda: not of_session(jobs, {by_ssh}), 60)
    assert by_ssh in {job["id"] for job in jobs("alice")}
    wait_until("the hub has noticed", lambda: api("alice", "GET", "/users/alice")[1]["servers"] == {}, 60)


ADAPTS = f"""
import time
from dask.distributed import Client
cluster = Cluster({NOW})
client = Client(cluster)
cluster.adapt(minimum=0, maximum=1)
future = client.submit(lambda: time.sleep(5) or 'done')
client.wait_for_workers(1, timeout=60)
print('--', next(iter(cluster.workers.values())).job_id)
"""


@pytest.mark.proof
def test_while_there_is_work_a_worker_whose_job_was_cancelled_is_replaced(
    kernel: str, execute: Execute, batch: Any, run: Run
) -> None:
    (job,) = re.findall("(?m)^-- (.*)", execute(kernel, ADAPTS))
    run("ctl", batch.cancel.format(job=job))
    end = "print('--', future.result(90), next(iter(cluster.workers.values())).job_id)"
    result, another = re.findall("(?m)^-- (.*)", execute(kernel, end))[0].split()
    assert result == "done"
    assert another != job


@pytest.fixture
def lose(run: Run, batch: Any) -> Iterator[Callable[[str], None]]:
    """Take a node away from the network, with all that alice has there; at the end of the test it is back."""
    ways = {}

    def take(node: str) -> None:
        ways[node] = run(node, "ip route show default")
        dead = "systemctl kill --signal=KILL slurmd; systemctl stop slurmd; pkill --signal KILL --euid alice || true"
        run(node, f"ip link set eth0 down; {dead}")

    yield take
    for node, way in ways.items():
        run(node, f"ip link set eth0 up && ip route add {way} && {batch.revive}")
        run("ctl", batch.found.format(node=node))


@pytest.mark.slurm("PBS says only after minutes that a node is lost, and the test cannot hurry it")
def test_a_node_that_is_lost_under_a_lab_leaves_no_job_on_another_nor_in_the_queue(
    kernel: str,
    execute: Execute,
    by_ssh: str,
    drain: Callable[[str], Callable[[], None]],
    lose: Callable[[str], None],
    api: Callable[..., tuple[int, Any]],
    batch: Any,
    run: Run,
    jobs: Jobs,
    wait_until: WaitUntil,
) -> None:
    (node,) = {job["node"] for job in jobs("alice") if job["name"] == "hpchub"}
    drain(node)
    execute(
        kernel,
        f"waits, runs = Cluster(), Cluster({NOW}); waits.scale(2); runs.scale(1); runs.wait_for_workers(1, timeout=60)",
    )
    (elsewhere,) = [job for job in jobs("alice") if job["name"] == "dask-worker" and job["state"] == "RUNNING"]
    assert elsewhere["node"] not in ("", node)
    lose(node)
    began = time.monotonic()
    wait_until("the worker on the other node has ended", lambda: elsewhere["id"] not in of_session(jobs, {by_ssh}), 120)
    print(f"\na worker without its scheduler ended after {time.monotonic() - began:.0f} s")
    assert len(of_session(jobs, {by_ssh})) == 2  # nobody knows yet that the Lab is lost
    run("ctl", batch.lose.format(node=node))
    began = time.monotonic()
    wait_until("the jobs that wait are gone", lambda: not of_session(jobs, {by_ssh}), 60)
    print(f"jobs in the queue were gone {time.monotonic() - began:.0f} s after the scheduler gave the node up")
    assert by_ssh in {job["id"] for job in jobs("alice")}
    wait_until("the hub has noticed", lambda: api("alice", "GET", "/users/alice")[1]["servers"] == {}, 60)


IDLE = f"""
import time, dask
with dask.config.set({{'distributed.scheduler.idle-timeout': '4s'}}):
    forgotten = Cluster()
forgotten.scale(2)
busy = Cluster({NOW})
from dask.distributed import Client
client = Client(busy)
busy.adapt(minimum=0, maximum=1, wait_count=5)
print('--', client.submit(sum, [1, 2]).result(90))
idle = time.monotonic()
while busy.workers or busy.scheduler_info['workers']:
    time.sleep(0.2)
print('--', time.monotonic() - idle)
print('--', forgotten.status.name, len(forgotten.workers))
"""


def test_idle_workers_give_their_jobs_back_and_an_idle_cluster_closes(kernel: str, execute: Execute) -> None:
    result, seconds, forgotten = re.findall("(?m)^-- (.*)", execute(kernel, IDLE))  # the scheduler says more
    assert result == "3"
    assert 3 < float(seconds) < 5 + 10  # 5 looks, one a second
    assert forgotten == "closed 0"


# The second and the third job end behind the cluster's back: one while it waits for work, one together with its work.
LOST = f"""
import subprocess, time, dask
from dask.distributed import Client
dask.config.set({{'distributed.deploy.lost-worker-timeout': '2s'}})
cluster = Cluster({NOW})
client = Client(cluster)
def end(job_id):
    subprocess.run([*cluster._dummy_job.cancel_command.split(), job_id])
def there():
    while sorted(map(len, (cluster.workers, client.scheduler_info(n_workers=-1)['workers']))) != [2, 2]:
        time.sleep(0.5)
    return [job.job_id for job in cluster.workers.values()]
cluster.scale(2)
cluster.wait_for_workers(2, timeout=90)
first = there()
print('--', *first)
end(first[0])
while len(client.scheduler_info(n_workers=-1)['workers']) == 2 and not time.sleep(0.5):
    pass
second = there()
print('--', *second)
slow = client.map(lambda n: time.sleep(3) or n, range(4))
time.sleep(1)
end(second[-1])
print('--', sum(client.gather(slow)))
print('--', *there())
cluster.close()
"""


def test_jobs_are_submitted_together_and_one_that_is_lost_is_replaced_also_without_adapt(
    kernel: str, execute: Execute, batch: Any
) -> None:
    first, second, result, third = (line.split() for line in re.findall("(?m)^-- (.*)", execute(kernel, LOST)))
    if batch.name == "slurm":
        assert first == [f"{first[0].partition('_')[0]}_{number}" for number in (0, 1)]  # one array
    assert result == ["6"]
    for before, after, lost in ((first, second, first[0]), (second, third, second[-1])):
        assert set(before) - set(after) == {lost}
        assert len(after) == 2


SHARE = """
from pathlib import Path
from dask.distributed import Client
cluster = Cluster(job_extra_directives=[], cores=2, processes=2, memory='2GiB')
client = Client(cluster)
cluster.scale(4)
client.wait_for_workers(4, timeout=90)
def private():
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private_')) // 1024
print('--', len(cluster.workers), *client.run(private).values())
print('--', *client.run(lambda: hash('a project')).values())
cluster.close()
"""


def test_workers_that_share_a_job_share_what_they_have_imported(kernel: str, execute: Execute) -> None:
    sizes, hashes = re.findall("(?m)^-- (.*)", execute(kernel, SHARE))
    jobs, *private = map(int, sizes.split())
    assert (jobs, len(private)) == (2, 4)
    assert max(private) < 45, f"MiB that are each worker's own: {private}"  # 70, if each imports for itself
    assert len(set(hashes.split())) == 1  # what is sorted by them on one worker is found on another


def test_the_labs_panel_makes_the_sites_cluster_scales_and_adapts_it_and_says_why_it_waits(
    page: Page, dask_panel: Callable[[Page], Locator], batch: Any, jobs: Jobs, wait_until: WaitUntil
) -> None:
    def dask_jobs() -> int:
        return [job["name"] for job in jobs("alice")].count("dask-worker")

    page.goto("/user/alice/lab")
    panel = dask_panel(page)
    panel.get_by_role("button", name="NEW").click()
    cluster = panel.locator(".dask-ClusterListingItem")
    expect(cluster).to_contain_text(batch.cluster, timeout=30_000)
    expect(cluster.locator("a")).to_have_attribute("href", re.compile(r"^/user/alice/proxy/\d+/status$"))
    expect(panel.get_by_role("button", name="Task Stream", exact=True)).to_be_visible()  # connected to its dashboard

    cluster.get_by_role("button", name="SCALE").click()
    dialog = page.locator(".jp-Dialog")
    dialog.locator("input[type=number]").first.fill("2")
    dialog.locator(".jp-mod-accept").click()
    wait_until("the panel's cluster has two jobs", lambda: dask_jobs() == 2)
    expect(cluster).to_contain_text("0 of 2 workers are there", timeout=30_000)
    expect(cluster).to_contain_text("Its earliest start has not come yet. Expected start:", timeout=30_000)

    cluster.get_by_role("button", name="SCALE").click()
    dialog.locator("input[type=checkbox]").check()
    dialog.locator("input[type=number]").nth(1).fill("3")
    dialog.locator("input[type=number]").nth(2).fill("5")
    dialog.locator(".jp-mod-accept").click()
    wait_until("it has its least number of jobs", lambda: dask_jobs() == 3)
    cluster.get_by_role("button", name="SHUTDOWN").click()
    wait_until("its jobs are gone", lambda: dask_jobs() == 0)


LOCAL = """
import time
from dask.distributed import Client, LocalCluster
cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address='127.0.0.1:0')
client = Client(cluster)
tasks = client.map(lambda number: time.sleep(0.5), range(600))
print(cluster.dashboard_link, cluster._repr_html_(), client._repr_html_(), sep='\\n')
"""


def test_a_notebooks_link_opens_in_a_new_tab_and_every_plot_of_it_in_the_labs_panel(
    page: Page,
    kernel: str,
    execute: Execute,
    dask_panel: Callable[[Page], Locator],
    plot: Callable[[Page, Locator, str], None],
    live: Callable[[BrowserContext, str], None],
    url: str,
) -> None:
    link, *shown = execute(kernel, LOCAL).splitlines()
    assert re.fullmatch(rf"{url}/user/alice/proxy/\d+/status", link)
    links = re.findall('href="(.*?)"', "".join(shown))
    assert links.count(link) == 5  # twice of the cluster, and of its client once more
    (worker,) = set(links) - {link}
    live(page.context, link)
    page.goto(link.replace("status", "info/main/workers.html"))
    page.get_by_role("link", name="dashboard").click()
    page.wait_for_url(worker)

    page.goto("/user/alice/lab?reset")
    panel = dask_panel(page)
    panel.locator("input").first.fill(link)
    panel.locator("input").first.press("Enter")
    plots = panel.locator(".dask-DashboardListing-item button")
    expect(plots.first).to_be_visible(timeout=30_000)
    names = plots.all_text_contents()
    assert len(names) > 30
    for name in names:
        plot(page, panel, name)


BY_SSH = """
import urllib.request
from dask_jobqueue import {cluster} as Cluster
with Cluster() as cluster:
    print(cluster.scheduler_address, cluster.dashboard_link, urllib.request.urlopen(cluster.dashboard_link).status)
    print(cluster.job_script())
"""


def test_by_ssh_a_cluster_is_the_sites_and_its_link_is_right(run: Run, batch: Any) -> None:
    program = BY_SSH.format(cluster=batch.cluster)
    line = f"env -i HOME=/home/alice PATH=/usr/bin:/bin:/opt/pbs/bin {PYTHON} -c {shlex.quote(program)}"
    said = run("login1", f"cd /; runuser -u alice -- {line}")
    assert re.match(r"tls://\S+ http://127.0.0.1:\d+/status 200\n", said)
    assert batch.asked_memory in said


OFF_HOME = """
import os
from dask_jobqueue import {cluster} as Cluster
with Cluster(job_extra_directives={directives}, cores=1, memory='1GiB') as cluster:
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=90)
    print(cluster._dummy_job.log_directory, oct(os.stat(cluster._dummy_job.log_directory).st_mode)[-3:])
"""


@pytest.fixture
def scratch(run: Run, batch: Any) -> Iterator[str]:
    """A directory in which all may make their own; for the site, that of Dask's logs."""
    where, site = "/home/scratch", "/opt/hpchub/etc/dask/test-logs.yaml"
    said = yaml.safe_dump({"jobqueue": {batch.name: {"log-directory": f"{where}/{{user}}/dask"}}})
    run("login1", f"mkdir --mode=1777 {where} && echo {shlex.quote(said)} >{site}")
    yield where
    run("login1", f"rm -r {where} {site}")


def test_logs_go_where_the_site_has_them_unless_somebody_else_was_there_first(
    scratch: str, run: Run, batch: Any, host: Callable[[str], Host]
) -> None:
    # These take the place of all others, also of what makes PBS write a log while its job runs.
    directives = {"pbs": ["-k oed"], "slurm": []}[batch.name]
    program = OFF_HOME.format(cluster=batch.cluster, directives=directives)
    line = f"env -i HOME=/home/alice PATH=/usr/bin:/bin:/opt/pbs/bin {PYTHON} -c {shlex.quote(program)}"
    line = f"cd /; runuser -u alice -- {line}"
    assert run("login1", line).splitlines()[-1] == f"{scratch}/alice/dask 700"
    assert "Start Nanny" in run("login1", f"cat {scratch}/alice/dask/*")
    run("login1", f"rm -r {scratch}/alice && runuser -u bob -- mkdir --mode=777 {scratch}/alice")
    refused = host("login1").run(line)
    assert refused.rc != 0
    assert f"{scratch}/alice cannot hold their logs: it belongs to somebody else" in refused.stderr
    assert "Logs of Dask jobs cannot be where this site has them: it belongs to somebody else." in refused.stderr
    assert run("login1", f"find {scratch}/alice -type f") == ""
