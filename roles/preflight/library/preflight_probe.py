#!/usr/bin/python
"""Ask the login node all that preflight wants to know, in one round trip; changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: preflight_probe
short_description: Ask the login node all that preflight wants to know
description: [Answers in one round trip and changes nothing.]
author: the hpchub contributors
options:
  python: {description: The interpreter that environments are built on., type: path, required: true}
  scheduler: {description: The batch system., type: str, required: true}
  limits: {description: The command that lists its queues., type: list, elements: str, required: true}
  shared_prefix: {description: The directory that all nodes see., type: path, required: true}
  group: {description: The group of the hub's users., type: str, required: true}
  host: {description: The name by which compute nodes reach the hub., type: str, required: true}
  certificate: {description: The file with the site's certificate and its chain., type: path}
  private_key: {description: The file with its key., type: path}
  names: {description: Host names and addresses that it has to be good for., type: list, elements: str, default: []}
  directory: {description: URLs of the LDAP servers that must answer., type: list, elements: str, default: []}
  directory_ca_file: {description: Who may vouch for them., type: path}
  ports: {description: Unit of ours -> port that it listens on., type: dict, required: true}
  sign_in: {description: How people sign in; see the function of this name., type: dict, required: true}
"""

EXAMPLES = r"""
- name: Ask
  preflight_probe: {python: /usr/bin/python3, scheduler: mine, limits: [/usr/bin/queues], shared_prefix: /opt/hpchub,
    group: hpcusers, host: login1, ports: {hpchub.service: 8081},
    sign_in: {stack: radius, service: common-account, tokens: "", servers: [radius.example.org], duo: "", first: ""}}
"""

RETURN = r"""
answers: {description: What was found out., returned: always, type: dict}
"""

SECONDS = 30
LDAP_SECONDS = 10
# RFC 4511, section 4.14.1: the extended request 1.3.6.1.4.1.1466.20037 as message 1, and the result code of its answer.
START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
STARTS_TLS = b"\x0a\x01\x00"
PAM_SERVICES = Path("/etc/pam.d")
PROC = Path("/proc")
FIRST_PERSON = 1000
"""Accounts and groups from this id on are people's, on every distribution that is supported."""


def run(*argv: str, text: str = "") -> tuple[int, str]:
    """Return a program's status and output, or 127 and the reason if it cannot be run; it reads `text`."""
    try:
        done = subprocess.run(  # noqa: S603 - argument lists of our own
            argv, input=text, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} gave no answer within {SECONDS} s"
    except OSError as error:
        return 127, f"{argv[0]}: {error.strerror}"
    return done.returncode, done.stdout if done.returncode == 0 else (done.stderr or done.stdout)


def python_version(python: str) -> str:
    """Return the interpreter's version, such as 3.13, or "" if there is none."""
    status, output = run(python, "-I", "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])")
    return output.strip() if status == 0 else ""


def addresses(host: str) -> list[str]:
    """Return the addresses of a name as this host resolves it."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def taken_by(port: int, unit: str) -> str:
    """Return why a port cannot be had ("" if it can), leaving aside that our own unit has it."""
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OverflowError:
            return "there is no such port"
        except OSError as error:
            return "" if listeners(port) == {unit} else str(error.strerror)
    return ""


def listeners(port: int) -> set[str]:
    """Return the units, or the programs outside of any, whose processes listen on a TCP port."""
    tables = [PROC / "net/tcp", PROC / "net/tcp6"]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    # local_address is HEX:PORT, state 0A is LISTEN, and the tenth column is the socket's number (proc(5)).
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    return {unit_of(process) for process in PROC.glob("[0-9]*") if has_one(process, sockets)}


def has_one(process: Path, sockets: set[str]) -> bool:
    """Return whether a process has one of these sockets open; one that ended has none."""
    try:
        return any(str(link.readlink()) in sockets for link in (process / "fd").iterdir())
    except OSError:
        return False


def unit_of(process: Path) -> str:
    """Return the unit to which a process belongs, or its name."""
    try:
        units = re.findall(r"/([^/\n]+\.service)", (process / "cgroup").read_text())
        return str(units[-1]) if units else (process / "comm").read_text().strip()
    except OSError:
        return ""


def prefix(path: str) -> dict[str, Any]:
    """Return what is to be known about the directory that all nodes see, or the nearest above that is there."""
    whole = Path(path)
    nearest = next(place for place in (whole, *whole.parents) if place.exists())
    about = os.statvfs(nearest)
    closed = [
        str(place) for place in (nearest, *nearest.parents) if place.is_dir() and not place.stat().st_mode & 0o001
    ]
    return {
        "path": path,
        "nearest": str(nearest),
        "is_directory": nearest.is_dir(),
        "read_only": bool(about.f_flag & os.ST_RDONLY) or not os.access(nearest, os.W_OK | os.X_OK),
        "noexec": bool(about.f_flag & os.ST_NOEXEC),
        "closed": closed[-1] if closed else "",
        "free_gib": about.f_bavail * about.f_frsize / 1024**3,
        "has_environment": (whole / "lab/current").exists(),
    }


def directory_error(url: str, ca_file: str) -> str:
    """Return why the hub could not ask an LDAP server under TLS ("" if it could); nobody signs in here."""
    scheme, _, place = url.partition("://")
    host, _, port = place.partition(":")
    try:
        context = ssl.create_default_context(cafile=ca_file)
        default = 636 if scheme == "ldaps" else 389
        with socket.create_connection((host, int(port or default)), timeout=LDAP_SECONDS) as connection:
            if scheme != "ldaps":
                connection.sendall(START_TLS)
                if STARTS_TLS not in connection.recv(4096):
                    return "it does not start TLS"
            with context.wrap_socket(connection, server_hostname=host):
                return ""
    except FileNotFoundError:
        return f"{ca_file}, which jupyterhub_ldap_ca_file names, is not there"
    except OSError as error:
        return str(error)


def queues(scheduler: str, argv: list[str]) -> dict[str, Any]:
    """Return the scheduler's own words if it does not answer, else the text in which it lists its queues."""
    status, output = run(*argv)
    error, answer = ("", output) if status == 0 else (output.strip(), "")
    return {"system": scheduler, "command": " ".join(argv), "error": error, "output": answer}


