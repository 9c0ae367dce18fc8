"""Types of variables, as the roles' argument_specs say, and the names that are none of ours.

Stricter than Ansible, which takes `bob` for a list, 42 for a text and "4" for a number: what a role writes to a file is
the inventory's own value. Only a number or a switch that stands alone may be text, because the roles convert it, and
`-e name=value` knows nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Spec = Mapping[str, Any]
Value = Any
"""What YAML can hold."""

_KINDS = {
    "str": "text",
    "path": "a path",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "mappings": "a list of mappings",
}
_TRUE, _FALSE = ("yes", "on", "true", "1"), ("no", "off", "false", "0")
_HIDDEN = "something that is not shown here"
_OTHER_HEADS = {"hpchub": ("jupyterhub", "hpc"), "jhub": ("jupyterhub",), "dask": ("dask_site",)}
"""How else people begin the names of our variables."""
_OTHERS = ("jupyterlab", "ohpc", "php")
"""Beginnings that are near ours, and somebody else's."""


@cache
def specs_of(roles: Path) -> dict[str, Spec]:
    """Every role's options by variable name; of a name that several roles have, the first role's."""
    options: dict[str, Spec] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            for name, spec in entry["options"].items():
                options.setdefault(name, spec)
    return options


def prefixes_of(roles: Path) -> tuple[str, ...]:
    """With what all variables of the roles begin."""
    names = (path.parts[-3] for path in sorted(roles.glob("*/meta/argument_specs.yml")))
    return tuple(f"{'hpc' if name == 'preflight' else name}_" for name in names)


def unknown(
    given: Iterable[str], known: Collection[str], prefixes: tuple[str, ...], of_site: Collection[str]
) -> Iterable[str]:
    """Say which names are ours by their beginning, or nearly the name of one of ours, and are not known."""
    for name in given:
        if name in known:
            continue
        if name in of_site:
            yield f"{name} is set by site.yml itself. Remove it."
        elif name.startswith(prefixes):
            near = _within(name, known, max(prefix for prefix in prefixes if name.startswith(prefix)))
            yield f"Unknown variable '{name}'." + (f" Did you mean '{near}'?" if near else " Remove it.")
        elif meant := nearest(name, known):
            yield f"Unknown variable '{name}'. Did you mean '{meant}'?"


def _within(name: str, known: Collection[str], prefix: str) -> str:
    """The known name of the same beginning that somebody meant ("" if it looks like none)."""
    longer = [right for right in known if right.startswith(f"{name}")]
    rests = {right.removeprefix(prefix): right for right in known if right.startswith(prefix)}
    near = difflib.get_close_matches(name.removeprefix(prefix).lower(), rests, n=1, cutoff=0.75)
    return longer[0] if longer else rests[near[0]] if near else nearest(name, known)


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that somebody meant who wrote one with another beginning ("" if it looks like none).

    Nobody mistypes the first letter; names of other roles differ from ours in it, or by more than two letters.
    """
    bare = _bare(name)
    head, _, rest = name.lower().partition("_")
    for right in (f"{other}_{rest}" for other in _OTHER_HEADS.get(head, ()) if rest):
        if right in known:
            return right
    if head in _OTHERS:
        return ""
    allowed = 2 if len(bare) >= 12 else 1
    close = [
        (steps, right)
        for right in known
        if bare[:1] == right[:1] and (steps := distance(bare, _bare(right), allowed)) <= allowed
    ]
    return min(close)[1] if close else ""


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def distance(one: str, other: str, most: int) -> int:
    """Letters to put in, take out, change or exchange with their neighbour; more than `most` is told as `most` + 1."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, another in enumerate(other, 1):
            steps = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != another))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], another):
                steps = min(steps, above[j - 2] + 1)
            row.append(steps)
        if min(row) > most:
            return most + 1
    return row[-1]


