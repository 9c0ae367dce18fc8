"""JupyterHub as we run it: with certificates of this site, and with what looks after jobs that nobody waits for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jupyterhub import app, orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.httpclient import JupyterHubHTTPClient  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.user import User  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.utils import catch_db_error, make_ssl_context  # type: ignore[import-untyped]  # upstream has no types
from sqlalchemy.orm import Session
from traitlets import Unicode

from hpchub.hub import database, page_handlers, peers, port_callback
from hpchub.hub.dask_cleanup import cancel_dask_jobs, ended_tags, forget_ended
from hpchub.hub.orphans import Known, Reconciler, known_to
from hpchub.hub.runtime import Runtime, runtime

database.patient(User)

CONFIG_FILE = Path(__file__).with_name("jupyterhub_config.py")
ACTIVITY_SECONDS = 300.0
"""How often the proxy's word about activity is taken over; Labs report theirs as often."""

ROUTES = [*port_callback.ROUTES, *page_handlers.ROUTES]
"""Our own addresses, below the hub's. JupyterHub's option for such, extra_handlers, is deprecated."""


class JupyterHub(app.JupyterHub):  # type: ignore[misc]  # upstream has no types
    """JupyterHub and the reconcilers in one process, so that they share the watcher.

    In place of certificates that it would make for itself it takes those that the roles made.
    """

    db: Session
    handlers: list[tuple[Any, ...]]
    _reconciling: list[asyncio.Task[None]]
    _ending: asyncio.Task[None]
    _activity_due = 0.0
    tls_directory = Unicode(help="Where hub.key, hub.pem and trusted.pem are.").tag(config=True)

    def init_db(self) -> None:
        """As upstream, with a session that bears a database that cannot be written."""
        super().init_db()
        self.session_factory = database.factory(self.db.get_bind().engine)
        self.db.close()
        self.db = self.session_factory()

    def init_tornado_application(self) -> None:
        """As upstream, with an application that knows its peers."""
        self.tornado_application = peers.Application(self.handlers, **self.tornado_settings)

    def init_handlers(self) -> None:
        """As upstream, with our addresses first, and without batchspawner's.

        Its callback, which it adds to JupyterHub's own when it is imported, sets any attribute of a spawner from a
        job's message, commands included.
        """
        super().init_handlers()
        theirs = [one for one in self.handlers if one[1].__module__.partition(".")[0] != "batchspawner"]
        self.handlers = [*self.add_url_prefix(self.hub_prefix, list(ROUTES)), *theirs]

    def init_internal_ssl(self) -> None:
        """Take the hub's key and certificate, and trust our authorities alone."""
        # make_ssl_context adds the system's authorities to ours; here they shall vouch for nobody.
        os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
        directory = Path(self.tls_directory)
        self.internal_ssl = True
        self.internal_ssl_key = str(directory / "hub.key")
        self.internal_ssl_cert = str(directory / "hub.pem")
        self.internal_ssl_ca = str(directory / "trusted.pem")
        context = make_ssl_context(self.internal_ssl_key, self.internal_ssl_cert, self.internal_ssl_ca)
        if JupyterHubHTTPClient.initialized():
            JupyterHubHTTPClient.clear_instance()
        JupyterHubHTTPClient.instance(parent=self, _internal_connector_options={"ssl": context})

    @catch_db_error  # type: ignore[untyped-decorator]  # upstream has no types
    async def update_last_activity(self) -> None:
        """Give the proxy the routes that it lacks; from time to time take over what it knows of activity.

        Upstream asks the database about one server after the other each time, and nobody is served meanwhile.
        """
        routes = await self.proxy.get_all_routes()
        now = time.monotonic()
        if now >= self._activity_due:
            self._activity_due = now + ACTIVITY_SECONDS
            self._take_activity([route["data"] for route in routes.values()])
        await self.proxy.check_routes(self.users, self._service_map, routes)

    def _take_activity(self, routes: list[Mapping[str, Any]]) -> None:
        """Move the last activity of users and servers forward."""
        seen = {(data.get("user"), data.get("server_name")): data.get("last_activity") for data in routes}
        for user in self.users.values():
            for name, spawner in user.spawners.items():
                if (told := seen.get((user.name, name))) and spawner.orm_spawner:
                    when = datetime.fromisoformat(told).astimezone(UTC).replace(tzinfo=None)
                    for row in (user.orm_user, spawner.orm_spawner):
                        row.last_activity = max(row.last_activity or when, when)
        self.db.commit()

    @property
    def shared(self) -> Runtime:
        """What the hub shares with all spawners."""
        return runtime(self.config.HpcSpawner.site_file)

    async def start(self) -> None:
        """As upstream; then look for lost jobs for as long as the hub runs."""
        await super().start()
        reconcilers = [
            Reconciler(cluster, self.known_jobs)
            for cluster in self.shared.clusters
            if cluster.settings.jobs.orphan_minutes
        ]
        self._reconciling = [asyncio.ensure_future(reconciler.run()) for reconciler in reconcilers]
        self._ending = asyncio.ensure_future(self.end_dask_jobs())

    async def end_dask_jobs(self) -> None:
        """Go on with what the hub before this one had not done: end the Dask jobs of Labs that have ended."""
        with self.session_factory() as session:
            rows = [(row.id, row.user.name, row.state) for row in session.query(orm.Spawner).all() if row.user]
        for number, user, state in rows:
            for tag in ended_tags(state):
                await cancel_dask_jobs(self.shared.cluster, user, tag)
                row = self.db.get(orm.Spawner, number)
                if row is not None:
                    await database.until_written(self.db, partial(forget_ended, row, tag), f"{user}'s former job")

    def known_jobs(self) -> Known:
        """What the database says, read in a session of its own: what is not committed does not count."""
        with self.session_factory() as session:
            return known_to({row.id: row.state for row in session.query(orm.Spawner)})
