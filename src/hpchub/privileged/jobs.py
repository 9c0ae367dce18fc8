"""The one program that the hub may run as an enrolled user, through sudo and without arguments.

One JSON object on stdin, {"verb": "submit", "job": {...}, "environment": {...}, "tls": {...}},
{"verb": "cancel", "job_ids": ["123"]} or {"verb": "log", "job_id": "123"}; one on stdout, {"ok": true, ...} with the
job_id of a submission, or path and text of a log, or {"ok": false, "message": "..."}. Nothing of the caller's
environment is used, every field is checked here again, and what the Lab needs to know travels in the script alone.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/hpchub/jobs.json")
MAX_REQUEST_BYTES = 256 * 1024
MAX_VALUE_BYTES = 8 * 1024
MAX_MESSAGE_CHARS = 1000
LOG_LINES, LOG_BYTES = 40, 8 * 1024
MAX_CANCELLED = 1000  # in one command
COMMAND_SECONDS = 60  # below the time that the hub waits for this program

_TAG = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_JOB_ID = {
    "slurm": re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?"),
    "pbs": re.compile(r"[0-9]{1,18}(\.[A-Za-z0-9][A-Za-z0-9.-]{0,100})?"),
}
_VARIABLE = re.compile(r"JUPYTERHUB_[A-Z0-9_]{1,100}")
_PEM = re.compile(r"-----BEGIN [A-Z ]{1,32}-----\n[A-Za-z0-9+/=\n]{1,8000}-----END [A-Z ]{1,32}-----\n?")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_GONE = re.compile(
    r"Invalid job id|already completing or completed|Unknown Job I[dD]|Job has finished|Job already in terminal state"
)
# JSON of one object on one line can never be this line, and a quoted delimiter keeps the shell from reading the text.
_DELIMITER = "END-OF-HPCHUB-LAB"


class Refused(Exception):
    """What was asked is refused; the text is for the person who asked."""


@dataclass(frozen=True)
class Config:
    """jobs.json. `lab` is the symlink to the user environment in use; {home} and {user} stand in `log_directory`."""

    scheduler: str
    scheduler_prefix: str
    lab: str
    shared_prefix: str
    log_directory: str
    queues: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What the Lab's job asks for: wall time in minutes, memory in MiB; no reservation is None."""

    tag: str
    project: str
    queue: str
    walltime_minutes: int
    cores: int
    memory_mib: int
    gpus: int
    reservation: str | None


def _exactly(data: object, keys: Collection[str], what: str) -> dict[str, Any]:
    if type(data) is not dict:
        raise Refused(f"{what} must be a JSON object")
    if data.keys() != set(keys):
        raise Refused(f"{what} must have exactly the fields {', '.join(keys)}")
    return data


