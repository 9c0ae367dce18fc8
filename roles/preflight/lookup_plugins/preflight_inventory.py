"""What preflight finds wrong with an inventory: hpchub.preflight, for Ansible.

A lookup, because a lookup sees variables as they are before any template is resolved.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.lookup import LookupBase
from ansible.template import Templar, trust_as_template

DOCUMENTATION = r"""
name: preflight_inventory
short_description: What is wrong with the variables of this play
description: [Judges all variables of the roles beside this one, and changes nothing.]
author: the hpchub contributors
options: {}
"""
EXAMPLES = r"""
- ansible.builtin.set_fact:
    found: "{{ lookup('preflight_inventory') }}"
"""
RETURN = r"""
_raw: {description: problems, and in asked all values with their defaults, without secrets., type: dict}
"""

Value = Any
"""What YAML can hold."""
ROLES = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROLES.parent / "src"))


def is_template(value: Value) -> bool:
    """Return whether any text in a value may be a template, which costs a compilation each."""
    if isinstance(value, dict):
        return any(is_template(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(map(is_template, value))
    return "{" in value if isinstance(value, str) else not isinstance(value, int | float | None)


class Engine:
    """Ansible's templates, for hpchub.preflight."""

    def __init__(self, templar: Templar | None = None) -> None:
        """With the templar of a play, or for a test."""
        self._templar, self._loader = templar or Templar(DataLoader(), variables={}), DataLoader()
        self._loaded: dict[Path, Mapping[str, Value]] = {}

    def load(self, path: Path) -> Mapping[str, Any]:
        """Return a vars file, its texts still templates."""
        if path not in self._loaded:
            self._loaded[path] = self._loader.load_from_file(str(path), trusted_as_template=True) or {}
        return self._loaded[path]

    def trusted(self, value: Value) -> Value:
        """Return a value of ours whose texts are templates."""
        if isinstance(value, dict):
            return {key: self.trusted(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.trusted(part) for part in value]
        return trust_as_template(value) if isinstance(value, str) else value

    def template(self, value: Value, variables: Mapping[str, Value]) -> Value:
        """Return a value with its templates resolved."""
        alone = re.fullmatch(r"\{\{ *(\w+) *\}\}", value) if isinstance(value, str) else None
        if alone and alone[1] in variables and not is_template(variables[alone[1]]):
            return variables[alone[1]]
        if self._templar.available_variables is not variables:
            self._templar = self._templar.copy_with_new_env(available_variables=variables)
        return self._templar.template(value) if is_template(value) else value


def places(variables: Mapping[str, Value]) -> dict[str, str]:
    """Return where each variable is set: as Ansible says, or as the files of the inventory do.

    Ansible keeps the origin of texts, numbers and lists, and none of true and false.
    """
    base = Path(str(variables.get("inventory_dir") or "."))
    found = {name: f"{relative(path, base)}, line {line}" for name, path, line in assignments(variables, base)}
    for name, value in variables.items():
        tag = origin(value)
        path = Path(tag.path) if tag and tag.path else None
        if path and ROLES not in path.parents:
            found[str(name)] = f"{relative(path, base)}, line {tag.line_num}"
        elif tag and "CLI option" in str(tag.description):
            found[str(name)] = "the command line"
    return found


def origin(value: Value) -> Value:
    """Return what Ansible knows of the file that a value comes from, None if nothing."""
    try:
        from ansible._internal._datatag._tags import Origin
    except ImportError:  # not public: another Ansible may keep it elsewhere, and then the files alone are asked
        return None
    return Origin.get_tag(value)


def assignments(variables: Mapping[str, Value], base: Path) -> Iterator[tuple[str, Path, int]]:
    """Yield each variable at the beginning of a line of the inventory's vars files, with file and line."""
    tops = [base, Path(str(variables.get("playbook_dir") or base))]
    files = (path for top in tops for kind in ("group_vars", "host_vars") for path in sorted(top.glob(f"{kind}/**/*")))
    for path in files:
        if path.suffix in (".yml", ".yaml", "") and path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if match := re.match(r"([A-Za-z_]\w*) *:", line):
                    yield match[1], path, number


def relative(path: Path, base: Path) -> str:
    """Return a file as a person names it who stands in the inventory."""
    return str(path.relative_to(base) if base in path.parents else path)


class LookupModule(LookupBase):
    """What Ansible loads."""

    def run(
        self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Value
    ) -> list[dict[str, Any]]:
        """Return problems and values, as the one element."""
        try:
            from hpchub.preflight import inventory
        except ModuleNotFoundError as error:
            raise AnsibleError(
                f"{sys.executable} has no module {error.name}. Run `make venv`, then .venv/bin/ansible-playbook."
            ) from error
        given = variables or {}
        found = inventory.judge(given, ROLES, Engine(self._templar), places(given))
        return [{"problems": found.problems, "asked": found.values}]
