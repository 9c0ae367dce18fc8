"""What the login node answered, against what the inventory says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpchub.preflight import certificate, sign_in
from hpchub.scheduler import SchedulerUnavailable
from hpchub.scheduler.registry import dialect

OLDEST_PYTHON = (3, 11)
NEEDED_GIB = 1.5
"""What the users' environment takes when it is first built, with room to unpack it."""


def problems(
    answers: Mapping[str, Any],
    queues: Sequence[Mapping[str, Any]],
    systems: Mapping[str, Sequence[str]],
    system: Mapping[str, str],
) -> list[str]:
    """What the login node's answers say against the inventory."""
    found: list[str] = []
    if system["major"] not in systems.get(system["family"], ()):
        known = "; ".join(f"{family} {' and '.join(majors)}" for family, majors in systems.items())
        found.append(f"The login node runs {system['name']} {system['major']}. hpchub runs on {known}.")
    if not answers["systemd"]:
        found.append("The login node does not run systemd, which the hub's services need.")
    found += _python(answers["python"], answers["python_path"])
    if not answers["group"]["known"]:
        name = answers["group"]["name"]
        found.append(f"hpc_users_group '{name}' is no group on the login node (getent group {name}).")
    if not answers["host"]["addresses"]:
        name = answers["host"]["name"]
        found.append(f"jupyterhub_connect_host '{name}' has no address on the login node (getent hosts {name}).")
    if answers["certificate"]:
        found += certificate.problems(answers["certificate"])
    for url, error in answers["directory"].items():
        remedy = (
            " Write the name that its certificate has, and its authority's certificate to jupyterhub_ldap_ca_file."
            if "certificate" in error
            else ""
        )
        found.append(f"jupyterhub_ldap_servers: {url} cannot be asked from the login node: {error}.{remedy}")
    for unit, port in answers["ports"].items():
        if port["taken"]:
            found.append(
                f"Port {port['port']} ({unit}) cannot be used: {port['taken']} (ss -ltnp sport = :{port['port']})."
            )
    return [
        *found,
        *_prefix(answers["shared_prefix"]),
        *sign_in.problems(answers["sign_in"]),
        *_scheduler(answers["scheduler"], queues),
    ]


def _python(version: str, path: str) -> list[str]:
    if not version:
        return [f"hpc_python is {path}, which is not on the login node, or cannot run."]
    if tuple(map(int, version.split("."))) < OLDEST_PYTHON:
        return [f"hpc_python is {path}, which is Python {version}. Name one of 3.11 or newer that all nodes have."]
    return []


def limits(system: str, prefix: str) -> list[str]:
    """The command by which the login node is asked for the queues of its batch system."""
    return list(dialect(system).limits(prefix))


def _scheduler(answer: Mapping[str, str], queues: Sequence[Mapping[str, Any]]) -> list[str]:
    if answer["error"]:
        return [f"The scheduler does not answer: {answer['error']} ({answer['command']})."]
    try:
        known = dialect(answer["system"]).queue_limits(answer["output"])
    except SchedulerUnavailable as error:
        return [f"The scheduler's answer cannot be read: {error} ({answer['command']})."]
    problems = []
    for queue in queues:
        name, wanted = queue["name"], queue.get("max_walltime_minutes")
        if name not in known:
            problems.append(f"hpc_queues '{name}': the scheduler knows no such queue, but {', '.join(known)}.")
            continue
        limit = known[name]
        if wanted is not None and limit is not None and wanted > limit:
            problems.append(
                f"hpc_queues '{name}': max_walltime_minutes is {wanted}, but the scheduler allows {limit}"
                f" ({answer['command']}). Lower it, or leave it out."
            )
    return problems


def _prefix(answer: Mapping[str, Any]) -> Iterable[str]:
    """Say why the users' environment cannot be built in the shared prefix."""
    path, there = answer["path"], answer["nearest"]
    name = f"hpc_shared_prefix is {path}"
    if not answer["is_directory"]:
        yield f"{name}, and {there} is no directory on the login node. Write another."
    elif there not in (path, path.rpartition("/")[0] or "/"):
        yield (
            f"{name}, and neither it nor the directory above is on the login node, only {there}. Mount the file system,"
            " make the directory above, or write another."
        )
    elif answer["read_only"]:
        yield f"{name}, and root cannot write there on the login node (findmnt --target {there})."
    elif answer["noexec"]:
        yield f"{name}, and programs cannot run from there: it is mounted noexec (findmnt --target {there})."
    elif answer["closed"]:
        yield f"{name}, and users cannot pass through {answer['closed']}. Run chmod o+x on it, or write another."
    elif not answer["has_environment"] and answer["free_gib"] < NEEDED_GIB:
        yield (
            f"{name}, and {answer['free_gib']:.1f} GiB are free there; the users' environment needs {NEEDED_GIB} GiB"
            f" (df {there})."
        )
