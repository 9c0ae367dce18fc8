"""hpchub-login@.service: one process answers one login attempt and ends.

fd 0 is the accepted connection of hpchub-login.socket. One JSON line comes in, {"user", "password", "rhost"}; one goes
out, {"result", "user"} with result ok, denied, locked, expired, new_pin or unavailable. Whatever is not understood is a
refusal; the only way to "ok" is PAM's own success after it asked for the secret exactly once.

{"account"} asks whether somebody who signed in earlier still may: the same checks, of PAM the account phase alone.
"""

from __future__ import annotations

import fcntl
import grp
import ipaddress
import json
import os
import pwd
import re
import resource
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpchub.privileged import pam
from hpchub.privileged.peer import peer_uid

CONFIG = Path("/etc/hpchub/login.json")
LOCKS = Path("/run/hpchub-login")
PAM_SERVICES = Path("/etc/pam.d")
MAX_REQUEST_BYTES = 4096
MAX_INCLUDES = 8
READ_SECONDS = 5
MAX_SECONDS = 585  # the hub waits 15 s longer, and at most 600
REFUSAL_SECONDS = 1.0  # no refusal is quicker, so that its time does not tell whether PAM was asked
RESULTS = ("ok", "denied", "locked", "expired", "new_pin", "unavailable")

_AUTHENTICATE = {
    pam.PAM_AUTH_ERR: "denied",
    pam.PAM_PERM_DENIED: "denied",
    pam.PAM_CRED_INSUFFICIENT: "denied",
    pam.PAM_USER_UNKNOWN: "denied",
    pam.PAM_MAXTRIES: "denied",  # a push that was turned down
    pam.PAM_NEW_AUTHTOK_REQD: "new_pin",
    pam.PAM_ACCT_EXPIRED: "expired",
    pam.PAM_AUTHTOK_EXPIRED: "expired",
}
_ACCOUNT = {
    pam.PAM_SUCCESS: "ok",
    pam.PAM_AUTH_ERR: "locked",  # what pam_deny says at the end of Debian's stack, whatever was wrong before it
    pam.PAM_PERM_DENIED: "locked",
    pam.PAM_USER_UNKNOWN: "denied",
    pam.PAM_NEW_AUTHTOK_REQD: "new_pin",
    pam.PAM_ACCT_EXPIRED: "expired",
    pam.PAM_AUTHTOK_EXPIRED: "expired",
}


@dataclass(frozen=True)
class Config:
    """login.json. `timeout_seconds` bounds the whole attempt, waiting for an attempt of the same user included.

    `files` are what the modules of `service` do not refuse without: path -> the setting that it must hold, "" for none.
    """

    service: str
    files: dict[str, str]
    users_group: str
    hub_user: str
    uid_min: int
    username_pattern: str
    timeout_seconds: int


@dataclass(frozen=True)
class Request:
    """One attempt as it came in; `password` is wiped after use, and None where only the account is asked about."""

    user: str
    password: bytearray | None
    rhost: str


NO_REQUEST = Request("", bytearray(), "")


@dataclass(frozen=True)
class Verdict:
    """The answer, and the reason for the journal alone."""

    result: str
    reason: str


def faults(data: object) -> dict[str, str]:
    """What is wrong with a parsed login.json: key -> what to write there. Empty if it can be used.

    Standard library only, and the one place that knows: the program, `--check` and preflight ask it.
    """
    if type(data) is not dict:
        return {"": f"a mapping with the keys {', '.join(Config.__annotations__)}"}
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "service": (_matches(r"[a-z0-9][a-z0-9._-]{0,63}"), "the name of a file in /etc/pam.d, in small letters"),
        "files": (_files, "absolute paths, each with a setting or an empty text"),
        "users_group": (_matches(r"(?!root$)[^\s/,:][^/,:\n]*"), "the name of a group, not root"),
        "hub_user": (_matches(r"[a-z_][a-z0-9_-]{0,31}"), "the name of an account"),
        "uid_min": (_number(1, 2**31 - 1), "a whole number, at least 1"),
        "username_pattern": (_expression, "a regular expression"),
        "timeout_seconds": (_number(1, MAX_SECONDS), f"a whole number from 1 to {MAX_SECONDS}"),
    }
    found = {key: f"one of {', '.join(checks)}" for key in data if key not in checks}
    return found | {key: words for key, (good, words) in checks.items() if key not in data or not good(data[key])}


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and re.fullmatch(pattern, value) is not None


