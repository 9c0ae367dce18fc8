"""Measurements, one row each in build/benchmark.json. `make bench` runs them, against the demo.

A row has name, ours, stock, ratio, limit and unit. Stock is JupyterHub with batchspawner 1.3.0 as shipped, on the same
cluster in the same run, and null where nothing of it was measured. The ratio is ours to stock, or to what the name
says. The limit is one of the ratio where times are compared (unit s), and of ours itself everywhere else.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any

import pytest

pytestmark = pytest.mark.bench

Run = Callable[[str, str], str]
Hub = Callable[..., str]
People = Callable[..., Any]

SMALL = bool(os.environ.get("HPCHUB_BENCH_SMALL"))
"""For whoever works on this file: everything, with small figures."""
ROUNDS, IDLE_SECONDS = (2, 5) if SMALL else (10, 5)
RUNNING, PENDING, WINDOW = (6, 2, 70) if SMALL else (150, 19, 130)
WATCHED = 10_000
SERVERS, STARTS, MINUTE = (40, 10, 10) if SMALL else (1530, 190, 60)
VISITS_PER_SECOND = 5
COMMANDS, PAGE_MS = 12, 300
WISH = {"project": "climate", "queue": "interactive", "walltime": "00:30", "cores": "1", "memory": "1"}
ALL_HOSTS = ("ctl", "login1", "c1", "c2")


def test_from_click_to_usable_lab(
    programs: Run, paths: Any, stock: Hub, people: People, password: Callable[[str], str], record: Callable[..., None]
) -> None:
    # batchspawner has to be in the users' environment, where ours is not based on it
    packages = f"{paths.shared}/packages"
    found = f"{paths.hub}/lib/python3.*/site-packages/batchspawner"
    programs("login1", f"install -d {packages} && cp -rp {found} {packages}")
    singleuser = f"/usr/bin/env PYTHONPATH={packages} {paths.lab}/bin/python -m batchspawner.singleuser"
    hubs = {
        "ours": {"url": "https://login1:8443", "user": "bob", "password": password("bob"), "options": WISH},
        "stock": {
            "url": stock([f"{paths.lab}/bin/jupyterhub-singleuser"], singleuser),
            "user": "alice",
            "password": "-",
            "options": {},
        },
    }
    seconds = people("clicks", hubs=hubs, floor_user="bob", rounds=ROUNDS, idle_seconds=IDLE_SECONDS)
    for name, each in seconds.items():
        print(f"\n{name}: median {median(each):.2f} of {' '.join(f'{one:.2f}' for one in each)}", end="")
    ours, theirs, floor = (round(median(seconds[name]), 2) for name in ("ours", "stock", "floor"))
    name = "click to usable Lab, idle cluster, ratio to"
    record(f"{name} stock", ours, theirs, round(ours / theirs, 2), 0.6, "s")
    record(f"{name} the floor (empty job + cold start: {floor} s)", ours, theirs, round(ours / floor, 2), 1.25, "s")
    assert ours / theirs <= 0.6
    assert ours / floor <= 1.25


# -- scheduler commands


@pytest.fixture(scope="module")
def load_users(programs: Run, paths: Any) -> Iterator[list[str]]:
    """As many users as there are jobs, known to every host and to the accounting."""
    names = [f"load{number:04}" for number in range(RUNNING + PENDING)]
    lines = "".join(f"{name}:*:{10000 + number}:2000::/home/{name}:/bin/bash\n" for number, name in enumerate(names))
    with ExitStack() as undo:
        undo.callback(programs, "login1", "rm -rf /home/load[0-9]*")
        for name in ALL_HOSTS:
            undo.callback(programs, name, "sed -i '/^load[0-9]/d' /etc/passwd")
            programs(name, f"printf %s {shlex.quote(lines)} >>/etc/passwd")
        programs("login1", f"for u in {' '.join(names)}; do install -d -m 700 -o $u -g 2000 /home/$u; done")
        users = ",".join(names)
        undo.callback(programs, "ctl", f"sacctmgr --immediate --quiet delete user {users}")
        programs("ctl", f"sacctmgr --immediate --quiet add user {users} account=climate")
        # more jobs on a node than it has cores: they do nothing
        undo.callback(programs, "ctl", "scontrol update PartitionName=interactive OverSubscribe=NO")
        programs("ctl", "scontrol update PartitionName=interactive OverSubscribe=FORCE:8")
        undo.callback(programs, "ctl", f"squeue --noheader --user={users} --format=%i | xargs -r scancel; sleep 10")
        yield names


@pytest.fixture
def small_labs(programs: Run, paths: Any, write: Callable[..., None]) -> Iterator[None]:
    """Jobs of the deployed job program start a server of lab.py in place of a JupyterLab."""
    programs("login1", f"install -d {paths.shared}/lab/bin")
    write(f"{paths.shared}/lab/bin/python", f"#!/bin/sh\nexec {paths.lab}/bin/python {paths.shared}/lab.py\n", "755")
    programs("login1", f"cp -p /etc/hpchub/jobs.json {paths.here}/jobs.json")
    programs("login1", f"sed -i 's#{paths.lab}#{paths.shared}/lab#' /etc/hpchub/jobs.json")
    yield
    programs("login1", f"cp -p {paths.here}/jobs.json /etc/hpchub/jobs.json")


def test_scheduler_commands_at_the_peak_of_ncar(
    programs: Run, paths: Any, ours: Hub, stock: Hub, people: People, load_users: list[str], small_labs: None,
    worst_minute: Callable[[int], int], record: Callable[..., None],
) -> None:  # fmt: skip
    early, late = load_users[:RUNNING], load_users[RUNNING:]

    def measure(url: str, options: dict[str, str], name: str) -> int:
        people("crowd", url=url, names=early, options=options, wait=True)
        programs("ctl", "scontrol update NodeName=c1,c2 State=DRAIN Reason=bench")
        try:
            people("crowd", url=url, names=late, options=options, wait=False)
            count = worst_minute(WINDOW)
            states = programs("ctl", f"squeue --noheader --name={name} --format=%T").split()
            assert (states.count("RUNNING"), states.count("PENDING")) == (RUNNING, PENDING)
        finally:
            programs("ctl", f"scancel --name={name}; scontrol update NodeName=c1,c2 State=RESUME; sleep 5")
        return count

    mine = measure(ours("/usr/bin", "/run/hpchub-jobs.sock"), WISH, "hpchub")
    programs("login1", "systemctl stop hpchub-bench")
    theirs = measure(stock([f"{paths.shared}/lab.py"], f"{paths.lab}/bin/python"), {}, "spawner-jupyterhub")
    name = f"scheduler commands in the worst minute, {RUNNING} running and {PENDING} pending Slurm jobs, small servers"
    record(name, mine, theirs, round(mine / theirs, 4), COMMANDS, "commands/min")
    assert mine <= COMMANDS


@pytest.fixture
def simulated(programs: Run, paths: Any, write: Callable[..., None]) -> str:
    """Commands of a scheduler that is not there: jobs as HERE/jobs.txt says, queues as on this cluster; gives where."""
    fake = f"{paths.here}/simulated"
    programs("login1", f"install -d {fake} && touch {paths.here}/jobs.txt")
    for name, words in {"scontrol": "--oneliner show partition", "sinfo": "--noheader --format='%R|%c|%m|%G'"}.items():
        programs("login1", f"{name} {words} >{fake}/{name}.txt")
    associations = r"climate||normal|%s\n"
    waiting = f"""awk -F'|' '$3 == "PENDING" {{print $1 "|interactive"}}' {paths.here}/jobs.txt"""
    for name, line in {
        "squeue": f"case $* in *%i\\|%P*) {waiting};; *%k*) ;; *) cat {paths.here}/jobs.txt;; esac",
        "scontrol": f"case $* in *reservation*) echo No reservations in the system;; *) cat {fake}/scontrol.txt;; esac",
        "sinfo": f"cat {fake}/sinfo.txt",
        "sacctmgr": f"printf '{associations}' $(seq --format=sim%04.0f 0 {SERVERS + STARTS - 1})",
        "sacct": "true",
    }.items():
        write(f"{fake}/{name}", f"#!/bin/sh\n{line}\n", "755")
    return fake


def test_scheduler_commands_with_ten_thousand_jobs(
    programs: Run, paths: Any, simulated: str, counted: Callable[[str], None], service: Callable[..., None],
    write: Callable[..., None], worst_minute: Callable[[int], int], record: Callable[..., None],
) -> None:  # fmt: skip
    counted(simulated)
    programs(
        "login1",
        f'for i in $(seq {WATCHED}); do [ $((i % 10)) = 0 ] && echo "$i|somebody|PENDING|n/a|0|Priority"'
        f' || echo "$i|somebody|RUNNING|login1|1700000000|None"; done >{paths.here}/jobs.txt',
    )
    service(
        "hpchub-bench-watch",
        f"{paths.hub}/bin/python {paths.shared}/watch.py {paths.here}/bin {WATCHED} {WINDOW + 10}",
        "--property=RemainAfterExit=yes",
    )
    mine = worst_minute(WINDOW)
    programs("login1", "sleep 20; systemctl is-active hpchub-bench-watch")
    name = f"scheduler commands in the worst minute, {WATCHED:,} simulated jobs, simulated scheduler, the real watcher"
    record(name, mine, None, None, COMMANDS, "commands/min")
    assert 0 < mine <= COMMANDS


# -- many people


def test_ten_times_the_peak_of_ncar(
    programs: Run, paths: Any, ours: Hub, simulated: str, people: People, record: Callable[..., None]
) -> None:
    names = [f"sim{number:04}" for number in range(SERVERS + STARTS)]
    url = ours(simulated, f"{paths.here}/jobs.sock")
    seen = people(
        "rush", url=url, early=names[:SERVERS], late=names[SERVERS:], wish=WISH, seconds=MINUTE,
        visits_per_second=VISITS_PER_SECOND,
    )  # fmt: skip
    pages, forms, starts = sorted(seen["pages"]), sorted(seen["forms"]), sorted(seen["starts"])
    p95 = 1000 * quantiles(pages, n=20)[-1]
    print(f"\n{SERVERS} servers up in {seen['warm']:.0f} s; then {len(pages)} pages, median {median(pages):.3f} s")
    print(f"{len(starts)} starts, from sign-in to Lab: median {median(starts):.1f} s, longest {starts[-1]:.1f} s")
    print(f"answers to the form, which JupyterHub keeps back for up to 1 s: median {median(forms):.2f} s")
    print(f"failed: {seen['failed'][:5]}")
    what = f"{SERVERS} simulated servers with {STARTS} starts in {MINUTE} s, simulated scheduler and sign-in"
    record(f"failed starts, {what}", len(seen["failed"]), None, None, 0, "starts")
    record(f"p95 of hub pages, {what}", round(p95), None, None, PAGE_MS, "ms")
    for unit in ("hpchub-bench", "hpchub-bench-proxy"):
        pid = programs("login1", f"systemctl show --property=MainPID --value {unit}")
        kib = dict(re.findall(r"(?m)^(Rss|Pss): +(\d+)", programs("login1", f"cat /proc/{pid}/smaps_rollup")))
        for kind in ("Rss", "Pss"):
            record(
                f"{kind.upper()} of {unit.replace('-bench', '')}, there",
                int(kib[kind]) // 1024,
                None,
                None,
                None,
                "MiB",
            )
    assert seen["failed"] == []
    assert len(starts) == STARTS
    assert p95 < PAGE_MS
