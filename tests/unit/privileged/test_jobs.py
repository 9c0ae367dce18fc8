"""The one sudo program: hostile JSON reaches neither argument list nor script; the scheduler's words come back."""

import dataclasses
import json
import os
import pwd
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpchub.privileged import jobs, user_files
from hpchub.privileged.batch_systems import Job

ME = pwd.getpwuid(os.getuid())
JOB = {
    "tag": "demo:alice::0f",
    "project": "climate",
    "queue": "regular",
    "walltime_minutes": 90,
    "cores": 2,
    "memory_mib": 4096,
    "gpus": 0,
    "reservation": None,
}
LOGS = "{home}/.local/state/hpchub"
ENVIRONMENT = {"JUPYTERHUB_API_TOKEN": "t0ken", "JUPYTERHUB_USER": "alice"}
TLS = {
    "key": "-----BEGIN PRIVATE KEY-----\nk3y=\n-----END PRIVATE KEY-----\n",
    "certificate": "-----BEGIN CERTIFICATE-----\nc3rt\n-----END CERTIFICATE-----\n",
    "authority": "-----BEGIN CERTIFICATE-----\nauth\n-----END CERTIFICATE-----\n",
}
SUBMIT = {"verb": "submit", "job": JOB, "environment": ENVIRONMENT, "tls": TLS}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def config(scheduler: str = "slurm", prefix: str = "/usr/bin") -> jobs.Config:
    return jobs.Config(scheduler, prefix, "/opt/hpchub/lab/current", "/opt/hpchub", LOGS, ("regular", "gpu"))


def submit_command(site: jobs.Config, job: Job, home: str, log: str) -> list[str]:
    return site.orders.submit(site.scheduler_prefix, job, home, log)


def stub(directory: Path, name: str, code: int = 0, out: str = "", err: str = "") -> None:
    """A scheduler command that records its arguments, environment and input, and says what it is told to."""
    program = directory / name
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {directory}/argv\n/usr/bin/env > {directory}/env\n"
        f"/bin/cat > {directory}/stdin\n"
        f"printf %s {shlex.quote(out)}\nprintf %s {shlex.quote(err)} >&2\nexit {code}\n"
    )
    program.chmod(0o755)


def account(home: Path) -> pwd.struct_passwd:
    return pwd.struct_passwd(("alice", "x", 2001, 2000, "", str(home), "/bin/bash"))


def payload(script: str) -> dict[str, object]:
    """What the batch script hands to the Lab, as the shell would read it."""
    lines = script.split("\n")
    opening = re.fullmatch(r"exec (\S+) -I -m hpchub\.lab\.start <<'(\S+)'", lines[1])
    assert opening is not None
    assert lines[0] == "#!/bin/bash"
    assert lines[3:] == [opening[2], ""]
    result = json.loads(lines[2])
    assert isinstance(result, dict)
    return result


def test_a_submission_gives_the_job_id_and_the_token_is_in_the_script_alone(tmp_path: Path) -> None:
    stub(tmp_path, "sbatch", out="123;cluster\n")
    answer = jobs.handle(SUBMIT, config(prefix=str(tmp_path)), account(tmp_path))
    assert answer == {"ok": True, "job_id": "123"}
    for secret in ("t0ken", "k3y="):
        assert secret in (tmp_path / "stdin").read_text()
        assert secret not in (tmp_path / "argv").read_text() + (tmp_path / "env").read_text()


def test_nothing_of_the_callers_environment_reaches_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, "sbatch", out="1")
    for name in ("SLURM_CONF", "SBATCH_ACCOUNT", "LD_PRELOAD", "HUB_SECRET"):
        monkeypatch.setenv(name, "smuggled")
    jobs.handle(SUBMIT, config(prefix=str(tmp_path)), account(tmp_path))
    names = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LC_ALL"}


def test_a_refusal_comes_back_in_the_schedulers_own_words(tmp_path: Path) -> None:
    stub(tmp_path, "sbatch", code=1, err="sbatch: error: \x1b[31mInvalid account\x07 or partition\n" + "x" * 5000)
    answer = jobs.handle(SUBMIT, config(prefix=str(tmp_path)), account(tmp_path))
    assert answer["ok"] is False
    assert answer["message"].startswith("sbatch: error: [31mInvalid account or partition")
    assert len(answer["message"]) <= jobs.MAX_MESSAGE_CHARS


