"""What a site is: the models of /etc/hpchub/site.yml.

The file is written by Ansible from one mapping. Nothing here has a side effect; `load` is the only door.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlparse

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from hpchub.privileged import batch_systems

SITE_FILE = Path("/etc/hpchub/site.yml")

AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00\n]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
LdapUrl = Annotated[
    str, Field(pattern=r"^(ldaps|ldap\+starttls)://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$")
]
Port = Annotated[int, Field(ge=1, le=65535)]


def _known(name: str) -> str:
    """A batch system that hpchub knows; pydantic's own words for a choice if it does not."""
    if name not in batch_systems.NAMES:
        expected = " or ".join(f"'{one}'" for one in batch_systems.NAMES)
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


BatchSystem = Annotated[str, AfterValidator(_known)]


class SettingsError(Exception):
    """The site's file cannot be used; the text is what a person has to correct, one sentence a line."""


class Model(BaseModel):
    """Frozen, and strict about keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Hub(Model):
    """The hub's own service."""

    public_url: Annotated[str, Field(pattern=r"^https://[^/\s]+/(\S+/)?$")] = Field(
        description="what people type into the browser, with https:// and a slash at the end"
    )
    bind_address: str = Field(
        "0.0.0.0",  # noqa: S104 - jobs on every node report to the hub
        description="the address on which the hub listens for jobs and for the proxy",
    )
    connect_host: HostName = Field(description="the name by which compute nodes and the proxy reach the hub")
    port: Port = Field(description="the port of the hub's API")
    state_directory: AbsolutePath = Field("/var/lib/hpchub", description="where the hub keeps its database")
    session_hours: Annotated[float, Field(gt=0, le=24 * 31)] = Field(
        12, description="how long a sign-in lasts, in hours"
    )
    subdomains: bool = Field(
        False, description="whether each user's servers have a host name of their own, below that of public_url"
    )
    admins: tuple[Name, ...] = Field((), description="user names that see the admin page", strict=False)
    idle_stop_minutes: Annotated[int, Field(ge=0)] = Field(
        120, description="minutes after which an idle server is stopped; 0 means never"
    )
    check_node_address: bool = Field(
        True,
        description="whether a job may report its port only from an address of its own node; "
        "false where nodes have addresses that the hub's resolver does not know",
    )

    @property
    def api_url(self) -> str:
        """Where jobs and services reach the hub's API."""
        return f"https://{self.connect_host}:{self.port}{urlparse(self.public_url).path}hub/api"


class Proxy(Model):
    """The proxy in front of hub and servers."""

    api_socket: AbsolutePath = Field("/run/hpchub-proxy/api.sock", description="the Unix socket of the proxy's API")


class Ldap(Model):
    """The directory that verifies PIN and code."""

    servers: Annotated[tuple[LdapUrl, ...], Field(min_length=1, strict=False)] = Field(
        description="ldaps://HOST or ldap+starttls://HOST, with the name that its certificate has; PINs travel there"
    )
    ca_file: AbsolutePath = Field(description="the certificates of those who may vouch for a server, one PEM file")
    bind_dn: Annotated[str, Field(pattern=r"^([^{}]*\{username\}[^{}]*)?$")] = Field(
        "", description="where people's entries are, with {username} once; empty where they are searched for"
    )
    search_base: str = Field("", description="below which entry people are searched for; empty with bind_dn")
    search_attribute: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")] = Field(
        "uid", description="the attribute that holds the user name"
    )
    lookup_dn: str = Field("", description="the account that searches; empty means anonymously")
    allowed_groups: tuple[str, ...] = Field((), description="DNs of groups; members of any come in", strict=False)
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        5, description="how long a server may take for each answer, in seconds"
    )

    @model_validator(mode="after")
    def _one_way_to_an_entry(self) -> Self:
        if bool(self.bind_dn) == bool(self.search_base):
            raise ValueError("login.ldap: write either bind_dn or search_base, and not both")
        if self.lookup_dn and self.bind_dn:
            raise ValueError("login.ldap: lookup_dn searches below search_base, and bind_dn needs no search")
        return self


class Login(Model):
    """How people sign in."""

    socket: AbsolutePath = Field("/run/hpchub-login.sock", description="the socket of the login helper")
    label: str = Field("Password", description="what the field for the secret is called on the login page")
    banner: str = Field("", description="text above the login form; empty means none")
    consent: str = Field("", description="what people agree to by a tick before they sign in; empty means nothing")
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = Field(
        75, description="how long an answer of the login helper may take, in seconds"
    )
    ldap: Ldap | None = Field(None, description="the directory that verifies the secret; null means PAM")


class Jobs(Model):
    """How jobs are submitted and watched."""

    socket: AbsolutePath = Field("/run/hpchub-jobs.sock", description="the socket of the relay to the job program")
    poll_seconds: Annotated[float, Field(ge=5, le=300)] = Field(
        10, description="seconds between two questions to the scheduler"
    )
    start_timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        300, description="how long JupyterLab may take to answer, in seconds from the moment that its job runs"
    )
    orphan_minutes: Annotated[int, Field(ge=0, le=1440)] = Field(
        10, description="minutes after which a job of this hub that its database does not know is cancelled; 0 is never"
    )


class Queue(Model):
    """One queue (Slurm: partition) that people may choose."""

    name: Name = Field(description="the queue's name, as the scheduler knows it")
    description: str = Field("", description="one line for the person who chooses")
    default: bool = Field(False, description="whether the form opens with this queue; at most one")
    max_walltime_minutes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="a limit tighter than the scheduler's own, in minutes; null means none"
    )
    max_cores: Annotated[int, Field(ge=1)] | None = Field(
        None, description="a limit tighter than the scheduler's own; null means none"
    )
    max_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="a limit tighter than the scheduler's own, in GiB; null means none"
    )


