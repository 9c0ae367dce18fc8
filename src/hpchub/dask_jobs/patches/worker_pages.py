"""Dask links to a worker's own page where that can be opened, and nowhere else.

Such a page listens on its node alone. The scheduler is on the Lab's node, and so is what the Lab's proxy leads to: to a
worker's page there, and, as Dask is shipped, for a worker of another node to whatever has the same port on the Lab's.
So workers of other nodes have no page here (each tells its own node, see worker_loss), and a link to Dask's proxy,
which is off, leads to the worker's page. Both are put in place by scheduler_plugin.
"""

from __future__ import annotations

from typing import Any

from distributed.utils import format_dashboard_link
from tornado.web import RequestHandler


class WorkerPage(RequestHandler):
    """proxy/PORT/HOST/status, below the scheduler's address."""

    def initialize(self, scheduler: Any) -> None:  # noqa: ANN401 - a Scheduler
        """Serve the links of this scheduler's pages."""
        self._scheduler = scheduler

    def get(self, port: str) -> None:
        """Send the browser to the page of the worker that has this port; 404 if none has."""
        workers = self._scheduler.workers.values()
        hosts = [one.host for one in workers if str(one.services.get("dashboard")) == port]
        if hosts:
            self.redirect(format_dashboard_link(hosts[0], port))
        else:
            self.send_error(404)


def routes(scheduler: Any, prefix: str | None) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:  # noqa: ANN401 - a Scheduler
    """What a scheduler serves in addition, for Tornado; `prefix` is that of its other addresses."""
    top = f"/{prefix.strip('/')}" if prefix and prefix.strip("/") else ""
    return [(rf"{top}/proxy/(\d+)/[^/]+/status", WorkerPage, {"scheduler": scheduler})]
