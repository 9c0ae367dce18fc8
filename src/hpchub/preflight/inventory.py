"""The whole of an inventory, judged at once: names, templates, types, what belongs together, ranges, and the files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpchub.preflight import files, ranges, rules, types

SYSTEMS_OWN = ("ansible_", "__")
"""How names begin that no inventory means for us: Ansible's own, and private ones of the roles."""


@dataclass(frozen=True)
class Judgement:
    """What is wrong, and what is asked for."""

    problems: list[str]
    values: dict[str, Any]
    """All variables of the roles with their defaults, of the right type, without secrets; None is not set."""
    files: dict[str, Any]
    """What the hub's own files will hold, by name; only what could be filled."""


def judge(
    raw: Mapping[str, Any], roles: Path, engine: files.Engine, places: Mapping[str, str] | None = None
) -> Judgement:
    """Judge the variables of a play before anything is templated; nothing of a host is asked.

    `places` says in which file and line a variable is set, where that is known.
    """
    specs = types.specs_of(roles)
    ours = engine.load(roles / "preflight/vars/main.yml")
    asked = {name: spec for name, spec in specs.items() if name not in ours["__preflight_of_site"]}
    private = files.roles_variables(roles, _family(raw, ours), engine)
    names = [str(name) for name in raw if not str(name).startswith(SYSTEMS_OWN)]
    found = list(types.unknown(names, asked, types.prefixes_of(roles), ours["__preflight_of_site"]))
    defaults = {name: engine.trusted(spec["default"]) for name, spec in asked.items() if "default" in spec}
    given = {name for name in asked if name in raw and not _same(raw[name], defaults.get(name, _NOTHING))}
    variables = {**defaults, **raw, **private}

    values: dict[str, Any] = {}
    unfit: set[str] = set()
    # What is wrong with a default follows from a value that is wrong, and is told only where none is.
    follows: list[str] = []
    for name, spec in asked.items():
        told = found if name in given else follows
        try:
            value = types.plain(engine.template(variables[name], variables)) if name in variables else None
        except Exception as error:
            unfit.add(name)
            told.append(f"{name} cannot be worked out: {types.one_line(error)}.")
            continue
        wrong = types.problems(name, spec, value)
        (found if "required" in spec else told).extend(wrong)
        unfit |= {name} if wrong else set()
        values[name] = value if wrong else types.typed(spec, value)

    found += rules.problems(rules.Given(values, unfit))
    for name in (name for name in values if name not in unfit and values[name] is not None):
        told = found if name in given else follows
        faults = files.of_pydantic(ranges.errors(name, values[name]))
        told += [sentence for fault in faults if (sentence := _sentence(name, fault.loc, fault, values, asked, ()))]
    contents = {}
    fills = {**variables, **{name: defaults[name] for name in unfit if name in defaults}}
    for file in files.FILES:
        filling = files.Filling(fills, private, unfit - defaults.keys(), engine, {})
        contents[file.name] = filling.fill(private[file.variable])
        follows += [
            f"{file.name}: {loc[-1]} cannot be worked out: {why}." for loc, why in filling.omitted.items() if why
        ]
        for fault in file.judge(contents[file.name]):
            name, rest = files.behind(private[file.variable], fault.loc, private, asked)
            if name in unfit or any(files.overlap(fault.loc, loc) for loc in filling.omitted):
                continue
            sentence = _sentence(name, rest, fault, values, asked, found) if name else _of_ours(file, fault)
            found += [sentence] if sentence else []
    problems = [_placed(problem, places or {}) for problem in found or follows]
    public = {name: _public(asked[name], value) for name, value in values.items() if name not in unfit}
    return Judgement(problems, {name: value for name, value in public.items() if value is not _NOTHING}, contents)


_NOTHING = object()


def _family(raw: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The family of distributions of the login node; Debian where it is not known, or none that is supported."""
    facts = raw.get("ansible_facts")
    family = str(facts.get("os_family", "")) if isinstance(facts, Mapping) else ""
    return family if family in ours["__preflight_systems"] else "Debian"


def _same(value: object, default: object) -> bool:
    """Whether this is a role's default, which a play shows beside what the inventory sets."""
    one, other = types.plain(value), types.plain(default)
    return type(one) is type(other) and bool(one == other)


def _sentence(
    name: str, loc: files.Loc, fault: files.Fault, values: Mapping[str, Any], asked: Mapping[str, types.Spec],
    found: Sequence[str],
) -> str:  # fmt: skip
    """One fault in the words of the inventory; "" if it is told already."""
    spec: Mapping[str, Any] = asked[name]
    if fault.whole:
        return "" if any(name in problem for problem in found) else f"{name}: {fault.write}."
    label, value, secret = name, values[name], bool(spec.get("no_log"))
    for part in loc:
        if isinstance(part, int) and isinstance(value, list) and part < len(value):
            value = value[part]
            first = next(iter(spec.get("options", {"": None})))
            named = isinstance(value, Mapping) and first in value
            label += f" '{value[first]}'" if named else f", element {part + 1}"
        elif part == "[key]":
            value = loc[-2]
        elif isinstance(value, Mapping):
            value, spec = value.get(part), spec.get("options", {}).get(part, {})
            label, secret = f"{label}: {part}", secret or bool(spec.get("no_log"))
    told = any(
        problem.startswith((f"{label} is ", f"{label} cannot", f"{label}:"))
        or (bool(loc) and problem.startswith(name) and isinstance(value, str) and len(value) > 3 and value in problem)
        for problem in found
    )
    if told or (not loc and isinstance(value, list | Mapping) and any(problem.startswith(name) for problem in found)):
        return ""
    remedy = f"Write {fault.write}" + (
        ", or leave it out." if not spec.get("required") and "default" not in spec else "."
    )
    return f"{label} cannot be used. {remedy}" if secret else f"{label} is {_shown(value)}. {remedy}"


def _shown(value: object) -> str:
    """A value in a sentence: text without quotes where it can be read so."""
    text = str(value)
    if isinstance(value, str) and text and text.isprintable() and text == text.strip() and len(text) <= 200:
        return text
    return "empty" if value in ("", [], {}) else types.shown(value)


def _of_ours(file: files.File, fault: files.Fault) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.loc).lstrip(".")
    return (
        f"{file.name} would have a wrong {key}: write {fault.write}. No variable sets it, so this is a fault of hpchub."
    )


def _placed(problem: str, places: Mapping[str, str]) -> str:
    """A problem after the file and line in which the first variable that it names is set."""
    names = (name for name in re.findall(r"[A-Za-z_]\w*", problem) if name in places)
    place = places.get(next(names, ""))
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in problem)
    return f"{place}: {line}" if place else line


def _public(spec: types.Spec, value: types.Value) -> types.Value:
    """A value without what is secret in it."""
    if spec.get("no_log"):
        return _NOTHING
    hidden = {key for key, option in spec.get("options", {}).items() if option.get("no_log")}
    if hidden and isinstance(value, list):
        return [{key: part for key, part in element.items() if key not in hidden} for element in value]
    return value
