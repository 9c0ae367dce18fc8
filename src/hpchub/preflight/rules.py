"""What of an inventory does not belong together, where each part is right by itself.

A range or a pattern of one value stands in the models, `hpchub.settings` and `ranges`, and not here. A rule reads what
is asked for from `Given`, which stops it where a value is wrong by itself: what follows from that is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from hpchub.dask_jobs.retirement import shortest_wall_time
from hpchub.preflight.types import Value
from hpchub.settings import is_address, is_public_url


class Unfit(Exception):
    """A value that a rule needs is wrong by itself, or not set."""


class Given(Mapping[str, Any]):
    """The inventory's values, completed with the defaults of argument_specs; Unfit for one that cannot be judged."""

    def __init__(self, values: Mapping[str, Any], unfit: Iterable[str] = ()) -> None:
        """`values` has None for what is not set and has no default."""
        self._values, self._unfit = values, frozenset(unfit)

    def __getitem__(self, name: str) -> Value:
        """The value; raises Unfit."""
        if name in self._unfit or name not in self._values:
            raise Unfit(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """The names of what can be judged."""
        return iter(name for name in self._values if name not in self._unfit)

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)


def problems(given: Given) -> list[str]:
    """Say what contradicts each other."""
    found: list[str] = []
    for rule in _RULES:
        with suppress(Unfit):
            found += _until_unfit(rule(given))
    return found


def _until_unfit(sentences: Iterable[str]) -> Iterable[str]:
    found = []
    with suppress(Unfit):
        for sentence in sentences:
            found.append(sentence)
    return found


def _queues(given: Given) -> Iterable[str]:
    queues = given["hpc_queues"]
    names = [queue["name"] for queue in queues]
    if not queues:
        yield "hpc_queues is empty. Name at least one queue that users may choose."
    yield from _twice("hpc_queues", names)
    defaults = [queue["name"] for queue in queues if queue.get("default")]
    if len(defaults) > 1:
        yield f"hpc_queues: {', '.join(defaults)} all have default: true. Keep one of them."