def group_known(name: str) -> bool:
    """Return whether the host knows the group."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def rules(service: str, phase: str = "", seen: tuple[str, ...] = ()) -> list[dict[str, Any]] | None:
    """Return the rules of a PAM service, with those that it includes, or None if it has no file.

    Of an included file, `phase` says which phase counts; "" means all.
    """
    path = PAM_SERVICES / service
    if not path.is_file() or path in map(Path, seen):
        return [] if seen else None
    found: list[dict[str, Any]] = []
    joined = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for number, text in enumerate(joined.splitlines(), 1):
        words = re.sub(r"\[[^\]]*\]", "[]", text.partition("#")[0]).split()
        own, control = (words[0].lstrip("-").lower(), words[1]) if len(words) > 2 else ("", "")
        if words[:1] == ["@include"]:
            found += rules(words[1], phase, (*seen, str(path))) or []
        elif phase in ("", own) and control in ("include", "substack"):
            found += rules(words[2], own, (*seen, str(path))) or []
        elif own and phase in ("", own):
            names = [word.rpartition("/")[2] for word in words[2:]]
            found.append({"phase": own, "file": str(path), "line": number, "words": names})
    return found


def for_root_alone(path: Path) -> bool:
    """Return whether nobody but root can look at a file or into a directory."""
    status = path.stat()
    return status.st_uid == 0 and not status.st_mode & 0o077


def tokens(directory: Path) -> dict[str, Any]:
    """Return what is to be known about token files without their secrets: whose hold a PIN besides."""
    with_pin = set()
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        lines = [line.split() for line in path.read_text(errors="replace").splitlines()] if path.is_file() else []
        with_pin |= {words[1] for words in lines if len(words) > 3 and words[2] != "+"}
    known = directory.is_dir()
    return {
        "directory": str(directory),
        "known": known,
        "open": known and not for_root_alone(directory),
        "with_pin": sorted(with_pin),
    }


def duo(path: Path) -> dict[str, Any]:
    """Return what pam_duo's file says about failing and asking, and nothing of its keys."""
    if not path.is_file():
        return {"path": str(path), "known": False}
    pairs = [line.partition("=") for line in path.read_text(errors="replace").splitlines()]
    settings = {key.strip(): value.strip() for key, _, value in pairs if key.strip() in ("failmode", "autopush")}
    return {"path": str(path), "known": True, "open": not for_root_alone(path), "settings": settings}


