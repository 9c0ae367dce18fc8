"""Puts OwnersServer under every dashboard of Dask.

Required: a Dask that it does not fit is not imported.
"""

from __future__ import annotations

from types import ModuleType

from tornado.httpserver import HTTPServer

from hpchub.dask_jobs.owner_only import OwnersServer


def change(node: ModuleType) -> None:
    """Change the server's class in `distributed.node`, where scheduler and worker have it from.

    Raises ImportError where Dask is another, so that none is open.
    """
    if getattr(node, "HTTPServer", None) is not HTTPServer:
        raise ImportError("hpchub cannot close the dashboards of this release of Dask. Use the one that it came with.")
    vars(node)["HTTPServer"] = OwnersServer
