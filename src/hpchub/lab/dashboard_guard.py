"""Changes Dask where its configuration cannot, when it is imported and not before.

Dashboards get OwnersServer; what is said of dead workers comes from hpchub.lab.deaths.

Loaded by hpchub_guards.pth, so that no configuration of a user's loses it by accident.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


def close(node: ModuleType) -> None:
    """Change the class of a freshly imported module. Raises ImportError where Dask is another, so that none is open."""
    from tornado.httpserver import HTTPServer

    from hpchub.lab.owner import OwnersServer

    if getattr(node, "HTTPServer", None) is not HTTPServer:
        raise ImportError("hpchub cannot close the dashboards of this release of Dask. Use the one that it came with.")
    vars(node)["HTTPServer"] = OwnersServer


def _tell(worker: ModuleType) -> None:
    from hpchub.lab import deaths

    deaths.tell(worker)


def _explain(scheduler: ModuleType) -> None:
    from hpchub.lab import deaths

    deaths.explain(scheduler)


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "distributed.node": close,  # where scheduler and worker have their HTTP server from
    "distributed.worker": _tell,
    "distributed.scheduler": _explain,
}


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        CHANGES[module.__name__](module)


class Finder:
    """Finds these modules where they always were, and leaves all others to the next finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the module as Python finds it, to be loaded by our loader."""
        found = PathFinder.find_spec(fullname, path, target) if fullname in CHANGES else None
        if found is not None and found.origin is not None:
            found.loader = _Loader(fullname, found.origin)
        return found


def install() -> None:
    """Look at imports from now on; does nothing where it is done."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


install()
