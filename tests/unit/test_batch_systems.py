"""Whatever depends on a batch system does so for each of them, and for one more that stands in two files of the tests.

What is written for one, word for word, is in tests/unit/data/batch-systems. UPDATE_GOLDEN=1 writes it anew.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.config
import pytest
import yaml

from hpchub import settings
from hpchub.batch_runs import job, submit
from hpchub.dask_jobs import cleanup, configuration, lifetime, session
from hpchub.dask_jobs.cluster import Job
from hpchub.dask_jobs.patches import outside_lab, worker_loss
from hpchub.hub.runtime import running
from hpchub.lab import start
from hpchub.privileged import batch_systems, jobs
from hpchub.privileged.job_order import BatchRunOrder
from hpchub.scheduler import registry
from hpchub.scheduler.offers import Live
from hpchub.scheduler.watcher import Watcher

if TYPE_CHECKING:
    from tests.conftest import BatchSystem

ALICE = pwd.struct_passwd(("alice", "x", os.getuid(), 2000, "", "/home/alice", "/bin/bash"))
TAG = "demo:0a1b2c3d:alice::n0nce"
JOB = {
    "tag": TAG, "project": "climate", "queue": "regular", "walltime_minutes": 90, "cores": 2, "memory_mib": 4096,
    "gpus": 0, "reservation": None,
}  # fmt: skip
PEM = "-----BEGIN X-----\nAA==\n-----END X-----\n"
SUBMIT = {
    "verb": "submit",
    "job": JOB,
    "environment": {"JUPYTERHUB_API_TOKEN": "t0ken"},
    "tls": dict.fromkeys(("key", "certificate", "authority"), PEM),
}
LAB = {
    "environment": {
        "JUPYTERHUB_API_TOKEN": "t0ken",
        "JUPYTERHUB_API_URL": "https://login1.example.org:8081/hub/api",
        "JUPYTERHUB_PUBLIC_URL": "https://hub.example.org/user/alice/",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
    },
    "tls": {"key": "k3y", "certificate": "c3rt", "authority": "auth"},
    "tag": TAG, "shared_prefix": "/opt/hpchub", "scheduler_prefix": "/opt/bin", "project": "climate",
    "queue": "regular", "reservation": None, "log_directory": "/home/alice/logs",
}  # fmt: skip
SECTION = {"cores": 2, "memory": "4GiB", "job-script-prologue": ["module load x"]}


def is_golden(system: BatchSystem, name: str, text: str) -> bool:
    """Whether the text is the reviewed one."""
    path = system.golden(name)
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(text)
    return text == path.read_text()


def stub(directory: Path, name: str, code: int = 0, out: str = "", err: str = "") -> None:
    """A command that records its arguments, environment and input, and says what it is told to."""
    program = directory / name
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{directory}/argv\n/usr/bin/env >{directory}/env\n"
        f"printf %s {shlex.quote(out)}\nprintf %s {shlex.quote(err)} >&2\nexit {code}\n"
    )
    program.chmod(0o755)


def account(home: Path) -> pwd.struct_passwd:
    return pwd.struct_passwd(("alice", "x", os.getuid(), os.getgid(), "", str(home), "/bin/bash"))


def config(system: BatchSystem, prefix: str = "/usr/bin") -> jobs.Config:
    return jobs.Config(system.name, prefix, "/opt/hpchub/lab/x", "/opt/hpchub", "{home}/logs", ("regular", "gpu"))


# -- the job program


def test_the_order_of_a_lab_is_what_was_reviewed(batch_system: BatchSystem) -> None:
    plain = jobs.parse_job(JOB, ("regular",))
    wide = replace(plain, gpus=1, reservation="tutorial", walltime_minutes=1500)
    commands = [
        batch_system.orders.submit("/usr/bin", plain, "/home/alice", "/home/alice/log"),
        batch_system.orders.submit("/usr/bin", wide, "/home/alice", os.devnull),
    ]
    assert is_golden(batch_system, "submit.json", json.dumps(commands, indent=1) + "\n")


def test_a_lab_is_submitted_cancelled_and_its_log_is_read(batch_system: BatchSystem, tmp_path: Path) -> None:
    sample, site = batch_system.sample, config(batch_system, str(tmp_path))
    stub(tmp_path, sample["submit"], out=sample["answer"])
    assert jobs.handle(SUBMIT, site, account(tmp_path)) == {"ok": True, "job_id": sample["job_id"]}
    stub(tmp_path, sample["cancel"])
    cancel = {"verb": "cancel", "job_ids": [sample["job_id"]]}
    assert jobs.handle(cancel, site, account(tmp_path)) == {"ok": True}
    assert (tmp_path / "argv").read_text() == sample["job_id"] + "\n"
    (tmp_path / "logs" / sample["log"]).write_text("all is well\n")
    log = jobs.handle({"verb": "log", "job_id": sample["job_id"]}, site, account(tmp_path))
    assert log["text"] == "all is well"


def test_what_is_no_job_id_is_refused_and_what_has_none_is_no_job(batch_system: BatchSystem, tmp_path: Path) -> None:
    sample, site = batch_system.sample, config(batch_system, str(tmp_path))
    stub(tmp_path, sample["submit"], out=sample["no_answer"])
    assert not jobs.handle(SUBMIT, site, account(tmp_path))["ok"]
    for job_id in (sample["no_job_id"], "../../.ssh/id_ed25519", "-u", sample["job_id"] + "\n", ""):
        with pytest.raises(jobs.Refused, match="the number that the scheduler gave"):
            jobs.handle({"verb": "cancel", "job_ids": [job_id]}, site, account(tmp_path))


def test_a_job_that_is_gone_is_no_error_and_whatever_else_is_one(batch_system: BatchSystem, tmp_path: Path) -> None:
    sample, site = batch_system.sample, config(batch_system, str(tmp_path))
    cancel = {"verb": "cancel", "job_ids": [sample["job_id"]]}
    stub(tmp_path, sample["cancel"], code=1, err=sample["gone"])
    assert jobs.handle(cancel, site, account(tmp_path)) == {"ok": True}
    for words in (sample["trouble"], f"{sample['gone']}\n{sample['trouble']}", ""):
        stub(tmp_path, sample["cancel"], code=1, err=words)
        assert not jobs.handle(cancel, site, account(tmp_path))["ok"]


# -- settings


def site_of(system: BatchSystem, site_file: Path, name: str = "") -> settings.Site:
    raw = yaml.safe_load(site_file.read_text())
    raw["clusters"][0] |= {"scheduler": name or system.name, "projects": {"members": {"climate": ["alice"]}}}
    site_file.write_text(yaml.safe_dump(raw))
    return settings.load(site_file)


def test_a_site_names_its_batch_system_in_both_files(
    batch_system: BatchSystem, site_file: Path, tmp_path: Path
) -> None:
    assert site_of(batch_system, site_file).cluster.scheduler == batch_system.name
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps(vars(config(batch_system)) | {"queues": ["regular"]}))
    assert jobs.read_config(file).scheduler == batch_system.name


def test_a_batch_system_that_there_is_not_is_refused_by_what_there_is(site_file: Path) -> None:
    raw = yaml.safe_load(site_file.read_text())
    raw["clusters"][0]["scheduler"] = "lsf"
    site_file.write_text(yaml.safe_dump(raw))
    with pytest.raises(settings.SettingsError, match="should be 'slurm' or 'pbs', not 'lsf'; write slurm or pbs"):
        settings.load(site_file)
    for ask in (batch_systems.orders, registry.dialect, lambda name: registry.questions(name, "/usr/bin")):
        with pytest.raises(ValueError, match="'job_order' is no batch system that hpchub knows; write slurm or pbs"):
            ask("job_order")  # not even if there is a module of that name


# -- questions


class Recorded:
    """Answers as a cluster did; the key of an answer is the program, with a word of its arguments where need be."""

    def __init__(self, system: BatchSystem) -> None:
        self.answers = {tuple(key.split()): system.answer(path) for key, path in system.sample["answers"].items()}

    async def __call__(self, argv: Sequence[str]) -> str:
        words = {Path(argv[0]).name, *argv[1:]}
        return next(text for key, text in self.answers.items() if words.issuperset(key))


async def test_the_watcher_sees_the_jobs_of_a_cluster(batch_system: BatchSystem) -> None:
    questions = registry.questions(batch_system.name, "/usr/bin", Recorded(batch_system))
    watcher = Watcher(questions, 10)
    for job_id, (user, _, _) in batch_system.sample["watched"].items():
        watcher.watch(job_id, user)
    await watcher.poll()
    seen = {job_id: watcher.look(job_id) for job_id in batch_system.sample["watched"]}
    await watcher.close()
    assert {
        job_id: [found.user, found.phase.value, found.node] for job_id, found in seen.items() if found
    } == batch_system.sample["watched"]


async def test_people_are_offered_the_queues_of_a_cluster(batch_system: BatchSystem, site_file: Path) -> None:
    questions = registry.questions(batch_system.name, "/usr/bin", Recorded(batch_system))
    facts = await Live(questions, site_of(batch_system, site_file).cluster).facts("alice")
    limits = {one.name: one.max_walltime_minutes for one in facts.offers if one.name != "gpu"}
    assert limits == {
        name: min(minutes, {"regular": 600}.get(name, minutes))
        for name, minutes in batch_system.sample["offered"].items()
    }


async def test_commands_get_the_environment_that_their_answers_are_read_with(
    batch_system: BatchSystem, tmp_path: Path
) -> None:
    questions: Any = registry.questions(batch_system.name, str(tmp_path))
    names = {line.split("=")[0] for line in (await questions.ask(["/usr/bin/env"])).splitlines()}
    assert names == {"PATH", "LANG", *batch_system.sample["command_variables"]}


def test_the_hub_asks_the_batch_system_of_its_cluster(batch_system: BatchSystem, site_file: Path) -> None:
    asked: Any = running(site_of(batch_system, site_file).cluster, "https://hub.example.org/").scheduler
    assert (type(asked).__module__, asked.prefix) == (f"hpchub.scheduler.{batch_system.name}", "/usr/bin")


# -- preflight


def test_the_host_is_asked_for_the_limits_of_its_queues(batch_system: BatchSystem) -> None:
    sample = batch_system.sample
    assert list(batch_system.dialect.limits("/usr/bin")) == sample["limits"]
    limits = batch_system.dialect.queue_limits(batch_system.answer(sample["limits_answer"]))
    assert {name: limits[name] for name in sample["queue_limits"]} == sample["queue_limits"]


# -- batch runs


def order(system: BatchSystem) -> BatchRunOrder:
    own = {"slurm": ("/usr/bin/srun",)}.get(system.name)
    directives = {"slurm": "--reservation=tutorial", "pbs": "-k oed"}.get(system.name, "-U tutorial")
    return BatchRunOrder(
        "/home/alice/a.ipynb", system.name, "gpu", "climate", 3, 2, 4096, 90, own or ("mpirun",), own is None,
        "/opt/hpchub", (directives,),
    )  # fmt: skip


def test_the_script_of_a_batch_run_is_what_was_reviewed(batch_system: BatchSystem) -> None:
    lines = submit.script(order(batch_system), Path("/home/alice/a.runs/1")).splitlines()
    assert is_golden(batch_system, "batch-run.sh", "\n".join(line for line in lines if line.startswith("#")) + "\n")


def test_a_batch_run_is_submitted_without_what_its_own_job_was_asked_for(
    batch_system: BatchSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = batch_system.sample
    for name, value in sample["of_submission"].items():
        monkeypatch.setenv(name, value)
    stub(tmp_path, sample["submit"], out=sample["answer"])
    site = submit.Site(batch_system.name, str(tmp_path), "help@example.org", {"regular": 0}, "regular", ("mpirun",))
    assert submit.submit(site, tmp_path) == sample["job_id"]
    assert (tmp_path / "argv").read_text().splitlines()[-1] == "job.sh"
    assert not [
        line for line in (tmp_path / "env").read_text().splitlines() if line.split("=")[0] in sample["of_submission"]
    ]


def test_a_batch_run_starts_its_tasks_by_the_systems_own_launcher_or_by_mpi(
    batch_system: BatchSystem, tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"jobqueue": {batch_system.dialect.dask.section: SECTION}}))
    program, *options = job.launch(order(batch_system), tmp_path)
    assert program == order(batch_system).launcher[0]
    assert options[:-3] == (batch_system.sample["launch"] or ["-n", "5"])
    assert options[-1].startswith("module load x\n")


def test_the_report_says_job_queue_and_project_as_the_batch_system_does(batch_system: BatchSystem) -> None:
    told = yaml.safe_load(job.report(order(batch_system), {}, "", 0.0, batch_system.sample["variables"]))
    assert (told["job"], told["queue"], told["project"]) == (batch_system.sample["job_id"], "gpu", "ocean")


# -- in a job


def test_neither_lab_nor_tasks_get_what_would_leak_into_a_launcher(batch_system: BatchSystem) -> None:
    inherited = batch_system.sample["variables"] | dict.fromkeys(batch_system.sample["leaking"], "NIL")
    lab = start.read_order(json.dumps(LAB | {"scheduler": batch_system.name}))
    for variables in (
        start.environment(lab, ALICE, inherited, "/tmp/r"),
        job.environment(order(batch_system), ALICE, inherited),
    ):
        assert batch_system.sample["variables"].items() <= variables.items()
        assert variables["HOME"] == "/home/alice"
        assert not variables.keys() & set(batch_system.sample["leaking"])


def test_a_process_knows_its_job_and_a_session_its_own(
    batch_system: BatchSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PBS_", "LSB_"))]:
        monkeypatch.delenv(name)
    assert (session.job_id(), worker_loss.whereabouts()["job"]) == ("", "")
    for name, value in batch_system.sample["variables"].items():
        monkeypatch.setenv(name, value)
    assert session.job_id() == worker_loss.whereabouts()["job"] == batch_system.sample["job_id"]
    with dask.config.set({"hpchub.session": {"tag": TAG, "job": batch_system.sample["job_id"]}}):
        assert session.mark().startswith(f"{TAG}:")
    with dask.config.set({"hpchub.session": {"tag": TAG, "job": "another"}}):
        assert session.mark() == ""
    if batch_system.sample["array_member"]:
        variables, job_id = batch_system.sample["array_member"]
        assert registry.worker_job_id(variables) == job_id


# -- Dask jobs


@pytest.mark.parametrize("reservation", [None, "tutorial"])
def test_the_settings_of_a_session_are_what_was_reviewed(batch_system: BatchSystem, reservation: str | None) -> None:
    section = batch_system.dialect.dask.section
    gpu = {**SECTION, "cores": 8, "queue": "gpu", "job-extra-directives": ["-x"]}
    site = {"jobqueue": {section: SECTION, "gpu": gpu}}
    one = configuration.Session(
        batch_system.name, "climate", "gpu", reservation, "https://hub.example.org/user/alice/", "/home/alice/logs",
        "tag", "17",
    )  # fmt: skip
    made = configuration.session_settings(one, site, "/home/alice/keys/1", "/home/alice/sessions/1")
    name = f"session{'-reservation' if reservation else ''}.golden"
    assert is_golden(batch_system, name, yaml.safe_dump(made))


def test_dasks_own_class_makes_jobs_of_a_session_and_marks_them(batch_system: BatchSystem, tmp_path: Path) -> None:
    sample, here = batch_system.sample, batch_system.dialect
    keys = {key: None for key in ("account", "extra", "env-extra", "job-extra", "python", "shared-temp-directory")}
    section = {
        **keys, **dict.fromkeys(here.dask.keys), "cores": 2, "memory": "4GiB", "processes": 1, "interface": None,
        "walltime": here.dask.wall_time(90), "death-timeout": 60, "local-directory": None, "log-directory": None,
        "name": "dask-worker", "shebang": "#!/bin/sh", "worker-command": "distributed.cli.dask_worker",
        "worker-extra-args": [], "job-extra-directives": [], "job-directives-skip": [], "job-script-prologue": [],
        "scheduler-options": {"dashboard_address": "127.0.0.1:0"},
    }  # fmt: skip
    assert section["walltime"] == sample["section_wall_time"]
    one = configuration.Session(batch_system.name, "climate", "gpu", None, "https://hub.example.org/", "/logs", TAG, "")
    site = {"a.yaml": yaml.safe_dump({"jobqueue": {here.dask.section: section}}).encode()}
    root = configuration.write_session(tmp_path / "dask", one, site)
    code = batch_system.prelude + (
        "import hpchub.dask_jobs.patches.import_hook\n"
        f"import dask_jobqueue; c = dask_jobqueue.{sample['cluster_class']}(log_directory=None)\n"
        "print(c.job_script()); print(c._dummy_job._marks())"
    )
    environment = {"DASK_ROOT_CONFIG": str(root), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    environment |= {"PYTHONPATH": str(Path(configuration.__file__).parents[2]), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert not set(sample["job_script"]) - set(done.stdout.splitlines()), done.stderr + done.stdout
    assert TAG in done.stdout.splitlines()[-1]


def test_dask_jobqueue_has_what_the_dialect_says(batch_system: BatchSystem) -> None:
    here = batch_system.dialect.dask
    upstream = getattr(import_module("dask_jobqueue"), here.cluster_class).job_cls
    assert (upstream.config_name, upstream.submit_command) == (here.section, batch_system.dialect.submit_program)
    defaults = yaml.safe_load(
        Path(import_module("dask_jobqueue").__file__ or "").with_name("jobqueue.yaml").read_text()
    )
    assert defaults["jobqueue"][here.section].keys() >= {*here.keys, here.project_key, "queue", "walltime"}
    assert re.search(upstream.job_id_regexp, batch_system.sample["answer"])
    if batch_system.dialect.tasks:
        module, name = batch_system.dialect.tasks.runner
        assert hasattr(import_module(module), name)


def test_a_jobs_mark_keeps_what_its_user_wrote_and_the_sessions_reservation(batch_system: BatchSystem) -> None:
    class Own(Job):
        submit_command, job_header = batch_system.sample["submit"], batch_system.sample["header"]

        def __init__(self) -> None:
            """Nothing of a real one is needed."""

    of_session = {"tag": TAG, "job": session.job_id(), "queue": "gpu", "reservation": "tutorial"}
    with dask.config.set({"hpchub.session": of_session}):
        wanted = [option.replace("MARK", session.mark()) for option in batch_system.sample["options"]]
        assert Own()._marks() == wanted
    with dask.config.set({"hpchub.session": {"tag": "", "job": ""}}):
        assert Own()._marks() == []


def test_outside_of_a_lab_logs_are_written_while_the_job_runs(batch_system: BatchSystem, tmp_path: Path) -> None:
    here = batch_system.dialect.dask
    site = {"hpchub": {"scheduler": batch_system.name}, "jobqueue": {here.section: {"cores": 1}}}
    directory = outside_lab.write(tmp_path, {"a.yaml": yaml.safe_dump(site).encode()})
    section = yaml.safe_load((directory / "own.yaml").read_text())["jobqueue"][here.section]
    assert section.get("job-extra-directives", []) == ([here.live_log] if here.live_log else [])


def test_a_wall_time_is_read_from_directives_and_from_the_sites_file(batch_system: BatchSystem, tmp_path: Path) -> None:
    for directive, seconds in batch_system.sample["wall_times"].items():
        assert lifetime.wall_time(f"#!/bin/sh\n{directive}\n") == seconds
    section = {"walltime": batch_system.sample["section_wall_time"], "worker-extra-args": ["--lifetime", "80m"]}
    site = {"hpchub": {"scheduler": batch_system.name}, "jobqueue": {batch_system.dialect.dask.section: section}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    assert lifetime.of_site(str(tmp_path)) == {(4800.0, 0.0): 5400.0}


async def test_what_a_process_left_is_cancelled(
    batch_system: BatchSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpchub.scheduler import JobState, Phase

    class Left:
        async def own(self, _user: str) -> dict[str, tuple[JobState, str]]:
            return {name: (JobState(name, "alice", Phase.WAITING, "x"), f"{TAG}:1.2:dask") for name in ("11", "12")}

    stub(tmp_path, batch_system.sample["cancel"])
    monkeypatch.setattr(session, "batch_system", Left)
    with dask.config.set({"hpchub.scheduler": batch_system.name, "hpchub.scheduler-prefix": str(tmp_path)}):
        assert not await cleanup.end(f"{TAG}:1.2")
    assert (tmp_path / "argv").read_text().split() == ["11", "12"]


def test_a_session_asks_the_sites_batch_system_and_none_that_is_not_known(batch_system: BatchSystem) -> None:
    with dask.config.set({"hpchub.scheduler": batch_system.name, "hpchub.scheduler-prefix": "/opt/bin"}):
        questions: Any = session.batch_system()
        assert questions.prefix == "/opt/bin"
    with dask.config.set({"hpchub.scheduler": "job_order"}):
        assert session.batch_system() is None


def test_in_a_batch_run_every_class_of_cluster_is_the_runs_own_allocation(batch_system: BatchSystem) -> None:
    code = batch_system.prelude + (
        "import dask_jobqueue, ipykernel.kernelapp as k; k.launch_new_instance = lambda: None\n"
        "from hpchub.batch_runs import kernel; kernel.main()\n"
        f"assert dask_jobqueue.{batch_system.dialect.dask.cluster_class} is kernel.Allocation"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(configuration.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# -- what it costs


@pytest.mark.parametrize(
    "use",
    [
        "from hpchub.scheduler import registry; registry.job_id({})",  # in every worker
        "from hpchub.dask_jobs import site_defaults, retirement",  # on a controller that has Ansible alone
        "from hpchub.privileged import jobs; jobs.batch_systems.orders('slurm')",
    ],
)
def test_a_dialect_needs_nothing_but_the_standard_library(use: str) -> None:
    code = f"import sys; before = set(sys.modules); {use}\n" + (
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "sys.exit(', '.join(sorted(names - sys.stdlib_module_names - {'hpchub'})) or 0)"
    )
    environment = {"PYTHONPATH": str(Path(configuration.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