def sign_in(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what there is of `stack`: the rules of `service`, and what else it relies on."""
    stack = asked["stack"]
    answer: dict[str, Any] = {"service": asked["service"], "shipped": stack != "own"}
    answer["rules"] = rules(asked["service"], "" if stack == "own" else "account")
    if stack in ("oath_unix", "oath_sss"):
        answer["tokens"] = tokens(Path(asked["tokens"]))
    if stack == "radius":
        hosts = [re.sub(r"^\[(.*)\](:\d+)?$|:\d+$", r"\1", host) for host in asked["servers"]]
        answer["servers_without_address"] = [host for host in hosts if not addresses(host)]
    if stack == "duo":
        answer["duo"] = duo(Path(asked["duo"]))
    if stack in ("oath_sss", "sss") or (stack in ("duo", "password") and asked["first"] == "pam_sss"):
        modules = [*Path("/usr").glob("lib*/security/pam_sss.so"), *Path("/usr/lib").glob("*/security/pam_sss.so")]
        answer["sssd"] = {"runs": run("systemctl", "is-active", "--quiet", "sssd")[0] == 0, "module": bool(modules)}
    return answer


def read(path: str) -> tuple[str, str]:
    """Return a file's text, and why it cannot be had ("" if it can)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace"), ""
    except OSError as error:
        return "", str(error.strerror)


def openssl(command: str, *arguments: str, text: str) -> str:
    """Return what openssl makes of a text, "" if it cannot; a passphrase is never asked for."""
    status, output = run("openssl", command, *arguments, text=text)
    return output if status == 0 else ""


def readers(path: str) -> list[str]:
    """Return which people can read a file: everybody, a group of theirs, or one who owns it."""
    real = Path(path).resolve()
    status = real.stat()
    found = []
    if status.st_uid >= FIRST_PERSON:
        found.append(f"its owner {_name(pwd.getpwuid, status.st_uid)}")
    if status.st_gid >= FIRST_PERSON and status.st_mode & 0o040:
        found.append(f"the group {_name(grp.getgrgid, status.st_gid)}")
    if status.st_mode & 0o004 and all(parent.stat().st_mode & 0o001 for parent in real.parents):
        found.append("everybody")
    return found


def _name(look_up: Callable[[int], Any], number: int) -> str:
    """Return the name of an account or group, its number if it has none."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def certificate(path: str, key_path: str, names: list[str]) -> dict[str, Any]:
    """Return what can be said of a certificate, its key and its chain; `error` and `key_error` say why no more can."""
    text, error = read(path)
    key, key_error = read(key_path)
    answer: dict[str, Any] = {"path": path, "error": error, "key_path": key_path, "key_error": key_error}
    answer["openssl"] = run("openssl", "version")[0] == 0
    if not answer["openssl"]:
        return answer
    answer["readers"] = [] if key_error else readers(key_path)
    public = openssl("pkey", "-pubout", "-passin", "pass:", text=key)
    answer["key_opens"] = bool(public)
    own = openssl("x509", "-noout", "-subject", "-issuer", "-nameopt", "RFC2253", "-startdate", "-enddate", text=text)
    answer["is_certificate"] = bool(own)
    if own:
        fields = dict(line.split("=", 1) for line in own.splitlines() if "=" in line)
        names_text = openssl("x509", "-noout", "-ext", "subjectAltName", text=text)
        blocks = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
        answer |= {
            "now": time.time(),
            "starts": ssl.cert_time_to_seconds(fields["notBefore"]),
            "ends": ssl.cert_time_to_seconds(fields["notAfter"]),
            "issuer": fields["issuer"].strip(),
            "names": re.findall(r"(?:DNS|IP Address):([^,\s]+)", names_text),
            "covers": {name: covers(text, name) for name in names},
            "key_of": [bool(public) and openssl("x509", "-noout", "-pubkey", text=block) == public for block in blocks],
            "lacks_issuer": lacks_issuer(path),
        }
    return answer


def covers(text: str, name: str) -> bool:
    """Return whether a certificate is good for a host name, an address, or every name below one (*.name)."""
    address = re.fullmatch(r"[0-9.]+|.*:.*", name)
    asked = ("-checkip" if address else "-checkhost", name.replace("*", "any-user"))
    return "does match" in openssl("x509", "-noout", *asked, text=text)


def lacks_issuer(path: str) -> bool:
    """Return whether neither the file nor the host has the certificate of the issuer."""
    status, output = run("openssl", "verify", "-no_check_time", "-untrusted", path, path)
    return status != 0 and "error 20 at 0 depth" in output


def main() -> None:
    """Answer."""
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "scheduler": {"type": "str", "required": True},
            "limits": {"type": "list", "elements": "str", "required": True},
            "shared_prefix": {"type": "path", "required": True},
            "group": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "certificate": {"type": "path"},
            "private_key": {"type": "path"},
            "names": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "list", "elements": "str", "default": []},
            "directory_ca_file": {"type": "path"},
            "ports": {"type": "dict", "required": True},
            "sign_in": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    answers = {
        "python": python_version(asked["python"]),
        "python_path": asked["python"],
        "scheduler": queues(asked["scheduler"], asked["limits"]),
        "shared_prefix": prefix(asked["shared_prefix"]),
        "group": {"name": asked["group"], "known": group_known(asked["group"])},
        "host": {"name": asked["host"], "addresses": addresses(asked["host"])},
        "certificate": certificate(asked["certificate"], asked["private_key"], asked["names"])
        if asked["certificate"]
        else None,
        "directory": {
            url: error for url in asked["directory"] if (error := directory_error(url, asked["directory_ca_file"]))
        },
        "ports": {
            unit: {"port": int(port), "taken": taken_by(int(port), unit)} for unit, port in asked["ports"].items()
        },
        "sign_in": sign_in(asked["sign_in"]),
        "systemd": Path("/run/systemd/system").is_dir(),
    }
    module.exit_json(changed=False, answers=answers)


if __name__ == "__main__":
    main()