def _number(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high  # bool is an int to isinstance


def _files(value: object) -> bool:
    return type(value) is dict and all(
        type(setting) is str and _matches(r"/[^\x00-\x1f]*")(path) for path, setting in value.items()
    )


def _expression(value: object) -> bool:
    try:
        return type(value) is str and value != "" and bool(re.compile(value))
    except (re.error, OverflowError, RecursionError):
        return False


def read_config(path: Path) -> Config:
    """Read login.json. Raises ValueError or OSError if it is not exactly what Config says."""
    data = json.loads(path.read_text(encoding="utf-8"))
    wrong = faults(data)
    if wrong:
        raise ValueError("; ".join(f"{path}: {key}: write {words}" for key, words in wrong.items()))
    return Config(**data)


def parse_request(line: bytes) -> Request:
    """Read the request line. Raises ValueError for all that is not exactly the protocol."""
    data = json.loads(line)
    if not isinstance(data, dict) or data.keys() not in ({"user", "password", "rhost"}, {"account"}):
        raise ValueError("request is not an object of user, password and rhost, or of account")
    if any(type(value) is not str or "\0" in value for value in data.values()):
        raise ValueError("a field is not text, or holds a NUL")
    if "account" in data:
        return Request(data["account"], None, "")
    if data["rhost"]:
        ipaddress.ip_address(data["rhost"])
    return Request(data["user"], bytearray(data["password"].encode()), data["rhost"])


def refused_before_pam(config: Config, request: Request) -> str:
    """Why PAM is not even asked about this user ("" if it is).

    Raises KeyError without the enrolled group: it comes first, because a directory that is down has no users either,
    and nobody shall be taken for deleted then.
    """
    user = request.user
    if not re.fullmatch(config.username_pattern, user):
        return "name outside the pattern"
    if request.password is not None and not 0 < len(request.password) <= pam.MAX_SECRET_BYTES:
        return "secret empty or too long"
    enrolled = grp.getgrnam(config.users_group).gr_gid
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return "no such account"
    if account.pw_name != user:
        return "name is an alias"
    if account.pw_uid < max(config.uid_min, 1):
        return "system account"
    if enrolled not in os.getgrouplist(user, account.pw_gid):
        return "not enrolled"
    return ""


def phases(service: str, depth: int = 0) -> set[str]:
    """What a PAM service has rules for. For anything else PAM takes the service "other", whatever that allows.

    Raises OSError without a file.
    """
    found = set()
    for line in (PAM_SERVICES / service).read_text(encoding="utf-8", errors="replace").splitlines():
        phase, control, target = [*line.split(), "", "", ""][:3]
        phase = phase.lstrip("-").lower()
        if phase == "@include" and depth < MAX_INCLUDES:
            found |= phases(control, depth + 1)
        elif control != "include" or (depth < MAX_INCLUDES and phase in phases(target, depth + 1)):
            found.add(phase)
    return found


def unfit(path: str, setting: str) -> str:
    """Why a module must not be asked that relies on this file ("" if it may). Raises OSError if it cannot be read.

    The file has to be root's alone and, unless `setting` is empty, to name its key in that one line and no other.
    """
    with Path(path).open(encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o077:
            return f"{path} is not a file of root's alone"
        key = setting.partition("=")[0]
        said = [line for line in file if key in line and not line.lstrip().startswith(("#", ";"))]
    if setting and [re.sub(r"\s*=\s*", "=", line.rstrip()) for line in said] != [setting]:
        return f"{path} does not say {setting}, once"
    return ""


def judge(outcome: pam.Outcome, prompts: int = 1) -> Verdict:
    """What a finished PAM conversation means. Anything not foreseen is "unavailable".

    `prompts` is how often a success must have asked for the secret: 0 if there was none to give.
    """
    reason = f"{outcome.stage} pam={outcome.code}"
    if outcome.refused == "second prompt":
        return Verdict("new_pin", f"{reason}, second prompt")
    if outcome.refused:
        return Verdict("unavailable", f"{reason}, {outcome.refused}")
    if outcome.stage == "authenticate":
        result = _AUTHENTICATE.get(outcome.code, "unavailable")
    elif outcome.stage == "account":
        result = _ACCOUNT.get(outcome.code, "unavailable")
    else:
        result = "unavailable"
    if result == "ok" and outcome.asked != prompts:
        return Verdict("unavailable", f"{reason}, success after {outcome.asked} prompts for the secret")
    return Verdict(result, " ".join([reason, *outcome.messages]))


def attempt(config: Config, request: Request) -> Verdict:
    """Judge one request. Attempts of one user follow each other, so that one code cannot be used twice at once."""
    reason = refused_before_pam(config, request)
    if reason:
        return Verdict("denied", reason)
    if request.password is not None:  # an account is asked about without waiting for an attempt that hangs
        name = LOCKS / f"uid-{pwd.getpwnam(request.user).pw_uid}"
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        reasons = [unfit(path, setting) for path, setting in config.files.items()]
        if any(reasons):
            return Verdict("unavailable", ", ".join(filter(None, reasons)))
    if not {"auth", "account"} <= phases(config.service):
        return Verdict("unavailable", f"{config.service} has no rules for auth, or none for account")
    outcome = pam.check(config.service, request.user, request.password, request.rhost)
    return judge(outcome, prompts=0 if request.password is None else 1)


def attempt_in_child(config: Config, request: Request, deadline: float) -> Verdict:
    """Run `attempt` in a child with a hard end, because a PAM module may hang, crash or call exit().

    `deadline` is on the monotonic clock, in seconds.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)  # a module that prints must not speak to the hub
            os.dup2(null, 1)
            verdict = attempt(config, request)
            os.write(write_end, json.dumps([verdict.result, verdict.reason[:400]]).encode())
        except BaseException as error:
            os.write(write_end, json.dumps(["unavailable", f"{type(error).__name__}: {error}"[:400]]).encode())
        os._exit(0)
    os.close(write_end)
    if request.password is not None:
        pam.wipe(request.password)
    try:
        ready, _, _ = select.select([read_end], [], [], max(deadline - time.monotonic(), 0))
        answer = os.read(read_end, 65536) if ready else None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if answer is None:
        return Verdict("unavailable", f"no answer within {config.timeout_seconds} s")
    if not answer:
        return Verdict("unavailable", "a PAM module ended the process")
    result, reason = json.loads(answer)
    return Verdict(result if result in RESULTS else "unavailable", reason)


def audit_line(verdict: Verdict, request: Request) -> str:
    """One line for the journal: no control characters, bounded, and never the secret.

    "" for an account that is still good: it is asked about every few minutes, and nothing has happened.
    """
    if request.password is None and verdict.result == "ok":
        return ""

    def clean(text: str, limit: int) -> str:
        return "".join(c if c.isascii() and c.isprintable() and c != '"' else "?" for c in text[:limit])

    return (
        f"{'account' if request.password is None else 'login'} result={verdict.result} "
        f'user="{clean(request.user, 32)}" rhost="{clean(request.rhost, 45)}" reason="{clean(verdict.reason, 400)}"\n'
    )


def read_line(connection: socket.socket) -> bytes:
    """Read up to the first newline. Raises ValueError for a line that is too long or does not end."""
    received = b""
    end = time.monotonic() + READ_SECONDS
    while not received.endswith(b"\n"):
        connection.settimeout(max(end - time.monotonic(), 0.001))
        part = connection.recv(MAX_REQUEST_BYTES + 1 - len(received))
        received += part
        if not part or len(received) > MAX_REQUEST_BYTES:
            raise ValueError("request too long or not ended")
    return received


def serve(connection: socket.socket) -> tuple[Verdict, Request]:
    """Judge the one request of a connection; gives the verdict, and the request, its password wiped."""
    config = read_config(CONFIG)
    signal.alarm(config.timeout_seconds + 2 * READ_SECONDS)
    started = time.monotonic()
    if peer_uid(connection) != pwd.getpwnam(config.hub_user).pw_uid:
        return Verdict("unavailable", f"connection from uid {peer_uid(connection)} refused"), NO_REQUEST
    try:
        request = parse_request(read_line(connection))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        return Verdict("denied", f"malformed request: {type(error).__name__}"), NO_REQUEST
    verdict = attempt_in_child(config, request, started + config.timeout_seconds)
    if verdict.result != "ok":
        time.sleep(max(started + REFUSAL_SECONDS - time.monotonic(), 0))
    return verdict, request


def check(file: str) -> int:
    """Say on stderr what is wrong with a file that would become login.json; exit status 1 if anything is."""
    try:
        read_config(Path(file))
    except (OSError, ValueError, RecursionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] = ()) -> int:
    """Entry point: connection on fd 0, audit on stderr, exit status 0 whenever an answer was found.

    With `--check FILE` nobody is connected, and the file is judged.
    """
    if arguments:
        return check(arguments[-1]) if arguments[0] == "--check" and len(arguments) == 2 else 2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=os.dup(0))
    request = NO_REQUEST
    try:
        verdict, request = serve(connection)
    except Exception as error:
        verdict = Verdict("unavailable", f"{type(error).__name__}: {error}")
    sys.stderr.write(audit_line(verdict, request))
    sys.stderr.flush()
    echoed = request.user if verdict.result == "ok" else ""
    try:
        connection.settimeout(READ_SECONDS)
        connection.sendall(json.dumps({"result": verdict.result, "user": echoed}).encode() + b"\n")
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
