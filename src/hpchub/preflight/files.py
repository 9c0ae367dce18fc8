"""What the hub's own files would hold, put through the models and the programs that read them.

The roles say in one mapping each what goes into a file. That mapping is filled here, on the controller, with the
inventory's values, and judged by the very code that reads the file on the login node. Which variable is behind a key is
read from the mapping too: it is the first that the key's text names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hpchub import settings
from hpchub.preflight import types
from hpchub.preflight.types import Value
from hpchub.privileged import jobs, login

Loc = tuple[int | str, ...]


class Engine(Protocol):
    """What Ansible does for us."""

    def load(self, path: Path) -> Mapping[str, Any]:
        """A vars file, its texts still templates."""

    def trusted(self, value: Value) -> Value:
        """A value of ours whose texts are templates."""

    def template(self, value: Value, variables: Mapping[str, Any]) -> Value:
        """A value with its templates resolved; raises whatever Ansible raises."""


@dataclass(frozen=True)
class Fault:
    """One value that a file cannot hold."""

    loc: Loc
    """Where in the file."""
    write: str
    """What to write, or, where `whole`, the sentence about several values."""
    whole: bool = False
    unknown: bool = False
    """A key that nobody knows."""


@dataclass(frozen=True)
class File:
    """A file of the hub's, the private variable that is its content, and who judges it."""

    name: str
    variable: str
    judge: Callable[[Value], Iterable[Fault]]


def _by_program(faults: Callable[[object], Mapping[str, str]]) -> Callable[[Value], Iterable[Fault]]:
    return lambda data: [Fault((key,), words) for key, words in faults(data).items()]


def _by_model(data: Value) -> Iterable[Fault]:
    try:
        settings.Site.model_validate(data)
    except ValidationError as error:
        return list(of_pydantic(settings.told(error.errors())))
    return []


def of_pydantic(errors: Iterable[ErrorDetails]) -> Iterator[Fault]:
    """A model's errors as faults."""
    for error in errors:
        whole = error["type"] == "value_error"
        words = error["msg"].removeprefix("Value error, ") if whole else settings.wanted(error)
        yield Fault(error["loc"], words, whole, error["type"] == "extra_forbidden")


FILES = (
    File("login.json", "__jupyterhub_login", _by_program(login.faults)),
    File("site.yml", "__jupyterhub_site", _by_model),
    File("jobs.json", "__jupyterhub_spawner_jobs", _by_program(jobs.faults)),
)


def roles_variables(roles: Path, family: str, engine: Engine) -> dict[str, Any]:
    """The private variables of all roles, for a family of distributions."""
    found: dict[str, Any] = {}
    for name in ("main", family):
        for path in sorted(roles.glob(f"*/vars/{name}.yml")):
            found |= engine.load(path)
    return found


def behind(node: Value, loc: Loc, private: Mapping[str, Any], known: Collection[str]) -> tuple[str, Loc]:
    """The inventory's variable behind a place in a mapping, and the rest of the place within its value.

    ("", ...) where the mapping itself has a constant there.
    """
    if isinstance(node, Mapping) and loc and loc[0] in node:
        return behind(node[loc[0]], loc[1:], private, known)
    if isinstance(node, list) and loc and isinstance(loc[0], int) and loc[0] < len(node):
        return behind(node[loc[0]], loc[1:], private, known)
    if isinstance(node, Mapping | list):
        names = (behind(part, (), private, known)[0] for part in (node.values() if isinstance(node, Mapping) else node))
        return next(filter(None, names), ""), ()
    for name in named(node):
        if name in known:
            return name, loc
        if name in private:
            found = behind(private[name], loc, private, known)
            if found[0]:
                return found
    return "", loc


def named(text: object) -> list[str]:
    """The words of a template that may be names of variables."""
    return re.findall(r"(?<![\w.'\"])[A-Za-z_]\w*(?![\w'\"(])", text) if isinstance(text, str) and "{{" in text else []


def mentioned(node: Value, private: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    """All names that a part of a mapping mentions, by way of private variables too."""
    if isinstance(node, Mapping):
        return set().union(*(mentioned(part, private, seen) for part in node.values()))
    if isinstance(node, list):
        return set().union(*(mentioned(part, private, seen) for part in node))
    names = set(named(node))
    for name in names & private.keys() - seen:
        names |= mentioned(private[name], private, seen | {name})
    return names


@dataclass
class Filling:
    """One mapping being filled with an inventory's values."""

    variables: Mapping[str, Any]
    private: Mapping[str, Any]
    left_out: Collection[str]
    """Variables that are wrong by themselves and have no default: what mentions one is left out."""
    engine: Engine
    omitted: dict[Loc, str]
    """What was left out, and why ("" if for such a variable)."""

    def fill(self, node: Value, loc: Loc = ()) -> Value:
        """The mapping, without what is left out."""
        if isinstance(node, Mapping):
            parts = {key: self._part(part, (*loc, key)) for key, part in node.items()}
            return {key: part for key, part in parts.items() if (*loc, key) not in self.omitted}
        if isinstance(node, list):
            listed = [self._part(self._opened(part), (*loc, number)) for number, part in enumerate(node)]
            return [part for number, part in enumerate(listed) if (*loc, number) not in self.omitted]
        return self._part(node, loc)

    def _part(self, node: Value, loc: Loc) -> Value:
        if isinstance(node, Mapping | list):
            return self.fill(node, loc)
        if not mentioned(node, self.private).isdisjoint(self.left_out):
            self.omitted[loc] = ""
            return None
        try:
            return types.plain(self.engine.template(node, self.variables))
        except Exception as error:
            self.omitted[loc] = types.one_line(error)
            return None

    def _opened(self, part: Value) -> Value:
        """A private mapping in the place of a text that consists of its name."""
        names = named(part)
        return self.private.get(names[0], part) if re.fullmatch(r"\{\{ *\w+ *\}\}", str(part)) and names else part


def overlap(one: Loc, other: Loc) -> bool:
    """Whether one place is the other, or lies in it."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]