def _text(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def check(value: object) -> str:
        if type(value) is not str or not pattern.fullmatch(value):
            raise ValueError(f"must match {pattern.pattern}")
        return value

    return check


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:  # bool is an int to isinstance
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


_JOB: dict[str, Callable[[Any], Any]] = {
    "tag": _text(_TAG),
    "project": _text(_NAME),
    "queue": _text(_NAME),
    "walltime_minutes": _number(1, 366 * 24 * 60),
    "cores": _number(1, 100_000),
    "memory_mib": _number(1, 1 << 30),
    "gpus": _number(0, 1000),
    "reservation": lambda value: None if value is None else _text(_NAME)(value),
}


def faults(data: object) -> dict[str, str]:
    """What is wrong with a parsed jobs.json: key -> what to write there. Empty if it can be used."""
    if type(data) is not dict:
        return {"": f"a mapping with the keys {', '.join(Config.__annotations__)}"}
    found = {key: f"one of {', '.join(Config.__annotations__)}" for key in data if key not in Config.__annotations__}
    for key in Config.__annotations__:
        value = data.get(key)
        if key == "queues":
            good = type(value) is list and bool(value) and all(type(q) is str and _NAME.fullmatch(q) for q in value)
            words = "a list of names of queues"
        elif key == "scheduler":
            good, words = type(value) is str and value in _JOB_ID, f"one of {', '.join(_JOB_ID)}"
        else:
            own = key == "log_directory"
            plain = value.replace("{home}", "/h").replace("{user}", "u") if type(value) is str and own else value
            good = type(plain) is str and _PLAIN_PATH.fullmatch(plain) is not None
            words = "an absolute path of plain characters" + (", {home} and {user}" if own else "")
        if not good:
            found[key] = words
    return found


def read_config(path: Path) -> Config:
    """Read jobs.json. Raises Refused with what is wrong in it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"The hub's job settings {path} cannot be read: {error}") from None
    wrong = faults(data)
    if wrong:
        raise Refused("; ".join(f"{path}: {key}: write {words}" for key, words in wrong.items()))
    return Config(**data | {"queues": tuple(data["queues"])})


def check(file: str) -> int:
    """Say on stderr what is wrong with a file that would become jobs.json; exit status 1 if anything is."""
    try:
        read_config(Path(file))
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


def parse_job(data: object, queues: tuple[str, ...]) -> Job:
    """Check the job of a submit request. Raises Refused naming the field."""
    fields = _exactly(data, _JOB, "job")
    checked = {}
    for name, check in _JOB.items():
        try:
            checked[name] = check(fields[name])
        except ValueError as error:
            raise Refused(f"job.{name} {error}") from None
    job = Job(**checked)
    if job.queue not in queues:
        raise Refused(f"The queue {job.queue} is not open to the hub. Choose one of {', '.join(queues)}.")
    return job


def parse_environment(data: object) -> dict[str, str]:
    """Check the environment of a submit request: JUPYTERHUB_* names, text without NUL of at most 8 KiB."""
    if type(data) is not dict:
        raise Refused("environment must be a JSON object")
    for name, value in data.items():
        if not _VARIABLE.fullmatch(name):
            raise Refused("environment may hold JUPYTERHUB_* variables only")
        if type(value) is not str or "\0" in value or len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
            raise Refused(f"environment.{name} must be text of at most {MAX_VALUE_BYTES} bytes without NUL")
    return data


def parse_tls(data: object) -> dict[str, str]:
    """Check the key pair of a submit request and the authority that it shall believe, each as PEM."""
    fields = _exactly(data, ("key", "certificate", "authority"), "tls")
    for name, value in fields.items():
        if type(value) is not str or not _PEM.fullmatch(value):
            raise Refused(f"tls.{name} must be PEM")
    return fields


def script(config: Config, job: Job, environment: Mapping[str, str], tls: Mapping[str, str]) -> str:
    """The batch script.

    It names what `lab` points to now, so a waiting job keeps the environment it was made for.
    """
    payload = {
        "environment": environment,
        "tls": tls,
        "tag": job.tag,
        "shared_prefix": config.shared_prefix,
        "scheduler": config.scheduler,
        "scheduler_prefix": config.scheduler_prefix,
        "project": job.project,
        "queue": job.queue,
        "reservation": job.reservation,
        "log_directory": config.log_directory,
    }
    python = f"{os.path.realpath(config.lab)}/bin/python"
    text = json.dumps(payload, ensure_ascii=True)
    return f"#!/bin/bash\nexec {shlex.quote(python)} -I -m hpchub.lab.start <<'{_DELIMITER}'\n{text}\n{_DELIMITER}\n"


def submit_command(config: Config, job: Job, home: str, log: str) -> list[str]:
    """The submit command; the script goes to its stdin. `log` is a directory, or /dev/null. See `log_name`."""
    if config.scheduler == "slurm":
        command = [
            f"{config.scheduler_prefix}/sbatch",
            "--parsable",
            "--job-name=hpchub",
            f"--comment={job.tag}",
            f"--account={job.project}",
            f"--partition={job.queue}",
            f"--time={job.walltime_minutes}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={job.cores}",
            f"--mem={job.memory_mib}M",
            "--export=NIL",
            f"--chdir={home}",
            f"--output={log if log == os.devnull else log + '/lab-%j.log'}",
            "--no-requeue",
        ]
        if job.gpus:
            command.append(f"--gres=gpu:{job.gpus}")
        if job.reservation is not None:
            command.append(f"--reservation={job.reservation}")
        return command
    gpus = f":ngpus={job.gpus}" if job.gpus else ""
    hours, minutes = divmod(job.walltime_minutes, 60)
    return [
        f"{config.scheduler_prefix}/qsub",
        "-Nhpchub",
        f"-vHPCHUB_TAG={job.tag}",  # a user's job has no comment of its own in PBS
        f"-A{job.project}",
        f"-q{job.queue if job.reservation is None else job.reservation}",  # a PBS reservation is a queue
        f"-lselect=1:ncpus={job.cores}:mem={job.memory_mib}mb{gpus}",
        f"-lwalltime={hours:02d}:{minutes:02d}:00",
        "-joe",
        # Written while the job runs. PBS cannot copy a log to /dev/null and tries for half a minute: it shall not try.
        *(["-o/dev/null", "-Roe"] if log == os.devnull else [f"-o{log}/", "-koed"]),
        "-rn",
        "-mn",
    ]


def parse_job_id(config: Config, job_id: object) -> str:
    """Check the job id of a request. Raises Refused if it is none."""
    if type(job_id) is not str or not _JOB_ID[config.scheduler].fullmatch(job_id):
        raise Refused("job_id must be the number that the scheduler gave")
    return job_id


def cancel_command(config: Config, job_ids: object) -> list[str]:
    """The command that ends these jobs. Raises Refused if that is no list of job ids."""
    if type(job_ids) is not list or not 1 <= len(job_ids) <= MAX_CANCELLED:
        raise Refused(f"job_ids must be a list of 1 to {MAX_CANCELLED} numbers")
    name = "scancel" if config.scheduler == "slurm" else "qdel"
    return [f"{config.scheduler_prefix}/{name}", *(parse_job_id(config, job_id) for job_id in job_ids)]


def gone(words: str) -> bool:
    """Whether a command that failed to cancel says of all that it names that they are over."""
    return bool(words.strip()) and all(map(_GONE.search, words.strip().splitlines()))


def clean(text: str) -> str:
    """The scheduler's words on one line: no control characters, bounded."""
    words = "".join(character if character.isprintable() else " " for character in text).split()
    return " ".join(words)[:MAX_MESSAGE_CHARS]


def user_path(pattern: str, account: pwd.struct_passwd) -> str:
    """A path that a site has written with {home} and {user}, as it is for this user."""
    return pattern.replace("{home}", account.pw_dir).replace("{user}", account.pw_name)


def log_name(config: Config, job_id: str) -> str:
    """The file that `submit_command` makes the scheduler write."""
    return f"lab-{job_id}.log" if config.scheduler == "slurm" else f"{job_id}.OU"


def own_directory(pattern: str, account: pwd.struct_passwd) -> str:
    """The user's own directory for logs that a site has written with {home} and {user}, made private if need be.

    What stands above the home, or above the first part with {user}, is the site's. From there on nobody else may own a
    part: where all may write, a name belongs to whoever came first. Raises OSError about what is wrong.
    """
    directory = user_path(pattern, account)
    if not _PLAIN_PATH.fullmatch(directory):  # % means something to Slurm, a colon to PBS
        raise OSError(errno.EINVAL, "its name has a character that the batch system takes for its own", directory)
    path = Path(directory)
    above = Path(account.pw_dir if pattern.startswith("{home}") else pattern.partition("{")[0].rpartition("/")[0])
    for part in [*reversed(path.parents), path][len(above.parts) :]:
        try:
            part.mkdir(mode=0o700)
        except OSError:
            if not os.path.lexists(part):
                raise
        for look in (part.lstat, part.stat):  # the link, then what it leads to
            status = look()
            if status.st_uid not in (0, os.getuid()):
                raise PermissionError(errno.EPERM, "it belongs to somebody else", str(part))
            if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o1002 == 0o002:
                raise PermissionError(errno.EPERM, "everybody may change it", str(part))
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it is not a directory of the user's own", directory)
    return directory


def log_directory(pattern: str, account: pwd.struct_passwd) -> str:
    """The directory of the jobs' logs, made if need be; /dev/null where nothing can be written (a full home)."""
    try:
        directory = own_directory(pattern, account)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return os.devnull
    return directory


def last_lines(data: bytes) -> str:
    """The end of a log as plain text: bounded, without control characters, whatever it holds."""
    text = _TERMINAL.sub("", data[-LOG_BYTES:].decode("utf-8", "replace"))
    plain = "".join(character if character.isprintable() or character in "\n\t" else " " for character in text)
    return "\n".join(plain.rstrip().split("\n")[-LOG_LINES:])


def read_log(directory: str, name: str) -> dict[str, Any]:
    """The end of one file of this very directory. Raises Refused if it is not there, or is no file."""
    path = f"{directory}/{name}"
    try:
        where = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=where)
        finally:
            os.close(where)
        with os.fdopen(file, "rb") as log:
            if not stat.S_ISREG(os.fstat(log.fileno()).st_mode):
                raise Refused(f"{path} is not a file.")
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_BYTES))
            return {"ok": True, "path": path, "text": last_lines(log.read(LOG_BYTES))}
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None


