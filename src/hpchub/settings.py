"""What a site is: the models of /etc/hpchub/site.yml.

The file is written by Ansible from one mapping. Nothing here has a side effect; `load` is the only door. preflight puts
the same mapping through the same models on the controller, before anything changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path, PurePosixPath
from typing import Annotated, Self
from urllib.parse import urlparse, urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from hpchub.privileged import batch_systems

SITE_FILE = Path("/etc/hpchub/site.yml")

MAX_MINUTES = 366 * 24 * 60
MAX_CORES = 100_000
MAX_MEMORY_GIB = 1 << 20
"""What one job may be at most; hpchub.privileged.jobs refuses more."""
NOT_SHARED = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr")
"""Directories below / that are each host's own: no other node sees what is there."""
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def fits(check: Callable[[str], object], words: str) -> AfterValidator:
    """A check of a text, with the words for what it has to be. A ValueError of the check is a no."""

    def validate(value: str) -> str:
        try:
            good = check(value)
        except ValueError:
            good = False
        if not good:
            raise PydanticCustomError("unfit", "text should be {words}", {"words": words})
        return value

    return AfterValidator(validate)


def matches(pattern: str, words: str) -> AfterValidator:
    """A check that the whole of a text matches, with the words for that."""
    return fits(re.compile(pattern).fullmatch, words)


def is_address(text: str) -> bool:
    """Whether this is an address, of IPv4 or IPv6 without brackets."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether this is a host name, or an IPv4 address; a name whose last part is a number would be taken for one."""
    if re.fullmatch(r"[0-9.]+", text):
        return is_address(text)
    named = len(text) <= 253 and re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", text)
    return bool(named) and not text.rpartition(".")[2].isdigit()


def is_public_url(text: str) -> bool:
    """Whether a browser can be sent there and JupyterHub can live below; a ValueError is a no."""
    url = urlsplit(text)
    host = url.hostname or ""
    return bool(
        re.fullmatch(r"https://[^/\s@?#]*[^/\s@?#:]/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*", text)
        and (is_host(host) or is_address(host))
        and (url.port is None or url.port > 0)
    )


def is_shared_path(text: str) -> bool:
    """Whether this may be the directory that all nodes see: plain characters, and not in a place of each host's own."""
    parts = PurePosixPath(text).parts
    plain = re.fullmatch(r"(/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*)+", text)
    return bool(plain) and (parts[1] not in NOT_SHARED or parts[1:3] == ("usr", "local"))


