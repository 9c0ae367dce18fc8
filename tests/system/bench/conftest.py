"""Hubs to measure, each of its own, beside the one that is deployed: ours and stock.

Whatever is made for this is below /run/hpchub-bench and /opt/hpchub/bench on the cluster, and is gone afterwards.
"""

import io
import json
import os
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[[str, str], str]

CLUSTER = os.environ.get("CLUSTER", "demo")
SHARED, HERE = "/opt/hpchub/bench", "/run/hpchub-bench"
HUB, PROXY = "/usr/local/lib/hpchub/hub/current", "/usr/local/lib/hpchub/proxy/current"
OURS, STOCK = "https://login1:18443", "http://login1:18000"
UNITS = {
    "hpchub": {
        "python -I -m hpchub.cli hub": f"python -I -m hpchub.cli hub --site {HERE}/site.yml",
        "StateDirectory=hpchub\n": f"StateDirectory=hpchub-bench\nReadWritePaths={HERE}\n",
        "WorkingDirectory=/var/lib/hpchub\n": "WorkingDirectory=/var/lib/hpchub-bench\n",
    },
    "hpchub-proxy": {
        "--port 8443": "--port 18443",
        "/run/hpchub-proxy/": "/run/hpchub-bench-proxy/",
        "RuntimeDirectory=hpchub-proxy\n": "RuntimeDirectory=hpchub-bench-proxy\n",
    },
}
"""Units of the deployed hub, and what is different in those of the hub that is measured."""


@dataclass(frozen=True)
class Paths:
    """Directories on the login node; `shared` and `lab` are those of the nodes, too."""

    here: str = HERE
    shared: str = SHARED
    hub: str = HUB
    lab: str = "/opt/hpchub/lab/current"


@pytest.fixture(scope="session")
def paths() -> Paths:
    """Where things are."""
    return Paths()


# -- what is put on the hosts, and taken away again


@pytest.fixture(scope="session")
def undo() -> Iterator[ExitStack]:
    """What puts everything right again, the last one first, whatever happens in between."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def programs(run: Run, undo: ExitStack) -> Run:
    """Bring the programs to the login node and, by the shared prefix, to all nodes; gives `run`."""
    undo.callback(run, "login1", f"rm -rf {SHARED} {HERE} /var/lib/hpchub-bench")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in (Path(__file__).parent / "programs").glob("*.py"):
            archive.add(path, path.name)
    run("login1", f"install -d {SHARED} {HERE} {HERE}/bin")
    command = ["podman", "exec", "-i", f"hpchub-{CLUSTER}-login1", "tar", "x", "--no-same-owner", "-C", SHARED]
    subprocess.run(command, input=packed.getvalue(), check=True)
    run("login1", f"chmod -R go+rX {SHARED}")
    return run


@pytest.fixture(scope="session")
def write(programs: Run) -> Callable[..., None]:
    """Write a file on the login node."""

    def put(path: str, text: str, mode: str = "644") -> None:
        programs("login1", f"printf %s {shlex.quote(text)} >{path} && chmod {mode} {path}")

    return put


@pytest.fixture
def service(programs: Run) -> Iterator[Callable[..., None]]:
    """Run a command as a unit until the test ends."""
    names: list[str] = []

    def start(name: str, command: str, *options: str) -> None:
        names.append(name)
        programs("login1", f"systemd-run --quiet --collect --unit={name} {shlex.join(options)} {command}")

    yield start
    for name in reversed(names):
        programs("login1", f"systemctl stop {name} 2>/dev/null || true")


@pytest.fixture
def answers(programs: Run, wait_until: Callable[..., None]) -> Callable[[str], None]:
    """Wait until a hub is up."""

    def wait(url: str) -> None:
        look = (
            f"import ssl, urllib.request as u; u.urlopen('{url}/hub/health', context=ssl._create_unverified_context())"
        )
        line = f"{HUB}/bin/python -c {shlex.quote(look)} 2>/dev/null && echo up || true"
        wait_until(f"the hub at {url} answers", lambda: programs("login1", line) == "up", 90)

    return wait


@pytest.fixture
def people(programs: Run) -> Callable[..., Any]:
    """Have people do something at a hub: a verb of people.py, with its arguments."""

    def do(verb: str, **arguments: object) -> Any:
        command = f"{HUB}/bin/python {SHARED}/people.py {verb} <<'END'\n{json.dumps(arguments)}\nEND"
        return json.loads(programs("login1", command).splitlines()[-1])

    return do


# -- counting


@pytest.fixture
def counted(programs: Run, write: Callable[..., None]) -> Callable[[str], None]:
    """Make HERE/bin: the scheduler's commands, those of the given directory, with each call written down."""

    def wrap(real: str) -> None:
        write(
            f"{HERE}/bin/any",
            f'#!/bin/bash\necho "$EPOCHREALTIME ${{0##*/}}" >>{HERE}/calls\nexec {real}/${{0##*/}} "$@"\n',
            "755",
        )
        names = "squeue sacct sacctmgr scontrol sinfo sbatch scancel"
        programs("login1", f"cd {HERE}/bin && for name in {names}; do ln -sf any $name; done")
        write(f"{HERE}/calls", "", "666")

    return wrap


