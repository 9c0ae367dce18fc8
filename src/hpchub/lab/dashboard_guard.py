"""Puts OwnersServer under every dashboard of Dask, when Dask is imported and not before.

Loaded by hpchub_guards.pth, so that no configuration of a user's loses it by accident.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

MODULE = "distributed.node"  # where scheduler and worker have their HTTP server from


def close(node: ModuleType) -> None:
    """Change the class of a freshly imported module. Raises ImportError where Dask is another, so that none is open."""
    from tornado.httpserver import HTTPServer

    from hpchub.lab.owner import OwnersServer

    if getattr(node, "HTTPServer", None) is not HTTPServer:
        raise ImportError("hpchub cannot close the dashboards of this release of Dask. Use the one that it came with.")
    vars(node)["HTTPServer"] = OwnersServer


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        close(module)


class Finder:
    """Finds one module where it always was, and leaves all others to the next finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the module as Python finds it, to be loaded by our loader."""
        found = PathFinder.find_spec(fullname, path, target) if fullname == MODULE else None
        if found is not None and found.origin is not None:
            found.loader = _Loader(fullname, found.origin)
        return found


def install() -> None:
    """Look at imports from now on; does nothing where it is done."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


install()