def problems(name: str, spec: Spec, value: object) -> list[str]:
    """What is wrong with the type of a variable's value; None is a value that was left out."""
    if value is None:
        if spec.get("required"):
            return [f"{name} is not set. Write: {sentence(spec)}"]
        return [f"{name} is empty. Write: {sentence(spec)} Or remove the line."] if "default" in spec else []
    return _problems(name, spec, value, alone=True)


def _problems(label: str, spec: Spec, value: object, *, alone: bool = False) -> list[str]:
    if spec["type"] == "list" and spec.get("elements") == "dict" and isinstance(value, list):
        return [problem for element in value for problem in _element(label, spec, element)]
    if not _is(spec, value, alone=alone):
        kind = "mappings" if spec.get("elements") == "dict" else spec["type"]
        words = f"one of {', '.join(spec['choices'])}" if "choices" in spec else _KINDS[kind]
        return [f"{label} is {_shown(spec, value)}, and must be {words}: {sentence(spec)}"]
    parts = value if isinstance(value, list) else []
    element = {"type": spec.get("elements", "str"), "description": spec["description"]}
    return [p for number, part in enumerate(parts, 1) for p in _problems(f"{label}, element {number}", element, part)]


def _element(name: str, spec: Spec, element: object) -> list[str]:
    """Check one mapping of a list by itself, so that the message can say which."""
    if not isinstance(element, Mapping):
        return [f"{name} must be a list of mappings, and {_shown(spec, element)} is none."]
    options = spec["options"]
    first = next(iter(options))
    label = f"{name} '{element[first]}'" if first in element else f"{name}, an element without {first}"
    found = [f"{label}: unknown key '{key}'." + _meant(str(key), options) for key in element if key not in options]
    for key, option in options.items():
        if element.get(key) is not None:
            found += _problems(f"{label}: {key}", option, element[key])
        elif option.get("required"):
            found.append(f"{label}: {key} is not set. Write: {sentence(option)}")
        elif key in element:
            found.append(f"{label}: {key} is empty. Write: {sentence(option)} Or leave it out.")
    return found


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known are {', '.join(known)}."


def _is(spec: Spec, value: object, *, alone: bool) -> bool:
    kind = spec["type"]
    if "choices" in spec:
        return isinstance(value, str) and value in spec["choices"]
    if kind == "int":
        text = alone and isinstance(value, str) and bool(re.fullmatch(r"[+-]?[0-9]{1,18}", value))
        return text or (isinstance(value, int) and not isinstance(value, bool))
    if kind == "bool":
        text = alone and isinstance(value, str) and value.lower() in _TRUE + _FALSE
        return text or isinstance(value, bool)
    if kind in ("str", "path"):
        return isinstance(value, str)
    return isinstance(value, list if kind == "list" else Mapping)


def typed(spec: Spec, value: object) -> Value:
    """A value of the right type as what it means: a number that was text as a number."""
    if isinstance(value, str) and spec["type"] == "int":
        return int(value)
    if isinstance(value, str) and spec["type"] == "bool":
        return value.lower() in _TRUE
    return value


def is_secret(spec: Spec) -> bool:
    """Whether a variable, or a part of it, is one that no message may show."""
    return any(part.get("no_log") for part in (spec, *spec.get("options", {}).values()))


def _shown(spec: Spec, value: object) -> str:
    """A value as a message may show it, which a secret, or what should have held one, is not."""
    return _HIDDEN if is_secret(spec) else shown(value)


def shown(value: object) -> str:
    """A value in a message: on one line, and not without end."""
    text = repr(plain(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def plain(value: Value) -> Value:
    """A value without what Ansible attaches to it."""
    if isinstance(value, Mapping):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def one_line(error: BaseException) -> str:
    """An error's first line, without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def sentence(spec: Spec) -> str:
    """A variable's description as the rest of a sentence."""
    text = " ".join(str(spec["description"]).split())
    return text[0].lower() + text[1:]