def _twice(variable: str, names: list[str]) -> Iterable[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{variable} '{name}' stands in the list twice. Keep one of them."


def _url(given: Given) -> Iterable[str]:
    text = given["jupyterhub_url"]
    if not text.startswith("https://"):
        yield f"jupyterhub_url is {text}. Passwords travel over it: write https://."
    elif not is_url(text):
        yield f"jupyterhub_url is {text}. Write https://, a host name and, if need be, a port."
    elif given["jupyterhub_subdomains"] and is_address(urlsplit(text).hostname or ""):
        yield (
            f"jupyterhub_subdomains is true, and jupyterhub_url is {text}: an address has no names"
            " below. Write a host name, or drop jupyterhub_subdomains."
        )


def is_url(text: str) -> bool:
    """Whether the hub takes this for its address; a slash at the end is put there by the role."""
    try:
        return is_public_url(text.rstrip("/") + "/")
    except ValueError:
        return False


def _tls(given: Given) -> Iterable[str]:
    if given["jupyterhub_proxy_tls_mode"] == "files":
        for name in ("jupyterhub_proxy_tls_certificate", "jupyterhub_proxy_tls_private_key"):
            if given[name] is None:
                yield f"{name} is not set, and jupyterhub_proxy_tls_mode is files. Name the file on the login node."


def _reachable(given: Given) -> Iterable[str]:
    host = given["jupyterhub_connect_host"]
    if host == "localhost" or _only_here(host):
        yield (
            f"jupyterhub_connect_host is {host}, which resolves to the compute node itself."
            " Write the login node's name."
        )


def _listens(given: Given) -> Iterable[str]:
    address = given["jupyterhub_bind_address"]
    if is_address(address) and ip_address(address).is_loopback:
        yield (
            f"jupyterhub_bind_address is {address}, which no compute node reaches. Write an address of the login node,"
            " or 0.0.0.0 for all."
        )


def _only_here(host: str) -> bool:
    return is_address(host) and (ip_address(host).is_loopback or ip_address(host).is_unspecified)


def _ports(given: Given) -> Iterable[str]:
    if given["jupyterhub_port"] == given["jupyterhub_proxy_port"]:
        yield f"jupyterhub_port and jupyterhub_proxy_port are both {given['jupyterhub_port']}. Choose two ports."


def _stack(given: Given) -> Iterable[str]:
    """Say what does not belong together in the way to sign in."""
    stack, service = given["jupyterhub_pam_stack"], given["jupyterhub_pam_service"]
    if stack == "own" and not service:
        yield "jupyterhub_pam_service is not set, and jupyterhub_pam_stack is own. Name your file in /etc/pam.d."
    if stack != "own" and service:
        yield (
            f"jupyterhub_pam_service is {service}, but jupyterhub_pam_stack is {stack}."
            " Write jupyterhub_pam_stack: own, or remove the first."
        )


def _push(given: Given) -> Iterable[str]:
    seconds = given["jupyterhub_login_timeout_seconds"]
    if given["jupyterhub_pam_stack"] == "duo" and seconds < 60:
        yield (
            f"jupyterhub_login_timeout_seconds is {seconds}, but a push waits for up to 60 s, and jupyterhub_pam_stack"
            " is duo. Write at least 60."
        )


def _single_factor(given: Given) -> Iterable[str]:
    if given["jupyterhub_pam_stack"] == "password" and not given["jupyterhub_pam_accept_single_factor"]:
        yield (
            "jupyterhub_pam_stack is password, a single factor. Choose another or, for a test system, write"
            " jupyterhub_pam_accept_single_factor: true."
        )


def _radius(given: Given) -> Iterable[str]:
    """Say what would keep the RADIUS module from asking, or make it ask for longer than anybody waits."""
    if given["jupyterhub_pam_stack"] != "radius":
        return
    servers = given["jupyterhub_pam_radius_servers"]
    if not servers:
        yield "jupyterhub_pam_radius_servers is empty, and jupyterhub_pam_stack is radius. Name at least one server."
    seconds, whole = given["jupyterhub_pam_radius_timeout_seconds"], given["jupyterhub_login_timeout_seconds"]
    longest = len(servers) * 2 * seconds
    if longest + 5 > whole:
        yield (
            f"jupyterhub_pam_radius_timeout_seconds is {seconds}, so {len(servers)} servers may take {longest} s, but"
            f" jupyterhub_login_timeout_seconds is {whole}: lower the first, or make that {longest + 5}."
        )


def _form(given: Given) -> Iterable[str]:
    queues = given["hpc_queues"]
    first = next((queue for queue in queues if queue.get("default")), queues[0] if queues else {})
    for name, key in {
        "jupyterhub_default_walltime_minutes": "max_walltime_minutes",
        "jupyterhub_default_cores": "max_cores",
        "jupyterhub_default_memory_gib": "max_memory_gib",
    }.items():
        limit = first.get(key)
        with suppress(Unfit):
            if limit is not None and given[name] > limit:
                yield (
                    f"{name} is {given[name]}, but {key} of the queue '{first['name']}', with which the form opens, is"
                    f" {limit}."
                )


def _ldap_servers(given: Given) -> Iterable[str]:
    if given["jupyterhub_login_method"] != "ldap":
        return
    servers = given["jupyterhub_ldap_servers"]
    if not servers:
        yield "jupyterhub_ldap_servers is empty, and jupyterhub_login_method is ldap. Write at least one ldaps://HOST."
    for url in servers:
        scheme, _, place = url.partition("://")
        if scheme == "ldap":
            yield (
                f"jupyterhub_ldap_servers: {url} has no TLS, and PINs travel over it. Write"
                f" ldaps://{place.split(':')[0]} or ldap+starttls://{place}."
            )


def _ldap_time(given: Given) -> Iterable[str]:
    if given["jupyterhub_login_method"] != "ldap":
        return
    one, whole = given["jupyterhub_ldap_timeout_seconds"], given["jupyterhub_login_timeout_seconds"]
    if one >= whole:
        yield (
            f"jupyterhub_ldap_timeout_seconds is {one}, for one answer, and jupyterhub_login_timeout_seconds is"
            f" {whole}, for all. Write 1 to {whole - 1}."
        )


def _ldap_entries(given: Given) -> Iterable[str]:
    if given["jupyterhub_login_method"] != "ldap":
        return
    template, base = given["jupyterhub_ldap_bind_dn"], given["jupyterhub_ldap_search_base"]
    if bool(template) == bool(base):
        both = "are both set" if base else "are both empty"
        yield (
            f"jupyterhub_ldap_bind_dn and jupyterhub_ldap_search_base {both}. Write one of them: where people's entries"
            " are, or where to search for them."
        )
    account = given["jupyterhub_ldap_lookup_dn"]
    if account and not base:
        yield f"jupyterhub_ldap_lookup_dn is {account}, but nothing is searched. Leave it out, or set the search base."
    if account and not given["jupyterhub_ldap_lookup_password"]:
        yield "jupyterhub_ldap_lookup_password is not set, and jupyterhub_ldap_lookup_dn is. Refer to it in the vault."


def _projects(given: Given) -> Iterable[str]:
    names = ("jupyterhub_projects", "jupyterhub_projects_group_pattern", "jupyterhub_projects_command")
    several = [name for name in names if given[name]]
    if len(several) > 1:
        yield f"{' and '.join(several)} are set, and each says where projects come from. Keep one of them."
    command = given["jupyterhub_projects_command"]
    if command and not command[0].startswith("/"):
        yield f"jupyterhub_projects_command begins with {command[0]}. Write the absolute path of the program."


def _dask_queues(given: Given) -> Iterable[str]:
    queues = [queue["name"] for queue in given["hpc_queues"]]
    names = [own["name"] for own in given["dask_site_queues"]]
    for name in dict.fromkeys(name for name in names if name not in queues):
        yield f"dask_site_queues '{name}' is not in hpc_queues. Write one of {', '.join(queues)}."
    yield from _twice("dask_site_queues", names)


def _dask_limits(given: Given) -> Iterable[str]:
    """Say what no Dask job could be, against a queue's limits, and which could not be replaced in time."""
    site = {key: given[f"dask_site_{key}"] for key in ("cores", "memory_gib", "walltime_minutes", "queue_wait_minutes")}
    owns = {own["name"]: own for own in given["dask_site_queues"]}
    for queue in given["hpc_queues"]:
        own = owns.get(queue["name"], {})
        for key in ("cores", "memory_gib", "walltime_minutes"):
            limit = queue.get(f"max_{key}")
            if own.get(key) is not None and limit is not None and own[key] > limit:
                yield (
                    f"dask_site_queues '{queue['name']}': {key} is {own[key]}, but max_{key} of that queue in"
                    f" hpc_queues is {limit}."
                )
        job = {**site, **{key: value for key, value in own.items() if value is not None}}
        wait, longest = job["queue_wait_minutes"], queue.get("max_walltime_minutes")
        lasts = min(job["walltime_minutes"], longest or job["walltime_minutes"])
        if lasts < shortest_wall_time(wait):
            own_wait = own.get("queue_wait_minutes") is not None
            what = (
                f"dask_site_queues '{queue['name']}': queue_wait_minutes"
                if own_wait
                else "dask_site_queue_wait_minutes"
            )
            yield (
                f"{what} is {wait}, but jobs in '{queue['name']}' last {lasts}: all may retire before new ones come."
                f" Let them last {shortest_wall_time(wait)}, or lower it."
            )


_RULES: tuple[Callable[[Given], Iterable[str]], ...] = (
    _queues, _url, _tls, _reachable, _listens, _ports, _form, _ldap_servers, _ldap_time, _ldap_entries, _stack, _push,
    _single_factor, _radius, _projects, _dask_queues, _dask_limits,
)  # fmt: skip
