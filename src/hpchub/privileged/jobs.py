"""The one program that the hub may run as an enrolled user, through sudo and without arguments.

One JSON object on stdin, {"verb": "submit", "job": {...}, "environment": {...}, "tls": {...}},
{"verb": "cancel", "job_ids": ["123"]} or {"verb": "log", "job_id": "123"}; one on stdout, {"ok": true, ...} with the
job_id of a submission, or path and text of a log, or {"ok": false, "message": "..."}. Nothing of the caller's
environment is used, every field is checked here again, and what the Lab needs to know travels in the script alone.
"""

from __future__ import annotations

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

from hpchub.privileged import batch_systems, job_order
from hpchub.privileged.batch_systems import Job
from hpchub.privileged.job_order import LabOrder
from hpchub.privileged.user_files import LOG_BYTES, PLAIN_PATH, last_lines, own_directory, user_path

CONFIG = Path("/etc/hpchub/jobs.json")
MAX_REQUEST_BYTES = 256 * 1024
MAX_VALUE_BYTES = 8 * 1024
MAX_MESSAGE_CHARS = 1000
MAX_CANCELLED = 1000  # in one command
COMMAND_SECONDS = 60  # below the time that the hub waits for this program

_TAG = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_VARIABLE = re.compile(r"JUPYTERHUB_[A-Z0-9_]{1,100}")
_PEM = re.compile(r"-----BEGIN [A-Z ]{1,32}-----\n[A-Za-z0-9+/=\n]{1,8000}-----END [A-Z ]{1,32}-----\n?")
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

    @property
    def orders(self) -> batch_systems.Orders:
        """The site's batch system."""
        return batch_systems.orders(self.scheduler)


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
            good = type(value) is str and value in batch_systems.NAMES
            words = f"one of {', '.join(batch_systems.NAMES)}"
        else:
            own = key == "log_directory"
            plain = value.replace("{home}", "/h").replace("{user}", "u") if type(value) is str and own else value
            good = type(plain) is str and PLAIN_PATH.fullmatch(plain) is not None
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
    order = LabOrder(
        environment=dict(environment),
        tls=dict(tls),
        tag=job.tag,
        shared_prefix=config.shared_prefix,
        scheduler=config.scheduler,
        scheduler_prefix=config.scheduler_prefix,
        project=job.project,
        queue=job.queue,
        reservation=job.reservation,
        log_directory=config.log_directory,
    )
    python = f"{os.path.realpath(config.lab)}/bin/python"
    start = f"exec {shlex.quote(python)} -I -m hpchub.lab.start"
    return f"#!/bin/bash\n{start} <<'{_DELIMITER}'\n{job_order.write(order)}\n{_DELIMITER}\n"


def parse_job_id(config: Config, job_id: object) -> str:
    """Check the job id of a request. Raises Refused if it is none."""
    if type(job_id) is not str or not config.orders.job_id.fullmatch(job_id):
        raise Refused("job_id must be the number that the scheduler gave")
    return job_id


def parse_job_ids(config: Config, job_ids: object) -> list[str]:
    """Check the job ids of a request. Raises Refused if that is no list of job ids."""
    if type(job_ids) is not list or not 1 <= len(job_ids) <= MAX_CANCELLED:
        raise Refused(f"job_ids must be a list of 1 to {MAX_CANCELLED} numbers")
    return [parse_job_id(config, job_id) for job_id in job_ids]


def clean(text: str) -> str:
    """The scheduler's words on one line: no control characters, bounded."""
    words = "".join(character if character.isprintable() else " " for character in text).split()
    return " ".join(words)[:MAX_MESSAGE_CHARS]


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
        log = log_directory(config.log_directory, account)
        command = config.orders.submit(config.scheduler_prefix, job, home, log)
        done = run(command, environment, cwd, text)
        job_id = config.orders.submitted(done.stdout)
        if done.returncode == 0 and config.orders.job_id.fullmatch(job_id):
            return {"ok": True, "job_id": job_id}
        return {"ok": False, "message": clean(done.stderr or done.stdout) or f"{command[0]} said nothing."}
    if verb == "cancel":
        job_ids = parse_job_ids(config, _exactly(request, ("verb", "job_ids"), "cancel")["job_ids"])
        done = run(config.orders.cancel(config.scheduler_prefix, job_ids), environment, cwd)
        if done.returncode == 0 or config.orders.all_gone(done.stderr):
            return {"ok": True}
        return {"ok": False, "message": clean(done.stderr or done.stdout)}
    if verb == "log":
        job_id = parse_job_id(config, _exactly(request, ("verb", "job_id"), "log")["job_id"])
        return read_log(user_path(config.log_directory, account), config.orders.lab_log.format(job_id))
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
