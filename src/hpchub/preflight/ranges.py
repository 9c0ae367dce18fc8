"""Ranges and patterns of the variables that are in no file of the hub's own: the proxy, the Labs, Dask, environments.

What becomes site.yml, login.json or jobs.json is not here: `files` puts it through
`hpchub.settings` and the programs that read it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from hpchub.settings import (
    MAX_MINUTES,
    Address,
    Cores,
    HostName,
    Line,
    Minutes,
    Model,
    Name,
    PlainPath,
    Port,
    fits,
    is_address,
    is_host,
    matches,
)

_NO_WORD = r"\s\\\"'$%#\[\]"
"""Characters that end or change a word in a unit or a PAM service."""

UsersOwn = Annotated[
    str,
    matches(
        r"(?=.*\{(user|home)\})(/|\{home\})([A-Za-z0-9_./@+-]|\{user\}|\{home\})*",
        "an absolute path with {user} or {home}, such as /scratch/{user}/logs",
    ),
]
UnitPath = Annotated[
    str,
    matches(
        rf"/[^{_NO_WORD}:/]+(/[^{_NO_WORD}:/]+)*",
        "an absolute path, without blanks, quotes and : $ % # [ ], and without a slash at its end",
    ),
]
"""A file or directory that is named in a unit or a PAM service."""
Scratch = Annotated[
    str, matches(r'[/$][^"\\`\x00-\x1f]*', "an absolute path, or a variable of the job such as $TMPDIR")
]
Interface = Annotated[
    str, matches(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}", "the name of a network interface, such as ib0")
]
Gibibytes = Annotated[int, Field(ge=1, le=1 << 20)]
Seconds = Annotated[int, Field(ge=1, le=86400)]
Wait = Annotated[int, Field(ge=0, le=MAX_MINUTES)]


def _is_radius_server(text: str) -> bool:
    match = re.fullmatch(r"(?:\[(.*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", text)
    if match is None or (match[3] is not None and not 1 <= int(match[3]) <= 65535):
        return False
    return is_address(match[1]) if match[1] is not None else is_host(match[2])


class DaskQueue(Model):
    """An element of dask_site_queues; None is left out."""

    name: Name
    cores: Cores | None = None
    memory_gib: Gibibytes | None = None
    walltime_minutes: Minutes | None = None
    queue_wait_minutes: Wait | None = None
    death_timeout_seconds: Seconds | None = None
    local_directory: Scratch | None = None
    log_directory: UsersOwn | None = None
    interface: Interface | None = None


class RadiusServer(Model):
    """An element of jupyterhub_pam_radius_servers."""

    host: Annotated[
        str, fits(_is_radius_server, "a name or an address (IPv6 in brackets), with a port after a colon if need be")
    ]
    secret: Annotated[str, matches(r"[^\s#]\S*", "text without blanks that does not begin with #, and is not empty")]


def _whole(least: int, most: int) -> object:
    return Annotated[int, Field(ge=least, le=most)]


_HOST_OR_ADDRESS = Annotated[str, fits(lambda text: is_host(text) or is_address(text), "a host name, or an address")]

RANGES: dict[str, Any] = {
    "hpc_python": PlainPath,
    "python_env_python": PlainPath,
    "python_env_keep": _whole(1, 1000),
    "python_env_keep_days": _whole(0, 3660),
    "python_env_notify": tuple[Line, ...],
    "internal_tls_hub_host": HostName,
    "jupyterhub_proxy_server_name": _HOST_OR_ADDRESS,
    "jupyterhub_proxy_base_path": Annotated[
        str,
        matches(
            r"/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*",
            "a path of letters, digits and . _ ~ -, with a slash at both ends, such as /jupyter/",
        ),
    ],
    "jupyterhub_proxy_bind_address": Address,
    "jupyterhub_proxy_port": Port,
    "jupyterhub_proxy_tls_certificate": UnitPath,
    "jupyterhub_proxy_tls_private_key": UnitPath,
    "jupyterhub_proxy_hsts_days": _whole(0, 3660),
    "jupyterhub_spawner_log_directory": UsersOwn,
    "jupyterhub_pam_service": Annotated[
        str,
        matches(r"[a-z0-9][a-z0-9._-]*", "the name of a file in /etc/pam.d, in small letters, without its directory"),
    ],
    "jupyterhub_pam_state_directories": tuple[UnitPath, ...],
    "jupyterhub_pam_oath_users_file": Annotated[
        str,
        matches(
            rf"/[^{_NO_WORD}]*/[^/{_NO_WORD}]*\$\{{USER\}}[^/{_NO_WORD}]*",
            "a file for each user, such as /etc/oath/users/${USER}",
        ),
    ],
    "jupyterhub_pam_radius_servers": tuple[RadiusServer, ...],
    "jupyterhub_pam_radius_timeout_seconds": _whole(3, 60),
    "jupyterhub_pam_duo_config_file": UnitPath,
    "jupyterhub_ldap_ca_file": Annotated[str, matches(r"(/[^\x00-\x1f]+)?", "an absolute path, or leave it empty")],
    "jupyterhub_ldap_timeout_seconds": _whole(1, 600),
    "jupyterhub_ldap_lookup_password": Annotated[str, matches(r"[^\x00\r\n]*", "one line of text")],
    "singleuser_server_settings": dict[
        Annotated[str, matches(r"[A-Z][A-Za-z0-9_]*", "the name of a class, such as ServerApp")],
        dict[Annotated[str, matches(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a trait, such as port_retries")], Any],
    ],
    "singleuser_data_scale": _whole(0, 50),
    "singleuser_mpi_launcher": tuple[Line, ...],
    "dask_site_cores": Cores,
    "dask_site_memory_gib": Gibibytes,
    "dask_site_walltime_minutes": Minutes,
    "dask_site_max_jobs": _whole(0, 1_000_000),
    "dask_site_death_timeout_seconds": Seconds,
    "dask_site_idle_seconds": Seconds,
    "dask_site_scheduler_idle_minutes": Wait,
    "dask_site_allowed_failures": _whole(0, 1_000_000),
    "dask_site_queue_wait_minutes": Wait,
    "dask_site_local_directory": Scratch,
    "dask_site_log_directory": UsersOwn,
    "dask_site_interface": Interface,
    "dask_site_queues": tuple[DaskQueue, ...],
}
"""Variable -> what its value has to be, once it is of the right type."""
_ADAPTERS = {name: TypeAdapter[Any](kind) for name, kind in RANGES.items()}


def errors(name: str, value: object) -> list[ErrorDetails]:
    """What the range of a variable says to a value of its type; nothing where it has no range of its own."""
    if name not in _ADAPTERS:
        return []
    try:
        _ADAPTERS[name].validate_python(value)
    except ValidationError as error:
        return error.errors()
    return []
