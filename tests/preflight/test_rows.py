"""Changed inventories: each is refused by sentences, or its files are read by the programs behind them."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpchub.preflight import files, inventory, ranges, types
from hpchub.preflight.files import Engine

ROOT = Path(__file__).resolve().parents[2]
ROWS = yaml.safe_load((Path(__file__).parent / "rows.yml").read_text())
OURS = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_of_site"]
SPECS = {name: spec for name, spec in types.specs_of(ROOT / "roles").items() if name not in OURS}

Written = Callable[[Mapping[str, Any]], dict[str, Any]]
Outcomes = Counter[tuple[str, str]]

BROKEN = ["{{ nosuch }}", "{{ broken", "{% if %}", "{{ 1 | nosuchfilter }}"]
WRONG: dict[str, list[object]] = {
    "int": ["", "four", "1e3", 1.5, -1, 10**12, True, [1], {"a": 1}],
    "bool": ["maybe", "", 2, [True]],
    "str": [42, True, 1.5, ["a"], {"a": "b"}],
    "path": [42, ["/a"], "no/absolute", "/a\nb"],
    "list": ["bob", 42, {"a": "b"}, [[1]], [None]],
    "dict": ["a", 42, ["a"]],
}
"""For each type, what no variable of it may have."""


def judged(engine: Engine, example: Mapping[str, Any], change: Mapping[str, Any]) -> inventory.Judgement:
    return inventory.judge({**example, **engine.trusted(change)}, ROOT / "roles", engine)


def is_kind(problems: list[str]) -> bool:
    """Whether a person can act on this: sentences, and nothing of a program's insides."""
    insides = re.compile(r"Traceback|invalid literal|NoneType|object has no|pydantic|\bloc\b|<class|KeyError|type=")
    return all(text[-1] in ".?" and "\n" not in text and not insides.search(text) for text in problems)


@pytest.mark.parametrize("group", ROWS)
def test_what_preflight_refuses_and_what_it_takes(
    group: str, engine: Engine, example: dict[str, Any], written: Written, outcomes: Outcomes
) -> None:
    wrong = []
    for wanted, rows in ROWS[group].items():
        for change in rows:
            found = judged(engine, example, change)
            end = "refused" if found.problems else "accepted"
            if found.problems:
                named = any(name in text for name in (*change, *SPECS) for text in found.problems)
                kind = "refused by a sentence" if named and is_kind(found.problems) else "refused badly"
            else:
                try:
                    site = written({**example, **engine.trusted(change)})
                    kind = "taken and right" if site == found.files["site.yml"] else "taken, another file"
                except Exception as error:
                    kind = f"taken and broken: {type(error).__name__}"
                    wrong.append((change, str(error)))
            outcomes[group, kind.partition(":")[0]] += 1
            if end != wanted or kind not in ("refused by a sentence", "taken and right"):
                wrong.append((wanted, kind, change, found.problems))
    assert wrong == []


@pytest.mark.parametrize("kind", WRONG)
def test_no_variable_takes_what_is_of_another_type(
    kind: str, engine: Engine, example: dict[str, Any], outcomes: Outcomes
) -> None:
    wrong = []
    for name, spec in SPECS.items():
        if spec["type"] != kind:
            continue
        values = [*WRONG[kind], *BROKEN]
        value = values[sorted(SPECS).index(name) % len(values)]
        found = judged(engine, example, {name: value})
        told = [text for text in found.problems if text.startswith((f"{name} ", f"{name}:", f"{name},"))]
        good = bool(told) and is_kind(found.problems)
        outcomes[f"by rule: {kind}", "refused by a sentence" if good else "refused badly"] += 1
        if not good:
            wrong.append((name, value, found.problems))
    assert wrong == []


def test_every_variable_is_in_a_file_that_is_judged_or_has_a_range(engine: Engine) -> None:
    private = files.roles_variables(ROOT / "roles", "Debian", engine)
    in_files = set().union(*(files.mentioned(private[file.variable], private) for file in files.FILES))
    chosen = {name for name, spec in SPECS.items() if spec["type"] == "bool" or "choices" in spec}
    free = {"jupyterhub_pam_accept_single_factor", "jupyterhub_proxy_subdomains"}

    assert SPECS.keys() - in_files - ranges.RANGES.keys() - chosen - free == set()
    assert ranges.RANGES.keys() <= SPECS.keys()


def test_each_key_of_a_file_leads_to_the_variable_that_sets_it(engine: Engine) -> None:
    private = files.roles_variables(ROOT / "roles", "Debian", engine)

    def behind(variable: str, *loc: int | str) -> tuple[str, files.Loc]:
        return files.behind(private[variable], loc, private, SPECS)

    assert behind("__jupyterhub_site", "hub", "public_url") == ("jupyterhub_url", ())
    assert behind("__jupyterhub_site", "login", "ldap", "servers", 1) == ("jupyterhub_ldap_servers", (1,))
    assert behind("__jupyterhub_site", "clusters", 0, "queues", 2, "name") == ("hpc_queues", (2, "name"))
    assert behind("__jupyterhub_site", "clusters", 0, "name") == ("hpc_cluster_name", ())
    assert behind("__jupyterhub_site", "clusters", 0, "jobs", "poll_seconds") == ("jupyterhub_poll_seconds", ())
    assert behind("__jupyterhub_site", "hub", "state_directory") == ("", ())
    assert behind("__jupyterhub_login", "service") == ("jupyterhub_pam_service", ())
    assert behind("__jupyterhub_spawner_jobs", "lab") == ("hpc_shared_prefix", ())


def test_no_secret_is_in_what_is_kept_or_told(engine: Engine, example: dict[str, Any]) -> None:
    change = {
        "jupyterhub_pam_stack": "radius",
        "jupyterhub_pam_radius_servers": [
            {"host": "ctl", "secret": "not to be shown"},
            {"host": 7, "secret": ["not-7"]},
        ],
        "jupyterhub_ldap_lookup_password": "not-to-be-seen",
    }
    found = judged(engine, example, change)

    assert found.problems
    assert re.findall(r"not[- ](?:to|7)", f"{found}") == []


def test_there_are_enough_rows() -> None:
    assert sum(len(rows) for group in ROWS.values() for rows in group.values()) >= 309