@pytest.fixture
def worst_minute(programs: Run) -> Callable[[int], int]:
    """Watch for so many seconds; gives the number of calls in the worst minute of them."""

    def watch(seconds: int) -> int:
        begin = float(programs("login1", f": >{HERE}/calls; date +%s.%N"))
        time.sleep(seconds)
        calls = [float(line.split()[0]) for line in programs("login1", f"cat {HERE}/calls").splitlines()]
        starts = [begin, *(call for call in calls if call <= begin + seconds - 60)]
        return max(sum(start <= call < start + 60 for call in calls) for start in starts)

    return watch


# -- the hubs


@pytest.fixture
def stock(
    write: Callable[..., None], programs: Run, counted: Callable[[str], None], service: Callable[..., None],
    answers: Callable[[str], None],
) -> Callable[..., str]:  # fmt: skip
    """Start stock JupyterHub with batchspawner, as root; a job runs `lab` by way of `singleuser`. Gives the address."""

    def start(lab: Sequence[str], singleuser: str) -> str:
        counted("/usr/bin")
        chp = "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
        given = {
            "lab": list(lab), "singleuser": singleuser, "commands": f"{HERE}/bin",
            "proxy": [f"{PROXY}/bin/node", f"{PROXY}/{chp}"],
        }  # fmt: skip
        programs("login1", f"rm -rf {HERE}/stock && install -d {HERE}/stock && cp {SHARED}/stock.py {HERE}/stock")
        write(f"{HERE}/stock/stock.json", json.dumps(given))
        command = f"{HUB}/bin/python -m jupyterhub --config {HERE}/stock/stock.py"
        service("hpchub-bench-stock", command, f"--working-directory={HERE}/stock")
        answers(STOCK)
        return STOCK

    return start


@pytest.fixture
def ours(
    programs: Run, write: Callable[..., None], counted: Callable[[str], None], service: Callable[..., None],
    answers: Callable[[str], None],
) -> Iterator[Callable[..., str]]:  # fmt: skip
    """Start a hub and a proxy like those that are deployed, from their units; sign-in is simulated. Gives its address.

    `real` is the directory of the scheduler's commands, `jobs` the socket of the job program.
    """

    def start(real: str, jobs: str) -> str:
        counted(real)
        site = yaml.safe_load(programs("login1", "cat /etc/hpchub/site.yml"))
        site["scheduler_prefix"] = f"{HERE}/bin"
        site["hub"] |= {"public_url": f"{OURS}/", "port": 18081, "state_directory": "/var/lib/hpchub-bench"}
        site["proxy"] = {"api_socket": "/run/hpchub-bench-proxy/api.sock"}
        site["login"] |= {"socket": f"{HERE}/login.sock"}
        site["jobs"] |= {"socket": jobs}
        write(f"{HERE}/site.yml", yaml.safe_dump(site))
        service(
            "hpchub-bench-simulated", f"{HUB}/bin/python {SHARED}/simulated.py {HERE}", "--property=LimitNOFILE=16384"
        )
        for name in reversed(UNITS):
            text = programs("login1", f"cat /etc/systemd/system/{name}.service")
            for old, new in UNITS[name].items():
                assert old in text, f"{name}.service has no {old!r} any more"
                text = text.replace(old, new)
            unit = name.replace("hpchub", "hpchub-bench")
            write(f"/run/systemd/system/{unit}.service", text)
            programs("login1", f"systemctl daemon-reload && systemctl start {unit}")
        answers(OURS)
        return OURS

    yield start
    units = " ".join(name.replace("hpchub", "hpchub-bench") for name in UNITS)
    files = " ".join(f"/run/systemd/system/{unit}.service" for unit in units.split())
    programs("login1", f"systemctl stop {units}; rm -rf {files} /var/lib/hpchub-bench; systemctl daemon-reload")
