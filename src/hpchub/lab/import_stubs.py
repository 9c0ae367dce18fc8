"""Imports of the Lab without what it never uses: more than half of the seconds that a cold start takes.

By `python -X importtime`: jsonschema wants a checker of international addresses, whose import compiles a grammar;
JupyterHub's modules for log, metrics and tools want the hub's pages and its database, with SQLAlchemy and Alembic.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


class HealthCheckHandler:
    """A page of the hub. The log is silent about its requests; a Lab has none."""


def is_valid_syntax(term: str, text: str) -> bool:
    """As the real one, which is imported when it is asked for the first time."""
    import rfc3987_syntax  # type: ignore[import-untyped]  # upstream has no types

    return bool(rfc3987_syntax.is_valid_syntax(term, text))


STAND_INS: dict[str, tuple[type | Callable[..., object], ...]] = {
    "jupyterhub.handlers.pages": (HealthCheckHandler,),
    "jupyterhub.orm": (),
    "rfc3987_syntax": (is_valid_syntax,),
}
"""Modules, and what is imported from each."""


@contextmanager
def imports() -> Iterator[None]:
    """In this block the modules above need not be loaded; whoever imports one afterwards gets the real one."""
    added = {}
    for name, things in STAND_INS.items():
        if name not in sys.modules:
            added[name] = sys.modules[name] = ModuleType(name)
            vars(added[name]).update({thing.__name__: thing for thing in things})
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
