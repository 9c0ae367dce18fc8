"""What a Lab imports to start: not what only the hub needs, and everything else as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpchub.lab import import_stubs

PROGRAM = """
import json, sys
from hpchub.lab import import_stubs
with import_stubs.imports():
    from hpchub.lab import server
loaded = list(sys.modules)
import jsonschema
from jupyterhub.scopes import _intersect_expanded_scopes
mine, asked = {"access:servers!user=alice", "users:activity!user=alice"}, {"access:servers!server=alice/", "shares"}
print(json.dumps({
    "loaded": loaded,
    "addresses": [jsonschema.FormatChecker().conforms(text, "iri") for text in ("https://münchen.example.org/", "<")],
    "scopes": list(_intersect_expanded_scopes(mine, asked)),
    "real": [hasattr(__import__(f"jupyterhub.{name}", fromlist="x"), thing)
             for name, thing in (("orm", "User"), ("handlers.pages", "HomeHandler"))],
}))
"""


@pytest.fixture(scope="module")
def lab() -> Any:
    """What a process sees that has imported the Lab as its start does."""
    environment = {**os.environ, "PYTHONPATH": str(Path(import_stubs.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_lab_starts_without_the_hubs_database_and_without_compiling_a_grammar(lab: Any) -> None:
    heavy = {"alembic", "jupyterhub.orm", "jupyterhub.handlers", "jupyterhub.handlers.pages", "lark", "rfc3987_syntax"}
    assert heavy.isdisjoint(lab["loaded"])


def test_addresses_and_scopes_are_checked_as_ever(lab: Any) -> None:
    assert lab["addresses"] == [True, False]
    assert lab["scopes"] == ["access:servers!server=alice/"]


def test_whoever_imports_the_left_out_modules_afterwards_gets_the_real_ones(lab: Any) -> None:
    assert lab["real"] == [True, True]