def is_expression(text: str) -> bool:
    """Whether this is a regular expression of a length that people write."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return len(text) <= 200


AbsolutePath = Annotated[str, matches(r"/[^\x00-\x1f]*", "an absolute path")]
PlainPath = Annotated[
    str,
    matches(
        r"(/[A-Za-z0-9_.@+-]+)+|/", "an absolute path of letters, digits and _ . / @ + -, without a slash at its end"
    ),
]
SharedPath = Annotated[
    str,
    fits(
        is_shared_path,
        "an absolute path of letters, digits and _ . / @ + -, such as /opt/hpchub, that all nodes see: not below "
        + ", ".join(f"/{name}" for name in NOT_SHARED),
    ),
]
Name = Annotated[
    str,
    matches(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "letters, digits and _ . -, beginning with a letter or digit, at most 64"
    ),
]
ClusterName = Annotated[
    str,
    matches(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", "letters, digits and _ . -, beginning with a letter or digit, at most 32"
    ),
]
GroupName = Annotated[Name, fits(lambda name: name != "root", "a group of people, not root")]
HostName = Annotated[str, fits(is_host, "a host name, or an IPv4 address, without a port")]
Address = Annotated[str, fits(is_address, "an address, such as 0.0.0.0")]
Address4 = Annotated[str, fits(IPv4Address, "an IPv4 address, such as 0.0.0.0")]
PublicUrl = Annotated[
    str,
    fits(
        is_public_url,
        "https://, a host name and, if need be, a port and a path of letters, digits and . _ ~ -, such as"
        " https://hub.example.org/",
    ),
]
LdapUrl = Annotated[
    str,
    matches(
        r"(ldaps|ldap\+starttls)://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
        r"(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?",
        "ldaps://HOST or ldap+starttls://HOST, and a port if need be",
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
OwnPort = Annotated[int, Field(ge=1024, le=65535)]
"""A port that a service may listen on which is not root."""
Minutes = Annotated[int, Field(ge=1, le=MAX_MINUTES)]
Cores = Annotated[int, Field(ge=1, le=MAX_CORES)]
MemoryGib = Annotated[float, Field(gt=0, le=MAX_MEMORY_GIB)]
Text = Annotated[str, matches(r"[^\x00-\x08\x0b-\x1f\x7f]*", "text without control characters")]
Line = Annotated[str, matches(r"[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*", "one line of text, not empty")]


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

    public_url: PublicUrl = Field(description="what people type into the browser, with https:// and a slash at the end")
    bind_address: Address4 = Field(
        "0.0.0.0",  # noqa: S104 - jobs on every node report to the hub
        description="the address on which the hub listens for jobs and for the proxy",
    )
    connect_host: HostName = Field(description="the name by which compute nodes and the proxy reach the hub")
    port: OwnPort = Field(description="the port of the hub's API")
    state_directory: AbsolutePath = Field("/var/lib/hpchub", description="where the hub keeps its database")
    session_hours: Annotated[float, Field(gt=0, le=24 * 31)] = Field(
        12, description="how long a sign-in lasts, in hours"
    )
    token_hours: Annotated[float, Field(gt=0, le=24 * 366)] = Field(
        12, description="how long a token lasts at most that a user makes, in hours"
    )
    subdomains: bool = Field(
        False, description="whether each user's servers have a host name of their own, below that of public_url"
    )
    admins: tuple[Name, ...] = Field((), description="user names that see the admin page", strict=False)
    idle_stop_minutes: Annotated[int, Field(ge=0, le=MAX_MINUTES)] = Field(
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
    bind_dn: Annotated[
        str, matches(r"([^{}]*\{username\}[^{}]*)?", "a DN with {username} once, and no other braces")
    ] = Field("", description="where people's entries are, with {username} once; empty where they are searched for")
    search_base: Text = Field("", description="below which entry people are searched for; empty with bind_dn")
    search_attribute: Annotated[str, matches(r"[A-Za-z][A-Za-z0-9-]*", "letters, digits and -, such as uid")] = Field(
        "uid", description="the attribute that holds the user name"
    )
    lookup_dn: Text = Field("", description="the account that searches; empty means anonymously")
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
    label: Line = Field("Password", description="what the field for the secret is called on the login page")
    banner: Text = Field("", description="text above the login form; empty means none")
    consent: Text = Field("", description="what people agree to by a tick before they sign in; empty means nothing")
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
    description: Text = Field("", description="one line for the person who chooses")
    default: bool = Field(False, description="whether the form opens with this queue; at most one")
    max_walltime_minutes: Minutes | None = Field(
        None, description="a limit tighter than the scheduler's own, in minutes; null means none"
    )
    max_cores: Cores | None = Field(None, description="a limit tighter than the scheduler's own; null means none")
    max_memory_gib: MemoryGib | None = Field(
        None, description="a limit tighter than the scheduler's own, in GiB; null means none"
    )


class Projects(Model):
    """Where a user's projects stand, if the scheduler does not know them; at most one of these."""

    members: dict[Name, Annotated[tuple[Name, ...], Field(strict=False)]] = Field(
        {}, description="projects, each with its users"
    )
    group_pattern: Annotated[str, fits(is_expression, "a regular expression of at most 200 characters")] = Field(
        "", description="a regular expression for the groups that are projects; its first group, if any, is the name"
    )
    command: Annotated[tuple[Line, ...], Field(strict=False)] = Field(
        (), description="a program and its arguments; given a user's name, it prints one project a line"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(map(bool, (self.members, self.group_pattern, self.command))) > 1:
            raise ValueError("projects come from more than one source; keep one of members, group_pattern and command")
        if self.command and not self.command[0].startswith("/"):
            raise ValueError(f"the program {self.command[0]!r} must be an absolute path")
        return self


class Form(Model):
    """With what the form opens."""

    default_walltime_minutes: Minutes = Field(60, description="wall time in minutes")
    default_cores: Cores = Field(1, description="number of cores")
    default_memory_gib: MemoryGib = Field(4, description="memory in GiB")


class Cluster(Model):
    """One cluster: its batch system, and all that is asked of it. Whoever needs a part of it is given this object."""

    name: ClusterName = Field(description="the cluster's name, as people say it, without blanks")
    scheduler: BatchSystem = Field(description=" or ".join(batch_systems.NAMES))
    scheduler_prefix: PlainPath = Field("/usr/bin", description="the directory of the scheduler's commands")
    shared_prefix: SharedPath = Field(
        description="the directory that all nodes share; its etc/dask holds the cluster's Dask defaults"
    )
    support_contact: Line = Field(description="whom its users ask for help")
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

    support_contact: Line = Field(description="whom people ask for help")
    users_group: GroupName = Field(description="the group whose members may use the hub")
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
        raise SettingsError("\n".join(f"{path}: {_sentence(item)}" for item in told(error.errors()))) from error


def told(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors without what follows from another: pydantic calls a list too short whose only element is wrong."""

    def follows(error: ErrorDetails) -> bool:
        within = [other["loc"] for other in errors if other is not error]
        return error["type"] == "too_short" and any(loc[: len(error["loc"])] == error["loc"] for loc in within)

    return [error for error in errors if not follows(error)]


def wanted(error: ErrorDetails) -> str:
    """What has to be written in place of a wrong value, as words that follow `write`."""
    context, kind = error.get("ctx", {}), error["type"]
    ends = {
        "unfit": "{words}",
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than_equal": "at most {le}",
        "literal_error": "one of {expected}",
        "too_short": "at least {min_length}",
        "too_long": "at most {max_length}",
    }
    kinds = {
        "string_type": "text, in quotes if it looks like a number",
        "int_type": "a whole number, without quotes",
        "float_type": "a number, without quotes",
        "bool_type": "true or false, without quotes",
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
    }
    if kind in ends:
        whole = {key: int(end) if isinstance(end, float) and end.is_integer() else end for key, end in context.items()}
        return ends[kind].format(**whole)
    return kinds.get(kind) or error["msg"][0].lower() + error["msg"][1:]


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
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}; write {about}."


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