class Projects(Model):
    """Where a user's projects stand, if the scheduler does not know them; at most one of these."""

    members: dict[Name, Annotated[tuple[Name, ...], Field(strict=False)]] = Field(
        {}, description="projects, each with its users"
    )
    group_pattern: Annotated[str, Field(max_length=200)] = Field(
        "", description="a regular expression for the groups that are projects; its first group, if any, is the name"
    )
    command: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="a program and its arguments; given a user's name, it prints one project a line"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(map(bool, (self.members, self.group_pattern, self.command))) > 1:
            raise ValueError("projects come from more than one source; keep one of members, group_pattern and command")
        if self.command and not self.command[0].startswith("/"):
            raise ValueError(f"the program {self.command[0]!r} must be an absolute path")
        try:
            re.compile(self.group_pattern)
        except re.error as error:
            raise ValueError(f"{self.group_pattern!r} is not a regular expression ({error})") from error
        return self


class Form(Model):
    """With what the form opens."""

    default_walltime_minutes: Annotated[int, Field(ge=1)] = Field(60, description="wall time in minutes")
    default_cores: Annotated[int, Field(ge=1)] = Field(1, description="number of cores")
    default_memory_gib: Annotated[float, Field(gt=0)] = Field(4, description="memory in GiB")


class Cluster(Model):
    """One cluster: its batch system, and all that is asked of it. Whoever needs a part of it is given this object."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")] = Field(
        description="the cluster's name, as people say it, without blanks"
    )
    scheduler: BatchSystem = Field(description=" or ".join(batch_systems.NAMES))
    scheduler_prefix: AbsolutePath = Field("/usr/bin", description="the directory of the scheduler's commands")
    shared_prefix: AbsolutePath = Field(
        description="the directory that all nodes share; its etc/dask holds the cluster's Dask defaults"
    )
    support_contact: Annotated[str, Field(min_length=1)] = Field(description="whom its users ask for help")
    jobs: Jobs = Field(Jobs(), description="how jobs are submitted and watched")
    queues: Annotated[tuple[Queue, ...], Field(min_length=1, strict=False)] = Field(
        description="the queues that people may choose, at least one"
    )
    projects: Projects = Field(Projects(), description="where a user's projects stand")
    form: Form = Field(Form(), description="with what the form opens")

    @model_validator(mode="after")
    def _queues_agree(self) -> Self:
        names = [queue.name for queue in self.queues]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"the queue {doubled[0]!r} stands in the list twice; keep one of them")
        if sum(queue.default for queue in self.queues) > 1:
            raise ValueError("more than one queue has default: true; keep one of them")
        return self

    @property
    def default_queue(self) -> Queue:
        """The queue with which the form opens."""
        return next((queue for queue in self.queues if queue.default), self.queues[0])


class Site(Model):
    """All of /etc/hpchub/site.yml."""

    support_contact: Annotated[str, Field(min_length=1)] = Field(description="whom people ask for help")
    users_group: Name = Field(description="the group whose members may use the hub")
    hub: Hub = Field(description="the hub's own service")
    proxy: Proxy = Field(Proxy(), description="the proxy")
    login: Login = Field(Login(), description="how people sign in")
    clusters: Annotated[tuple[Cluster, ...], Field(min_length=1, max_length=1, strict=False)] = Field(
        description="the clusters that people may use: today exactly one"
    )

    @property
    def cluster(self) -> Cluster:
        """The one cluster that a site has today."""
        return self.clusters[0]


def load(path: str | Path = SITE_FILE) -> Site:
    """Read and check a site's file; raises SettingsError with one sentence a line."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must be a mapping with the keys {', '.join(Site.model_fields)}.")
    try:
        return Site.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_sentence(item)}" for item in _told(error.errors()))) from error


def _told(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors without what follows from another: pydantic calls a list too short whose only element is wrong."""

    def follows(error: ErrorDetails) -> bool:
        within = [other["loc"] for other in errors if other is not error]
        return error["type"] == "too_short" and any(loc[: len(error["loc"])] == error["loc"] for loc in within)

    return [error for error in errors if not follows(error)]


def _sentence(error: ErrorDetails) -> str:
    """One pydantic error as `key: what is wrong; what to write.`"""
    loc = error["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    about = _description(loc)
    if error["type"] == "extra_forbidden":
        known = _model_at(loc[:-1])
        return f"{key}: is not a known key; write one of {', '.join(known.model_fields)}."
    if error["type"] == "missing":
        return f"{key}: is missing; write {about}."
    if error["type"] == "value_error":
        return f"{error['msg'].removeprefix('Value error, ')}."
    return f"{key}: {error['msg'].lower()}, not {error['input']!r}; write {about}."


def _description(loc: tuple[int | str, ...]) -> str:
    """The description of the field at a pydantic location."""
    names = [part for part in loc if isinstance(part, str)]
    field = _model_at(tuple(names[:-1])).model_fields.get(names[-1]) if names else None
    return (field.description if field else None) or "a valid value"


def _model_at(loc: tuple[int | str, ...]) -> type[Model]:
    """The model at a pydantic location; the nearest one above, if the location is not a model."""
    children: dict[str, type[Model]] = {
        "hub": Hub, "proxy": Proxy, "login": Login, "ldap": Ldap, "clusters": Cluster, "jobs": Jobs, "queues": Queue,
        "projects": Projects, "form": Form,
    }  # fmt: skip
    return next((children[part] for part in reversed(loc) if isinstance(part, str) and part in children), Site)