def test_success_without_a_job_number_is_not_taken_for_a_job(tmp_path: Path) -> None:
    stub(tmp_path, "sbatch", out="everything is fine")
    assert jobs.handle(SUBMIT, config(prefix=str(tmp_path)), account(tmp_path))["ok"] is False


@pytest.mark.parametrize(
    "tls",
    [
        None,
        {},
        TLS | {"more": "x"},
        TLS | {"key": 1},
        TLS | {"key": ""},
        TLS | {"key": "-----BEGIN X-----\nEND-OF-HPCHUB-LAB\n-----END X-----\n"},
        TLS | {"key": "-----BEGIN X-----\n$(id)\n-----END X-----\n"},
        TLS | {"authority": "-----BEGIN X-----\n" + "A" * 9000 + "\n-----END X-----\n"},
    ],
)
def test_what_is_no_key_pair_is_refused(tls: object, tmp_path: Path) -> None:
    stub(tmp_path, "sbatch", out="1")
    with pytest.raises(jobs.Refused, match="tls"):
        jobs.handle(SUBMIT | {"tls": tls}, config(prefix=str(tmp_path)), account(tmp_path))
    assert not (tmp_path / "stdin").exists()


def test_slurm_and_pbs_get_the_same_wish() -> None:
    job = jobs.parse_job(JOB | {"gpus": 1}, ("regular",))
    slurm = submit_command(config("slurm"), job, "/home/alice", "/home/alice/log")
    pbs = submit_command(config("pbs"), job, "/home/alice", "/home/alice/log")
    for wish in ("--account=climate", "--partition=regular", "--time=90", "--cpus-per-task=2", "--mem=4096M"):
        assert wish in slurm
    assert "--gres=gpu:1" in slurm
    for wish in ("-Aclimate", "-qregular", "-lwalltime=01:30:00", "-lselect=1:ncpus=2:mem=4096mb:ngpus=1"):
        assert wish in pbs


def test_a_reservation_is_an_option_of_slurm_and_a_queue_of_pbs() -> None:
    job = jobs.parse_job(JOB | {"reservation": "tutorial"}, ("regular",))
    assert "--reservation=tutorial" in submit_command(config("slurm"), job, "/home/alice", "/dev/null")
    assert "-qtutorial" in submit_command(config("pbs"), job, "/home/alice", "/dev/null")


def test_without_a_place_for_its_log_pbs_does_not_try_to_copy_it() -> None:
    job = jobs.parse_job(JOB, ("regular",))
    assert {"-o/dev/null", "-Roe"} <= set(submit_command(config("pbs"), job, "/home/alice", "/dev/null"))
    assert "-koed" in submit_command(config("pbs"), job, "/home/alice", "/home/alice/log")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cores", True),
        ("cores", 1.0),
        ("cores", "2"),
        ("cores", 0),
        ("walltime_minutes", -1),
        ("memory_mib", 1 << 40),
        ("gpus", None),
        ("project", "-Aocean"),
        ("project", "a b"),
        ("project", "a\n#SBATCH --uid=0"),
        ("project", ""),
        ("queue", "secret"),
        ("queue", "regular\n"),
        ("reservation", "x,y"),
        ("reservation", 5),
        ("tag", "a b"),
        ("tag", "x" * 129),
        ("tag", "a,LD_PRELOAD=x"),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(jobs.Refused, match=field):
        jobs.parse_job(JOB | {field: value}, ("regular",))


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        {},
        {"verb": "run"},
        {"verb": ["submit"]},
        SUBMIT | {"extra": 1},
        {"verb": "submit", "job": JOB},
        SUBMIT | {"job": JOB | {"options": "--uid=0"}},
        SUBMIT | {"environment": {"LD_PRELOAD": "x"}},
        SUBMIT | {"environment": {"JUPYTERHUB_X\n": "x"}},
        SUBMIT | {"environment": {"JUPYTERHUB_X": "a\0b"}},
        SUBMIT | {"environment": {"JUPYTERHUB_X": "x" * 8193}},
        SUBMIT | {"environment": {"JUPYTERHUB_X": 1}},
        {"verb": "cancel", "job_ids": ["123 --user=alice"]},
        {"verb": "cancel", "job_ids": ["-u"]},
        {"verb": "cancel", "job_ids": [123]},
        {"verb": "cancel", "job_ids": ["123\n"]},
        {"verb": "cancel", "job_ids": ["123"], "signal": "KILL"},
        {"verb": "cancel", "job_ids": "123"},
        {"verb": "cancel", "job_ids": []},
        {"verb": "cancel", "job_ids": ["1"] * 1001},
        {"verb": "cancel", "job_ids": ["12", "--user=alice"]},
        {"verb": "log", "job_id": "../../.ssh/id_ed25519"},
        {"verb": "log", "job_id": "12", "path": "/etc/passwd"},
        {"verb": "log"},
    ],
)
def test_what_is_not_exactly_the_protocol_runs_nothing(tmp_path: Path, request_: object) -> None:
    for name in ("sbatch", "scancel"):
        stub(tmp_path, name, out="1")
    with pytest.raises(jobs.Refused):
        jobs.handle(request_, config(prefix=str(tmp_path)), account(tmp_path))
    assert not (tmp_path / "argv").exists()


