"""Whatever preflight takes, the programs take that read what comes of it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hpchub.preflight import inventory, types
from hpchub.preflight.files import Engine

ROOT = Path(__file__).resolve().parents[2]
OURS = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_of_site"]
SPECS = {name: spec for name, spec in types.specs_of(ROOT / "roles").items() if name not in OURS}
CASES = 3000 if os.environ.get("HPCHUB_SOAK") else 40

Values = st.SearchStrategy[Any]
PLAIN = st.text("abcxyz0189_.-/ {}:@%$#\n\"'é", max_size=12)
KNOWN = st.sampled_from(
    ["/opt/x", "/scratch/{user}/logs", "{home}/logs", "login2", "10.0.0.5", "https://hub.example.org/", "interactive",
     "regular", "alice", "^[a-z]+$", "ldaps://ldap1.example.org", "uid={username},dc=x", "ib0", "centre", "$TMPDIR/x",
     "/etc/oath/users/${USER}", "ou=people,dc=example,dc=org"]
)  # fmt: skip
NUMBERS = st.integers(-2, 70) | st.sampled_from([0, 1, 443, 1023, 1024, 8443, 65535, 65536, 10**6, 10**12, -(10**12)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, width=16) | PLAIN | KNOWN,
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(PLAIN, parts, max_size=2),
    max_leaves=4,
)


def of(spec: types.Spec) -> Values:
    """Values that are often right, for an option of argument_specs."""
    kind = spec["type"]
    if "choices" in spec:
        return st.sampled_from(spec["choices"])
    if spec.get("elements") == "dict":
        required = {name: of(option) for name, option in spec["options"].items() if option.get("required")}
        others = {name: of(option) for name, option in spec["options"].items() if not option.get("required")}
        return st.lists(st.fixed_dictionaries(required, optional=others), max_size=3)
    if kind == "list":
        return st.lists(KNOWN | PLAIN, max_size=3)
    if kind == "dict":
        return st.dictionaries(KNOWN | PLAIN, st.lists(KNOWN, max_size=2) | st.dictionaries(PLAIN, NUMBERS, max_size=2))
    return {"int": NUMBERS | NUMBERS.map(str), "bool": st.booleans() | st.sampled_from(["yes", "off", "1"])}.get(
        kind, KNOWN | PLAIN
    )


ROWS = yaml.safe_load((Path(__file__).parent / "rows.yml").read_text())
TAKEN = [row for group in ROWS.values() for row in group["accepted"] if "{{" not in str(row)]


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Two rows that are taken, each alone, or one and a variable with a value of any kind, most of the right type."""
    change: dict[str, Any] = dict(draw(st.sampled_from(TAKEN)))
    if draw(st.booleans()):
        return change | draw(st.sampled_from(TAKEN))
    name = draw(st.sampled_from(sorted(SPECS)))
    return change | {name: draw(ANYTHING if draw(st.integers(0, 5)) == 0 else of(SPECS[name]))}


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(change=changes())
def test_what_preflight_takes_every_reader_takes(
    change: dict[str, Any],
    engine: Engine,
    example: dict[str, Any],
    written: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    found = inventory.judge({**example, **change}, ROOT / "roles", engine)

    event("refused" if found.problems else "taken")
    for problem in found.problems:
        assert problem[-1] in ".?"
        assert "\n" not in problem
    if not found.problems:
        assert written({**example, **change}) == found.files["site.yml"]
