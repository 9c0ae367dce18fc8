"""What the tests of batchspawner expect of a spawner, expected of ours.

Its releases do not hold them, so they cannot be run from there: for each of them (`SUITE`) stand here tests of what it
expects. Where we do otherwise, `departs` names the row of `DEPARTURES` with the reason, and its test shows what we do.
As there, a test answers in the scheduler's place; spawner, watcher, job program and parsers are the real ones.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import pwd
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from jupyterhub import orm
from jupyterhub.objects import Hub
from jupyterhub.user import User
from pydantic import ValidationError
from sqlalchemy.orm import Session

from hpchub import settings
from hpchub.hub import spawner as spawner_module
from hpchub.hub.internal_tls import Labs
from hpchub.hub.job_client import JobClient
from hpchub.hub.refused import Refused
from hpchub.hub.runtime import RunningCluster, Runtime
from hpchub.hub.spawner import HpcSpawner
from hpchub.privileged import jobs
from hpchub.scheduler import SchedulerUnavailable
from hpchub.scheduler.offers import Live
from hpchub.scheduler.pbs import Pbs
from hpchub.scheduler.slurm import Slurm
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Site

if TYPE_CHECKING:
    from conftest import FakeScheduler

RELEASE = "1.3.0"
SUITE = {
    "test_spawner_start_stop_poll", "test_stress_submit", "test_spawner_state_reload", "test_submit_failure",
    "test_submit_pending_fails", "test_poll_fails", "test_unknown_status", "test_templates", "test_batch_script",
    "test_exec_prefix", "test_torque", "test_moab", "test_pbs", "test_slurm", "test_condor", "test_lfs",
    "test_keepvars",
    "test_early_stop",  # after 1.3.0, not released
}  # fmt: skip

DEPARTURES = {
    "poll gives 1 for a server that does not run": "JupyterHub's contract is 0 where no exit status is known.",
    "start leaves the host in spawner.ip": (
        "start returns an https URL; JupyterHub writes host and port into the server's record, where proxies look."
    ),
    "poll and a failed start clear the state": (
        "JupyterHub clears it after stop(). Until then the job's id is needed: to cancel, to read its log, to say why."
    ),
    "one answer without the job is its end": (
        "A job may be missing while it moves from the queue into the accounting. Its end is what two answers and the "
        "accounting say, or four answers."
    ),
    "the state holds id and the scheduler's last words, and nothing else": (
        "The words are stale at once. Tag, token, node and port are what a restarted hub needs to find job and server."
    ),
    "a failed start is a RuntimeError": "Refused is JupyterHub's SpawnException: a sentence to its user, no traceback.",
    "each spawner asks for its own job and keeps what the scheduler said": (
        "One question for all jobs, through the watcher; 300 servers would be ten commands a second."
    ),
    "commands and script are templates of the configuration": (
        "What users shape must not become shell text (decision 1): argument lists, one fixed script, no options, "
        "prologue, epilogue or wrapper of a site."
    ),
    "the script runs spawner.cmd": "It runs hpchub.lab.start of the release that was current at the submission.",
    "every command runs behind exec_prefix": (
        "The hub has no sudo: submit and cancel go through the socket of hpchub-jobs, questions need no user's rights."
    ),
    "a PBS job names its server": "One site, one server; PBS_SERVER of pbs.conf names it on the login node.",
    "Torque, Moab, HTCondor and LSF": "Slurm and PBS are supported: what no real scheduler has tested is not offered.",
    "keepvars choose what the job inherits": (
        "Nothing is inherited (--export=NIL): the values travel in the script, JUPYTERHUB_* alone."
    ),
}

HOST, PORT, NUMBER = "userhost123", 54321, "12345"
PATIENCE = 30  # seconds, for a busy machine
WISH = {"project": "climate", "queue": "regular", "walltime": "08:00", "cores": "5", "memory": "10"}
STATES = {"PENDING": "Q", "RUNNING": "R"}

T = TypeVar("T", bound=Callable[..., Any])


def holds(*names: str) -> Callable[[T], T]:
    """Of these tests of batchspawner, what the name of the function says."""
    return lambda test: _mark(test, names, "")


def departs(departure: str, *names: str) -> Callable[[T], T]:
    """These tests of batchspawner expect this; ours does what the function shows."""
    assert departure in DEPARTURES
    return lambda test: _mark(test, names, departure)


def _mark(test: T, names: Sequence[str], departure: str) -> T:
    assert set(names) <= SUITE
    test.upstream = (frozenset(names), departure)
    return test


@dataclass
class Cluster:
    """A test in the place of Slurm or PBS: it keeps each command, and answers what was put in."""

    home: Path
    kind: str = "slurm"
    jobs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of each job state and node."""
    accounted: dict[str, tuple[str, str]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    users: list[tuple[str, str]] = field(default_factory=list)
    """For whom the job program was asked for what."""
    silent: bool = False
    blanks: int = 0
    """So many answers have no job; afterwards there are none."""
    vanish: bool = False
    """No job that is submitted is ever seen."""
    failing: str = ""
    mute: bool = False

    @property
    def config(self) -> jobs.Config:
        return jobs.Config(
            self.kind, "/usr/bin", "/opt/hpchub/lab/current", "/opt/hpchub", "{home}", ("regular", "gpu")
        )

    def run(
        self, command: list[str], environment: Mapping[str, str], cwd: str, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """In the place of the job program's way to run a command."""
        self.commands.append(command)
        if self.failing:
            return subprocess.CompletedProcess(command, 1, "", self.failing)
        program = Path(command[0]).name
        if program in ("scancel", "qdel"):
            self.jobs.pop(command[1], None)
            return subprocess.CompletedProcess(command, 0, "", "")
        assert program == {"slurm": "sbatch", "pbs": "qsub"}[self.kind]
        self.scripts.append(text)
        if self.mute:
            return subprocess.CompletedProcess(command, 0, "", "")
        job_id = str(int(NUMBER) + len(self.scripts) - 1) + (".pbs" if self.kind == "pbs" else "")
        if not self.vanish:
            self.jobs[job_id] = ("PENDING", "")
        return subprocess.CompletedProcess(command, 0, f"{job_id}\n", "")

    async def as_user(self, path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """The job program, with this test for a socket and a home for a user."""
        self.users.append((user, message["verb"]))
        account = pwd.struct_passwd((user, "x", 2001, 2000, "", str(self.home), "/bin/bash"))
        try:
            return jobs.handle(json.loads(json.dumps(message)), self.config, account)
        except jobs.Refused as refusal:
            return {"ok": False, "message": str(refusal)}

    async def ask(self, argv: Sequence[str]) -> str:
        """In the place of the hub's way to run a command."""
        self.commands.append(list(argv))
        if self.silent:
            raise SchedulerUnavailable("slurm_load_jobs error: Unable to contact slurm controller")
        found = self.accounted if Path(argv[0]).name == "sacct" or "-x" in argv else self.jobs
        if found is self.jobs and self.blanks:
            self.blanks -= 1
            self.silent = not self.blanks
            return ""
        return "".join(self._line(job_id, state, node) for job_id, (state, node) in found.items())

    def _line(self, job_id: str, state: str, node: str) -> str:
        if self.kind == "slurm":
            return f"{job_id}|alice|{state}|{node or 'n/a'}|N/A|None\n"
        where = f"    exec_host = {node}/2*1\n" if node else ""
        known = f"    Job_Name = hpchub\n    Job_Owner = alice@pbs\n    job_state = {STATES[state]}\n"
        return f"Job Id: {job_id}\n{known}{where}\n"

    @property
    def programs(self) -> list[str]:
        """The commands so far, of those that follow each other the first."""
        names = [Path(command[0]).name for command in self.commands]
        return [name for name, before in zip(names, ["", *names], strict=False) if name != before]


@dataclass
class Bench:
    """A cluster, and spawners of alice as JupyterHub makes them."""

    cluster: Cluster
    session: Session
    give: Callable[[], None]
    """The runtime of a fresh process of the hub."""
    answering: set[str]

    def spawner(self, name: str = "", **wish: str) -> HpcSpawner:
        row = self.session.query(orm.User).one()
        if name not in row.orm_spawners:
            self.session.add(orm.Spawner(name=name, user=row, server=orm.Server(base_url=f"/user/alice/{name}/")))
            self.session.commit()
        user = User(row, {})
        spawner = user._new_spawner(name, spawner_class=HpcSpawner, hub=Hub(), cmd=["singleuser_command"])
        spawner.api_token = row.new_api_token(note=f"Server at /user/alice/{name}/")
        spawner.user_options = WISH | wish
        return spawner

    async def submitted(self, spawner: HpcSpawner) -> asyncio.Task[str]:
        starting = asyncio.ensure_future(spawner.start())
        await until(lambda: spawner.job_id or starting.done())
        return starting

    def run(self, spawner: HpcSpawner, port: int = PORT) -> None:
        self.cluster.jobs[spawner.job_id] = ("RUNNING", HOST)
        self.answering.add(f"https://{HOST}:{port}")
        spawner.report_port(port)

    async def started(self, **wish: str) -> HpcSpawner:
        spawner = self.spawner(**wish)
        starting = await self.submitted(spawner)
        self.run(spawner)
        assert await asyncio.wait_for(starting, PATIENCE) == f"https://{HOST}:{PORT}"
        return spawner

    async def polls_until_dead(self, spawner: HpcSpawner) -> int:
        async with asyncio.timeout(PATIENCE):
            while (status := await spawner.poll()) is None:
                await asyncio.sleep(0.01)
        return status

    async def answers(self, count: int) -> None:
        """Wait for so many more questions about the jobs."""
        before = len(self.cluster.commands)
        await until(lambda: len(self.cluster.commands) >= before + count)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(params=["slurm"])
async def bench(
    request: pytest.FixtureRequest,
    scheduler: FakeScheduler,
    site: Site,
    labs: Labs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bench]:
    monkeypatch.setattr("hpchub.scheduler.watcher.SOONEST", 0.01)
    monkeypatch.setattr("hpchub.scheduler.watcher.LONGEST_BACK_OFF", 0.05)
    monkeypatch.setattr("hpchub.scheduler.watcher.COMMANDS_PER_MINUTE", 60_000)
    cluster = Cluster(tmp_path, request.param)
    monkeypatch.setattr(jobs, "run", cluster.run)
    watchers: list[Watcher] = []

    def give() -> None:
        batch = {"slurm": Slurm, "pbs": Pbs}[cluster.kind]("/usr/bin", cluster.ask)
        watchers.append(Watcher(batch, 0.02))
        # what alice may ask for is no matter of batchspawner's
        offers, client = Live(scheduler, site.cluster), JobClient(site.cluster.jobs.socket, cluster.as_user)
        runtime = Runtime(site, labs, (RunningCluster(site.cluster, "demo:00", batch, watchers[-1], offers, client),))
        monkeypatch.setattr(spawner_module, "runtime", lambda path: runtime)

    answering: set[str] = set()

    async def answers(_spawner: HpcSpawner, url: str) -> bool:
        return url in answering

    monkeypatch.setattr(HpcSpawner, "_answers", answers)
    session = orm.new_session_factory("sqlite:///:memory:")()
    session.add(orm.User(name="alice"))
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.commit()
    give()
    yield Bench(cluster, session, give, answering)
    for watcher in watchers:
        await watcher.close()
    session.close()


both = pytest.mark.parametrize("bench", ["slurm", "pbs"], indirect=True)


# -- from start to stop


@holds("test_spawner_start_stop_poll", "test_spawner_state_reload", "test_templates", "test_exec_prefix")
async def test_a_new_spawner_has_no_job_and_no_state_and_asks_the_scheduler_nothing(bench: Bench) -> None:
    spawner = bench.spawner()
    assert await spawner.poll() is not None
    assert spawner.job_id == ""
    assert spawner.get_state() == {}
    assert bench.cluster.commands == []


@departs(
    "poll gives 1 for a server that does not run", "test_spawner_start_stop_poll", "test_templates", "test_exec_prefix",
    "test_pbs", "test_slurm",
)  # fmt: skip
async def test_poll_gives_0_for_a_server_that_does_not_run(bench: Bench) -> None:
    assert await bench.spawner().poll() == 0
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert await spawner.poll() == 0


@both
@holds(
    "test_spawner_start_stop_poll", "test_spawner_state_reload", "test_templates", "test_exec_prefix", "test_pbs",
    "test_slurm",
)  # fmt: skip
async def test_a_started_server_has_the_id_that_the_submission_printed_and_lives(bench: Bench) -> None:
    spawner = await bench.started()
    assert spawner.job_id.removesuffix(".pbs") == NUMBER
    assert await spawner.poll() is None


@departs(
    "start leaves the host in spawner.ip", "test_spawner_start_stop_poll", "test_spawner_state_reload",
    "test_templates", "test_pbs", "test_slurm",
)  # fmt: skip
async def test_start_returns_an_https_url_with_the_host_of_the_job(bench: Bench) -> None:
    spawner = bench.spawner()
    default = spawner.ip
    starting = await bench.submitted(spawner)
    bench.run(spawner)
    assert await asyncio.wait_for(starting, PATIENCE) == f"https://{HOST}:{PORT}"
    assert spawner.ip == default != HOST


@both
@holds("test_spawner_start_stop_poll", "test_templates", "test_exec_prefix", "test_pbs", "test_slurm")
async def test_stop_cancels_the_job_and_afterwards_it_is_dead(bench: Bench) -> None:
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert [command[1:] for command in bench.cluster.commands if command[0].endswith(("scancel", "qdel"))] == [
        [spawner.job_id]
    ]
    assert await spawner.poll() is not None


@both
@holds("test_templates", "test_pbs", "test_slurm")
async def test_a_server_is_submitted_then_watched_then_cancelled_then_watched_until_it_is_over(bench: Bench) -> None:
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    submit, query, cancel = {"slurm": ("sbatch", "squeue", "scancel"), "pbs": ("qsub", "qstat", "qdel")}[
        bench.cluster.kind
    ]
    assert bench.cluster.programs[:4] == [submit, query, cancel, query]


@holds("test_spawner_start_stop_poll", "test_templates")
async def test_the_state_is_empty_once_jupyterhub_has_cleared_it(bench: Bench) -> None:
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    spawner.clear_state()
    assert set(spawner.get_state()) <= {"ended"}  # whose Dask jobs have to be looked for
    assert spawner.job_id == ""


@departs(
    "poll and a failed start clear the state", "test_spawner_start_stop_poll", "test_templates", "test_poll_fails",
    "test_submit_pending_fails",
)  # fmt: skip
async def test_whoever_finds_a_job_dead_still_knows_which_it_was(bench: Bench) -> None:
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert await spawner.poll() == 0
    assert spawner.get_state()["job_id"] == NUMBER
    again = bench.spawner("second")
    starting = await bench.submitted(again)
    bench.cluster.jobs.clear()
    with pytest.raises(Refused):
        await asyncio.wait_for(starting, PATIENCE)
    assert again.job_id


@holds("test_stress_submit")
async def test_50_servers_at_once_are_all_submitted_and_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is 200, but nobody awaits them."""
    monkeypatch.setattr("hpchub.scheduler.watcher.SOONEST", 0.2)  # 50 who wake at each answer
    spawners = [bench.spawner(f"s{number}") for number in range(50)]
    starts = [asyncio.ensure_future(spawner.start()) for spawner in spawners]
    async with asyncio.timeout(PATIENCE):
        while not all(spawner.job_id for spawner in spawners):
            await asyncio.sleep(0.05)
    for port, spawner in enumerate(spawners, PORT):
        bench.run(spawner, port)
    urls = await asyncio.wait_for(asyncio.gather(*starts), PATIENCE)
    assert urls == [f"https://{HOST}:{port}" for port in range(PORT, PORT + 50)]
    assert len({spawner.job_id for spawner in spawners}) == 50
    assert [await spawner.poll() for spawner in spawners] == [None] * 50
    await asyncio.wait_for(asyncio.gather(*(spawner.stop() for spawner in spawners)), PATIENCE)
    assert bench.cluster.jobs == {}
    assert [await spawner.poll() for spawner in spawners] == [0] * 50


# -- state


@holds("test_spawner_state_reload")
async def test_the_job_is_known_to_whoever_loads_the_state(bench: Bench) -> None:
    state = (await bench.started()).get_state()
    bench.give()
    again = bench.spawner()
    again.clear_state()
    assert set(again.get_state()) <= {"ended"}
    again.load_state(state)
    assert again.job_id == NUMBER


@departs("the state holds id and the scheduler's last words, and nothing else", "test_spawner_state_reload")
async def test_the_state_holds_what_a_restarted_hub_needs_and_no_words_of_the_scheduler(bench: Bench) -> None:
    state = (await bench.started()).get_state()
    assert "job_status" not in state
    assert (state["job_id"], state["node"], state["port"]) == (NUMBER, HOST, PORT)
    assert state.keys() > {"tag", "token_id"}


# -- what goes wrong


@holds("test_submit_failure")
async def test_a_submission_that_prints_no_id_fails_the_start_and_leaves_no_job(bench: Bench) -> None:
    bench.cluster.mute = True
    spawner = bench.spawner()
    with pytest.raises(Refused):
        await asyncio.wait_for(spawner.start(), PATIENCE)
    assert spawner.job_id == ""
    assert spawner.job_status == ""


@departs(
    "a failed start is a RuntimeError", "test_submit_failure", "test_submit_pending_fails", "test_early_stop"
)  # fmt: skip
async def test_a_failed_start_is_a_sentence_for_its_user(bench: Bench) -> None:
    bench.cluster.failing = "sbatch: error: Invalid account"
    with pytest.raises(Refused, match="Invalid account") as caught:
        await asyncio.wait_for(bench.spawner().start(), PATIENCE)
    assert not isinstance(caught.value, RuntimeError)


@both
@holds("test_submit_pending_fails")
async def test_a_job_that_no_answer_ever_shows_fails_the_start(bench: Bench) -> None:
    bench.cluster.vanish = True
    spawner = bench.spawner()
    with pytest.raises(Refused, match="ended before JupyterLab answered"):
        await asyncio.wait_for(spawner.start(), PATIENCE)
    assert await spawner.poll() == 0


@both
@holds("test_early_stop")
async def test_a_job_that_waits_and_then_disappears_fails_the_start(bench: Bench) -> None:
    spawner = bench.spawner()
    starting = await bench.submitted(spawner)
    await bench.answers(2)
    bench.cluster.silent = True
    await bench.answers(2)
    assert not starting.done()
    bench.cluster.jobs.clear()
    bench.cluster.silent = False
    with pytest.raises(Refused, match="ended before JupyterLab answered"):
        await asyncio.wait_for(starting, PATIENCE)


@both
@holds("test_poll_fails")
async def test_a_running_job_that_disappears_is_dead_in_the_end(bench: Bench) -> None:
    spawner = await bench.started()
    bench.cluster.jobs.clear()
    assert await bench.polls_until_dead(spawner) == 0


@departs("one answer without the job is its end", "test_submit_pending_fails", "test_poll_fails", "test_early_stop")
async def test_a_job_that_only_the_accounting_knows_lives(bench: Bench) -> None:
    spawner = await bench.started()
    bench.cluster.jobs.clear()
    bench.cluster.accounted[spawner.job_id] = ("RUNNING", HOST)
    await until(lambda: "sacct" in bench.cluster.programs)
    await bench.answers(3)
    assert await spawner.poll() is None


@both
@departs("one answer without the job is its end", "test_submit_pending_fails", "test_poll_fails", "test_early_stop")
async def test_three_answers_without_a_job_are_not_its_end(bench: Bench) -> None:
    spawner = await bench.started()
    bench.cluster.blanks = 3
    await until(lambda: bench.cluster.silent)
    await bench.answers(3)
    assert await spawner.poll() is None


@both
@holds("test_unknown_status", "test_slurm")
async def test_a_scheduler_that_does_not_answer_ends_no_server(bench: Bench) -> None:
    spawner = await bench.started()
    bench.cluster.silent = True
    await bench.answers(8)
    assert await spawner.poll() is None
    assert spawner.job_id.removesuffix(".pbs") == NUMBER


@both
@holds("test_slurm", "test_pbs")
async def test_a_start_waits_through_the_queue_and_through_silence(bench: Bench) -> None:
    spawner = bench.spawner()
    starting = await bench.submitted(spawner)
    await bench.answers(2)
    bench.cluster.silent = True
    await bench.answers(2)
    assert not starting.done()
    bench.cluster.silent = False
    bench.run(spawner)
    assert await asyncio.wait_for(starting, PATIENCE) == f"https://{HOST}:{PORT}"


@departs(
    "each spawner asks for its own job and keeps what the scheduler said", "test_unknown_status",
    "test_submit_pending_fails", "test_templates",
)  # fmt: skip
async def test_one_question_is_about_all_jobs_and_a_poll_asks_nothing(bench: Bench) -> None:
    spawner = await bench.started()
    before = list(bench.cluster.commands)
    assert await spawner.poll() is None
    assert bench.cluster.commands == before
    assert spawner.job_status == ""
    assert not [command for command in before if "squeue" in command[0] and NUMBER in " ".join(command)]


# -- what is submitted


@holds("test_slurm")
@pytest.mark.parametrize(
    ("wish", "asked"),
    [
        ({}, {"--cpus-per-task=5", "--time=480", "--mem=10240M", "--account=climate", "--partition=regular"}),
        ({"reservation": "tutorial"}, {"--reservation=tutorial"}),
        ({"queue": "gpu", "gpus": "2"}, {"--gres=gpu:2"}),
    ],
    ids=["sizes", "reservation", "gpus"],
)
async def test_a_slurm_job_asks_for_what_was_wished(bench: Bench, wish: dict[str, str], asked: set[str]) -> None:
    await bench.started(**wish)
    assert asked <= set(bench.cluster.commands[0])


@pytest.mark.parametrize("bench", ["pbs"], indirect=True)
@holds("test_pbs")
async def test_a_pbs_job_asks_for_what_was_wished(bench: Bench) -> None:
    await bench.started(cores="4")
    assert {"-lselect=1:ncpus=4:mem=10240mb", "-lwalltime=08:00:00", "-qregular"} <= set(bench.cluster.commands[0])


@pytest.mark.parametrize("bench", ["pbs"], indirect=True)
@departs("a PBS job names its server", "test_pbs")
async def test_a_pbs_job_goes_to_the_server_of_the_login_node(bench: Bench) -> None:
    await bench.started()
    assert "-qregular" in bench.cluster.commands[0]
    assert not [word for word in bench.cluster.commands[0] if "@" in word]


@both
@departs("commands and script are templates of the configuration", "test_templates", "test_pbs", "test_slurm")
async def test_no_trait_of_batchspawner_changes_commands_or_script(bench: Bench) -> None:
    spawner = bench.spawner()
    for name in (
        "batch_submit_cmd",
        "batch_query_cmd",
        "batch_cancel_cmd",
        "batch_script",
        "batchspawner_singleuser_cmd",
    ):
        setattr(spawner, name, "MARK {cmd}")
    for name in ("req_options", "req_prologue", "req_epilogue", "req_nprocs", "req_memory", "req_runtime", "req_host"):
        setattr(spawner, name, "MARK")
    starting = await bench.submitted(spawner)
    bench.run(spawner)
    await asyncio.wait_for(starting, PATIENCE)
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert "MARK" not in json.dumps([bench.cluster.commands, bench.cluster.scripts])


@both
@holds("test_batch_script", "test_pbs", "test_slurm")
async def test_the_script_starts_the_server(bench: Bench) -> None:
    await bench.started()
    shebang, command, *_ = bench.cluster.scripts[0].splitlines()
    assert shebang == "#!/bin/bash"
    assert command.startswith("exec /opt/hpchub/lab/current/bin/python -I -m hpchub.lab.start ")


@both
@departs("the script runs spawner.cmd", "test_batch_script", "test_pbs", "test_slurm")
async def test_no_command_of_the_configuration_is_in_the_script(bench: Bench) -> None:
    spawner = await bench.started()
    assert spawner.cmd == ["singleuser_command"]
    assert "singleuser_command" not in bench.cluster.scripts[0]


@both
@holds("test_exec_prefix", "test_pbs", "test_slurm")
async def test_jobs_are_submitted_and_cancelled_as_their_user(bench: Bench) -> None:
    spawner = await bench.started()
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert bench.cluster.users == [("alice", "submit"), ("alice", "cancel")]


@both
@departs("every command runs behind exec_prefix", "test_exec_prefix", "test_pbs", "test_slurm")
async def test_no_command_has_anything_before_it(bench: Bench) -> None:
    spawner = bench.spawner()
    spawner.exec_prefix = "PREFIX"
    starting = await bench.submitted(spawner)
    bench.run(spawner)
    await asyncio.wait_for(starting, PATIENCE)
    await asyncio.wait_for(spawner.stop(), PATIENCE)
    assert {Path(command[0]).parent for command in bench.cluster.commands} == {Path("/usr/bin")}


@departs("keepvars choose what the job inherits", "test_keepvars")
async def test_a_job_inherits_nothing_and_gets_the_hubs_variables_in_its_script(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABCDE", "of the hub")
    spawner = bench.spawner()
    spawner.req_keepvars, spawner.req_keepvars_extra, spawner.env_keep = "ABCDE", "XYZ", ["ABCDE"]
    starting = await bench.submitted(spawner)
    starting.cancel()
    assert "--export=NIL" in bench.cluster.commands[0]
    assert "ABCDE" not in " ".join(bench.cluster.commands[0]) + bench.cluster.scripts[0]
    assert '"JUPYTERHUB_API_TOKEN"' in bench.cluster.scripts[0]


@departs("Torque, Moab, HTCondor and LSF", "test_torque", "test_moab", "test_condor", "test_lfs")
@pytest.mark.parametrize("kind", ["torque", "moab", "condor", "lsf"])
def test_another_scheduler_is_refused_before_anything_runs(kind: str, site: Site) -> None:
    with pytest.raises(ValidationError, match="'slurm' or 'pbs'"):
        settings.Cluster.model_validate(site.cluster.model_dump() | {"scheduler": kind})


# -- the table


def test_every_test_of_batchspawner_is_answered_and_every_departure_is_shown() -> None:
    marks = [test.upstream for test in globals().values() if hasattr(test, "upstream")]
    assert set().union(*(names for names, _ in marks)) == SUITE
    assert {departure for _, departure in marks if departure} == DEPARTURES.keys()


def test_the_table_is_about_the_release_in_use() -> None:
    assert importlib.metadata.version("batchspawner") == RELEASE, "compare the new release's tests with SUITE"