@pytest.mark.parametrize(
    ("scheduler", "name", "job_id", "gone"),
    [
        ("slurm", "scancel", "12", "scancel: error: Kill job error on job id 12: Invalid job id specified"),
        ("slurm", "scancel", "12", "scancel: error: 12: Job/step already completing or completed"),
        ("pbs", "qdel", "12.pbs01", "qdel: Unknown Job Id 12.pbs01"),
        ("pbs", "qdel", "12.pbs01", "qdel: Job has finished 12.pbs01"),
    ],
)
def test_a_job_is_cancelled_and_one_that_is_gone_is_no_error(
    tmp_path: Path, scheduler: str, name: str, job_id: str, gone: str
) -> None:
    request_ = {"verb": "cancel", "job_ids": [job_id]}
    stub(tmp_path, name)
    assert jobs.handle(request_, config(scheduler, str(tmp_path)), account(tmp_path)) == {"ok": True}
    assert (tmp_path / "argv").read_text() == job_id + "\n"
    stub(tmp_path, name, code=1, err=gone)
    assert jobs.handle(request_, config(scheduler, str(tmp_path)), account(tmp_path)) == {"ok": True}
    stub(tmp_path, name, code=1, err="Unable to contact slurm controller")
    answer = jobs.handle(request_, config(scheduler, str(tmp_path)), account(tmp_path))
    assert answer == {"ok": False, "message": "Unable to contact slurm controller"}


@given(
    data=st.fixed_dictionaries({name: st.just(value) | JSON for name, value in JOB.items()}),
    scheduler=st.sampled_from(["slurm", "pbs"]),
)
def test_no_json_value_becomes_more_than_one_checked_argument(data: dict[str, object], scheduler: str) -> None:
    try:
        job = jobs.parse_job(data, ("regular", "gpu"))
    except jobs.Refused:
        return
    command = submit_command(config(scheduler), job, "/home/alice", "/home/alice/log")
    assert command[0] in ("/usr/bin/sbatch", "/usr/bin/qsub")
    flags = "--[a-z-]+=" if scheduler == "slurm" else "-[NvAqlojkrm]"
    for item in command[1:]:
        assert item in ("--parsable", "--no-requeue") or re.match(flags, item)
        assert item.isascii()
        assert item.isprintable()


@given(values=st.dictionaries(st.from_regex(r"JUPYTERHUB_[A-Z0-9_]{1,20}", fullmatch=True), st.text(max_size=200)))
def test_whatever_the_environment_holds_the_script_carries_it_unchanged(values: dict[str, str]) -> None:
    job = jobs.parse_job(JOB, ("regular",))
    try:
        environment = jobs.parse_environment(values)
    except jobs.Refused:
        assert any("\0" in value for value in values.values())
        return
    script = jobs.script(config(), job, environment, TLS)
    assert payload(script)["environment"] == values
    assert script.isascii()


