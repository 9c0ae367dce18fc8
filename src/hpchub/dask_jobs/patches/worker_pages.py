"""Dask links to a worker's own page where that can be opened, and nowhere else.

Such a page listens on its node alone. The scheduler is on the Lab's node, and so is what the Lab's proxy leads to: to a
worker's page there, and, as Dask is shipped, for a worker of another node to whatever has the same port on the Lab's.
Put in place when Dask is imported: see hpchub.dask_jobs.patches.import_hook.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any


def change(scheduler: ModuleType) -> None:
    """Change distributed.scheduler: workers of other nodes have no page (each tells its own node: worker_loss)."""
    original: Callable[..., Awaitable[None]] = scheduler.Scheduler.add_worker

    @functools.wraps(original)
    async def add_worker(self: Any, comm: Any, *, services: Mapping[str, int], extra: Any, **what: Any) -> None:  # noqa: ANN401 - as upstream has it
        near = ((extra or {}).get("hpchub") or {}).get("node") == os.uname().nodename
        await original(self, comm, services=services if near else {}, extra=extra, **what)

    scheduler.Scheduler.add_worker = add_worker


def route(info: ModuleType) -> None:
    """Change distributed.http.scheduler.info: its links to Dask's proxy, which is off, lead to the worker's page."""
    from distributed.http.utils import RequestHandler
    from distributed.utils import format_dashboard_link

    class WorkerPage(RequestHandler):
        """proxy/PORT/HOST/status, below the scheduler's address."""

        def get(self, port: str) -> None:
            """Send the browser to the page of the worker that has this port; 404 if none has."""
            hosts = [one.host for one in self.server.workers.values() if str(one.services.get("dashboard")) == port]
            if hosts:
                self.redirect(format_dashboard_link(hosts[0], port))
            else:
                self.send_error(404)

    info.routes.append((r"proxy/(\d+)/[^/]+/status", WorkerPage, {}))
