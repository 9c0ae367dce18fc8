"""The Dask configuration of one session: the site's files, the notebook's own project and queue, and the user's keys.

dask reads the directory named by DASK_ROOT_CONFIG first, so whatever a user sets in ~/.config/dask still wins.
It expands no variables, hence absolute paths, written anew at each start.
"""

from __future__ import annotations

import datetime
import functools
import os
import pwd
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hpchub.privileged import batch_systems
from hpchub.privileged.user_files import own_directory
from hpchub.scheduler.registry import dialect

KEY_DAYS = 365
RENEW_DAYS = 60  # above any wall time, so that no key ends while a session uses it
KEEP_SESSION_DAYS = 30
ROLES = ("scheduler", "worker", "client")


@dataclass(frozen=True)
class Session:
    """What the notebook's own job is: the scheduler's name, and what was asked of it; no reservation is None.

    `address` is the Lab's in a browser.
    """

    scheduler: str
    project: str
    queue: str
    reservation: str | None
    address: str
    log_directory: str
    tag: str = ""
    job: str = ""
    """By what the hub, and by what the scheduler knows the notebook's job."""


def private_directory(path: Path) -> Path:
    """Make a directory that is open to its owner alone. Raises OSError, also if it belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{path} is not a directory of yours")
    path.chmod(0o700)
    return path


def make_key_pair(now: datetime.datetime) -> tuple[bytes, bytes]:
    """A fresh P-256 key and its self-signed certificate, as PEM. It is its own CA: who has the key is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpchub-dask")])
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # nodes whose clocks differ
        .not_valid_after(now + datetime.timedelta(days=KEY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("dask-internal")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a full quota shows itself here, not in the workers


def _write_pair(directory: Path, now: datetime.datetime) -> None:
    private, certificate = make_key_pair(now)
    _write(directory / "key.pem", private)
    _write(directory / "cert.pem", certificate)


def _days_left(pair: Path, now: datetime.datetime) -> float:
    """Days until the certificate of a key directory ends; below 0 if there is none that can be read."""
    try:
        certificate = x509.load_pem_x509_certificate((pair / "cert.pem").read_bytes())
        (pair / "key.pem").stat()
    except (OSError, ValueError):
        return -1.0
    return (certificate.not_valid_after_utc - now) / datetime.timedelta(days=1)


def key_directory(base: Path, now: datetime.datetime) -> Path:
    """The directory with key.pem and cert.pem to use now, made anew when the last one nears its end.

    A new pair gets a directory of its own, so that workers of a running cluster still find the one they began with.
    Raises OSError if nothing can be written.
    """
    keys = private_directory(base / "keys")
    pairs = {pair: _days_left(pair, now) for pair in keys.iterdir()}
    best = max(pairs, key=lambda pair: pairs[pair], default=None)
    if best is not None and pairs[best] > RENEW_DAYS:
        return best
    for pair, days in pairs.items():
        if days < 0 and time.time() - pair.stat().st_mtime > 3600:  # not one that is being written
            shutil.rmtree(pair, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{now:%Y-%m-%d}-", dir=keys))
    try:
        _write_pair(fresh, now)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return fresh


def session_settings(session: Session, site: Mapping[str, object], pair: str, directory: str) -> dict[str, object]:
    """What only this session knows, as dask configuration.

    `site` is the site's own configuration, `pair` the key directory, `directory` where the result is written. Each
    section of the site's jobqueue is for this project; the scheduler's own section is for the notebook's queue too, and
    takes over what the site says of that queue.
    """
    known = sections(site)
    here = dialect(session.scheduler).dask
    jobqueue = {name: _section(session, known.get(name, {}), directory) for name in {here.section: None, **known}}
    plain, of_this_queue = known.get(here.section, {}), known.get(session.queue, {})
    differs = {key: value for key, value in of_this_queue.items() if value != plain.get(key)}
    jobqueue[here.section] = differs | jobqueue[here.section]
    of_queue = session.reservation if here.reservation_directive is None else None
    jobqueue[here.section]["queue"] = of_queue or session.queue
    settings = own_settings(pair)
    settings["distributed"]["dashboard"] = {"link": f"{session.address}proxy/{{port}}/status"}
    return {
        **settings,
        "jobqueue": jobqueue,
        "hpchub": {
            "session": {
                "tag": session.tag,
                "job": session.job,
                "queue": session.queue,
                "reservation": session.reservation or "",
            }
        },
    }


def own_settings(pair: str) -> dict[str, dict[str, object]]:
    """The user's keys as dask configuration; `pair` is the key directory."""
    files = {"cert": f"{pair}/cert.pem", "key": f"{pair}/key.pem"}
    return {"distributed": {"comm": {"tls": {"ca-file": files["cert"], **{role: dict(files) for role in ROLES}}}}}


def sections(site: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """The sections of the site's jobqueue: one of the scheduler's, and one for each queue."""
    jobqueue = mapping(site, "jobqueue")
    return {name: mapping(jobqueue, name) for name in jobqueue}


def _lines(section: Mapping[str, object], key: str) -> list[object]:
    value = section.get(key)
    return value if isinstance(value, list) else []


def _section(session: Session, site: Mapping[str, object], directory: str) -> dict[str, object]:
    here = dialect(session.scheduler).dask
    section: dict[str, object] = {
        here.project_key: session.project,
        # The submit command passes no environment, or a site keeps it from that: the job script says where to look.
        "job-script-prologue": [
            *_lines(site, "job-script-prologue"),
            f"export DASK_ROOT_CONFIG={shlex.quote(directory)}",
        ],
    }
    if session.reservation is not None and here.reservation_directive is not None:
        directive = here.reservation_directive(session.reservation)
        section["job-extra-directives"] = [*_lines(site, "job-extra-directives"), directive]
    return section | logging(session.scheduler, site, session.log_directory)


def logging(scheduler: object, section: Mapping[str, object], otherwise: str) -> dict[str, object]:
    """Where a section's jobs log to, and that they do while they run; `otherwise` is for a site that does not say.

    `scheduler` is the name in the site's file, which may say nothing.
    """
    found: dict[str, object] = {}
    pattern, directives = section.get("log-directory"), _lines(section, "job-extra-directives")
    if pattern is None:
        found["log-directory"] = otherwise
    elif isinstance(pattern, str) and "{" in pattern:  # else from a file of the site's own
        found["log-directory"] = logs(pattern)
    live = dialect(scheduler).dask.live_log if isinstance(scheduler, str) and scheduler in batch_systems.NAMES else ""
    if live and not any(str(line).startswith(live.split()[0]) for line in directives):
        found["job-extra-directives"] = [*directives, live]
    return found


@functools.cache
def logs(pattern: str) -> str:
    """The user's own directory for logs of Dask jobs, made if need be; `pattern` may have {home} and {user}.

    Where it cannot be, one whose name says so: clusters of jobs stop there before they submit any.
    """
    account = pwd.getpwuid(os.getuid())
    try:
        return own_directory(pattern, account)
    except OSError as error:
        print(f"Dask gets no jobs: {error.filename} cannot hold their logs: {error.strerror}.", file=sys.stderr)
        # A cluster says it up to the first slash.
        return (
            f"{os.devnull}/Logs of Dask jobs cannot be where this site has them: {error.strerror}. `hpchub dask config "
            f"jobqueue` says where. Ask your help desk, or name another directory with log_directory=. {error.filename}"
        )


def mapping(tree: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A mapping within a mapping; empty if there is none."""
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _merge(low: Mapping[str, object], high: Mapping[str, object]) -> dict[str, object]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def site_settings(files: Mapping[str, bytes]) -> dict[str, object]:
    """The site's dask files as one mapping, later names over earlier. Raises yaml.YAMLError."""
    merged: dict[str, object] = {}
    for name in sorted(files):
        content = yaml.safe_load(files[name])
        if isinstance(content, Mapping):
            merged = _merge(merged, content)
    return merged


def clean_sessions(sessions: Path, now: float) -> None:
    """Remove what killed sessions left behind."""
    for old in sessions.iterdir():
        if now - old.stat().st_mtime > KEEP_SESSION_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)


def read_site(directory: Path) -> dict[str, bytes]:
    """The site's dask files by name; none if there is no such directory."""
    return {file.name: file.read_bytes() for file in directory.glob("*.yaml")}


def write_session(base: Path, session: Session, site: Mapping[str, bytes]) -> Path:
    """Write the configuration directory of this session, readable on every node that has the user's home.

    Raises OSError if the home cannot take it.
    """
    pair = key_directory(private_directory(base), datetime.datetime.now(datetime.UTC))
    sessions = private_directory(base / "sessions")
    clean_sessions(sessions, time.time())
    directory = Path(tempfile.mkdtemp(dir=sessions))
    try:
        _write_files(directory, session, site, str(pair))
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def write_local_session(directory: Path, session: Session, site: Mapping[str, bytes], reason: str) -> Path:
    """Write a session into a node's own directory, for a home that cannot be written.

    Clusters on this node work. One of batch jobs stops before it submits any, at a log directory whose name says why.
    """
    directory.mkdir(mode=0o700)
    _write_pair(directory, datetime.datetime.now(datetime.UTC))
    excuse = (
        f"{os.devnull}/Your home directory could not be written: {reason}. Free some space, then restart your server."
    )
    _write_files(directory, session, site, str(directory), excuse)
    return directory


def _write_files(directory: Path, session: Session, site: Mapping[str, bytes], pair: str, excuse: str = "") -> None:
    for name, content in site.items():
        _write(directory / name, content)
    settings = session_settings(session, site_settings(site), pair, str(directory))
    if excuse:
        stop = {name: {"log-directory": excuse} for name in mapping(settings, "jobqueue")}
        settings = _merge(settings, {"jobqueue": stop})
    _write(directory / "zz-session.yaml", yaml.safe_dump(settings).encode())  # the last name wins in dask