def test_the_shell_hands_a_hostile_value_over_as_it_is(tmp_path: Path) -> None:
    hostile = "$(touch /tmp/no) `id` \\ ' \" \n" + jobs._DELIMITER + "\n#SBATCH --uid=0\né"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text("#!/bin/sh\ncat\n")
    python.chmod(0o755)
    site = jobs.Config("slurm", "/usr/bin", str(tmp_path), "/opt/hpchub", LOGS, ("regular",))
    script = jobs.script(site, jobs.parse_job(JOB, ("regular",)), {"JUPYTERHUB_X": hostile}, TLS)
    done = subprocess.run(["/bin/bash"], input=script, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["environment"]["JUPYTERHUB_X"] == hostile


def test_a_waiting_job_keeps_the_environment_it_was_submitted_with(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "current").symlink_to("old")
    site = jobs.Config("slurm", "/usr/bin", f"{tmp_path}/current", "/opt/hpchub", LOGS, ("regular",))
    assert f"{tmp_path}/old/bin/python" in jobs.script(site, jobs.parse_job(JOB, ("regular",)), {}, TLS)


def test_logs_are_private_and_a_home_that_cannot_be_written_costs_only_the_log(tmp_path: Path) -> None:
    alice = account(tmp_path)
    directory = jobs.log_directory("{home}/a/b", alice)
    assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
    assert jobs.log_directory("/proc/1/no-such-home", alice) == os.devnull
    assert jobs.log_directory(str(tmp_path / "100%j"), alice) == os.devnull


def taken(scratch: Path, how: str) -> None:
    """What mallory did before alice first logged in."""
    alice, hers = scratch / "alice", scratch / "hers"
    hers.mkdir()
    if how == "a link to what is hers":
        alice.symlink_to(hers)
        os.lchown(alice, 4242, 4242)
    else:
        alice.mkdir(mode=0o777)
        alice.chmod(0o777)
    if how in ("a directory", "a directory with hers in it"):
        os.chown(alice, 4242, 4242)
    if how == "a directory with hers in it":
        (alice / "logs").mkdir(mode=0o700)
    if how == "logs that are a link":
        alice.chmod(0o700)
        (alice / "logs").symlink_to(hers)
    if how == "a file":
        alice.chmod(0o700)
        (alice / "logs").touch()


@pytest.mark.parametrize(
    ("how", "part", "words"),
    [
        ("a directory", "alice", "belongs to somebody else"),
        ("a directory with hers in it", "alice", "belongs to somebody else"),
        ("a link to what is hers", "alice", "belongs to somebody else"),
        ("a directory that all may change", "alice", "everybody may change it"),
        ("logs that are a link", "alice/logs", "not a directory of the user's own"),
        ("a file", "alice/logs", "not a directory of the user's own"),
    ],
)
def test_where_all_may_write_a_directory_that_somebody_else_made_first_is_not_used(
    how: str, part: str, words: str, tmp_path: Path
) -> None:
    scratch, alice = tmp_path / "scratch", account(tmp_path / "home")
    scratch.mkdir()
    scratch.chmod(0o1777)
    taken(scratch, how)
    with pytest.raises(OSError, match=words) as refused:
        user_files.own_directory(f"{scratch}/{{user}}/logs", alice)
    assert refused.value.filename == f"{scratch}/{part}"
    assert jobs.log_directory(f"{scratch}/{{user}}/logs", alice) == os.devnull


def test_what_stands_above_a_users_own_part_is_the_sites(tmp_path: Path) -> None:
    os.chown(tmp_path, 4242, 4242)
    for pattern in (f"{tmp_path}/of-{{user}}", f"{tmp_path}/{{user}}/logs", "{home}/logs"):
        path = user_files.own_directory(pattern, account(tmp_path))
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with pytest.raises(FileNotFoundError):
        user_files.own_directory(f"{tmp_path}/not/mounted/{{user}}", account(tmp_path))
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_the_log_is_where_the_site_wants_it_and_is_read_from_there(tmp_path: Path, scheduler: str) -> None:
    site = dataclasses.replace(config(scheduler, str(tmp_path)), log_directory=f"{tmp_path}/scratch/{{user}}/logs")
    (tmp_path / "scratch").mkdir()
    for name in ("sbatch", "qsub"):
        stub(tmp_path, name, out="12")
    assert jobs.handle(SUBMIT, site, account(tmp_path))["ok"]
    argv = (tmp_path / "argv").read_text().splitlines()
    place = f"{tmp_path}/scratch/alice/logs"
    assert (f"--output={place}/lab-%j.log" if scheduler == "slurm" else f"-o{place}/") in argv
    name = "lab-12.log" if scheduler == "slurm" else "12.OU"
    Path(place, name).write_text("all is well\n")
    answer = jobs.handle({"verb": "log", "job_id": "12"}, site, account(tmp_path))
    assert answer == {"ok": True, "path": f"{place}/{name}", "text": "all is well"}


def test_of_a_log_only_the_end_is_read_and_no_control_character_comes_out(tmp_path: Path) -> None:
    logs = tmp_path / ".local/state/hpchub"
    logs.mkdir(parents=True)
    hostile = b"\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07 \xff \xe2\x80\xae<script>\r\n"
    (logs / "lab-12.log").write_bytes(b"secret beginning\n" + b"x" * 5_000_000 + b"\n" + b"line\n" * 100 + hostile)
    text = jobs.handle({"verb": "log", "job_id": "12"}, config(), account(tmp_path))["text"]
    assert "secret" not in text
    assert len(text.splitlines()) == user_files.LOG_LINES
    assert text.splitlines()[-1].startswith("red")
    assert all(character.isprintable() or character in "\n\t" for character in text)


@pytest.mark.parametrize("what", ["nothing", "link", "directory", "fifo", "linked directory"])
def test_only_a_file_of_the_log_directory_itself_is_read(tmp_path: Path, what: str) -> None:
    logs, secret = tmp_path / ".local/state/hpchub", tmp_path / "secret"
    secret.write_text("secret")
    logs.parent.mkdir(parents=True)
    if what == "linked directory":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/lab-12.log").write_text("secret")
        logs.symlink_to(tmp_path / "elsewhere")
    else:
        logs.mkdir()
    if what == "link":
        (logs / "lab-12.log").symlink_to(secret)
    if what == "directory":
        (logs / "lab-12.log").mkdir()
    if what == "fifo":
        os.mkfifo(logs / "lab-12.log")
    with pytest.raises(jobs.Refused, match=r"lab-12\.log"):
        jobs.handle({"verb": "log", "job_id": "12"}, config(), account(tmp_path))


def test_root_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert jobs.main() == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "message": "This program runs as an enrolled user, never as root.",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"scheduler": "lsf"},
        {"queues": "regular"},
        {"lab": "relative"},
        {"lab": 1},
        {"extra": 1},
        {"log_directory": "~/logs"},
        {"log_directory": "/scratch/%u"},
        {"log_directory": "/scratch/{group}"},
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(tmp_path: Path, change: dict[str, object]) -> None:
    good = config().__dict__ | {"queues": ["regular"]}
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps(good))
    assert jobs.read_config(file).queues == ("regular",)
    file.write_text(json.dumps(good | change))
    with pytest.raises(jobs.Refused):
        jobs.read_config(file)


def test_check_says_what_is_wrong_with_a_file_before_it_is_in_use(tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"

    def check(change: dict[str, object]) -> tuple[int, str]:
        file.write_text(json.dumps(config().__dict__ | {"queues": ["regular"]} | change))
        argv = [sys.executable, "-m", "hpchub.privileged.jobs", "--check", str(file)]
        source = str(Path(jobs.__file__).parents[2])
        done = subprocess.run(argv, capture_output=True, text=True, env={"PYTHONPATH": source}, check=False)
        return done.returncode, done.stderr

    assert check({}) == (0, "")
    status, said = check({"shared_prefix": "/shared/apps/hub "})
    assert status == 1
    assert said == f"{file}: shared_prefix: write an absolute path of plain characters\n"