def run(
    command: list[str], environment: Mapping[str, str], cwd: str, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a scheduler command with `text` on stdin. Raises Refused if it cannot be run or does not answer."""
    try:
        return subprocess.run(  # noqa: S603 - an argument list of fixed flags and checked values, never a shell
            command,
            input=text,
            env=environment,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"The batch system did not answer within {COMMAND_SECONDS} seconds.") from None
    except OSError as error:
        raise Refused(f"{command[0]} cannot be run: {error.strerror}") from None


def handle(request: object, config: Config, account: pwd.struct_passwd) -> dict[str, Any]:
    """Do what a request asks, as the user that `account` describes. Raises Refused if it must not be done."""
    home = account.pw_dir
    cwd = home if Path(home).is_dir() else "/"
    environment = {
        "HOME": home,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": "/bin/sh",
        "PATH": f"{config.scheduler_prefix}:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    verb = request.get("verb") if type(request) is dict else None
    if verb == "submit":
        fields = _exactly(request, ("verb", "job", "environment", "tls"), "submit")
        job = parse_job(fields["job"], config.queues)
        text = script(config, job, parse_environment(fields["environment"]), parse_tls(fields["tls"]))
        command = submit_command(config, job, home, log_directory(config.log_directory, account))
        done = run(command, environment, cwd, text)
        job_id = done.stdout.strip().split(";")[0]
        if done.returncode == 0 and _JOB_ID[config.scheduler].fullmatch(job_id):
            return {"ok": True, "job_id": job_id}
        return {"ok": False, "message": clean(done.stderr or done.stdout) or f"{command[0]} said nothing."}
    if verb == "cancel":
        fields = _exactly(request, ("verb", "job_ids"), "cancel")
        done = run(cancel_command(config, fields["job_ids"]), environment, cwd)
        if done.returncode == 0 or gone(done.stderr):
            return {"ok": True}
        return {"ok": False, "message": clean(done.stderr or done.stdout)}
    if verb == "log":
        fields = _exactly(request, ("verb", "job_id"), "log")
        return read_log(
            user_path(config.log_directory, account), log_name(config, parse_job_id(config, fields["job_id"]))
        )
    raise Refused("verb must be submit, cancel or log")


def main() -> int:
    """Entry point. Exit status 0 whenever a JSON answer was printed."""
    os.umask(0o022)  # the job inherits it; the hub's own would make every file of a project private
    try:
        if 0 in (os.getuid(), os.geteuid()):
            raise Refused("This program runs as an enrolled user, never as root.")
        data = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
        if len(data) > MAX_REQUEST_BYTES:
            raise Refused(f"request is longer than {MAX_REQUEST_BYTES} bytes")
        try:
            request = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused("request is not JSON") from None
        answer = handle(request, read_config(CONFIG), pwd.getpwuid(os.getuid()))
    except Refused as refusal:
        answer = {"ok": False, "message": clean(str(refusal))}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(check(sys.argv[2]) if sys.argv[1:2] == ["--check"] and len(sys.argv) == 3 else main())
