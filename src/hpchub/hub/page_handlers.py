"""The pages' own addresses: style and script, and a Cancel button that needs no JavaScript."""

from __future__ import annotations

from jupyterhub.handlers import BaseHandler  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.handlers.static import CacheControlStaticFilesHandler  # type: ignore[import-untyped]  # same
from jupyterhub.scopes import needs_scope  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.utils import url_path_join  # type: ignore[import-untyped]  # upstream has no types
from tornado import web

from hpchub.hub.resumable import give_up_start
from hpchub.hub.spawn_page.context import STATIC


class CancelHandler(BaseHandler):  # type: ignore[misc]  # upstream has no types
    """POST /hub/hpchub/cancel/USER/SERVER: give up a start, or stop a server, as the REST API's DELETE does."""

    @web.authenticated
    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]  # upstream has no types
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Back to the home page when it is under way."""
        user = self.find_user(user_name)
        spawner = user.spawners.get(server_name) if user is not None else None
        if spawner is None:
            raise web.HTTPError(404)
        if spawner.pending == "spawn":
            await give_up_start(spawner)
            await self.stop_single_user(user, server_name)
        elif spawner.ready:
            await self.stop_single_user(user, server_name)
        self.redirect(url_path_join(self.hub.base_url, "home"))


ROUTES = [
    (r"/hpchub/cancel/([^/]+)", CancelHandler),
    (r"/hpchub/cancel/([^/]+)/([^/]+)", CancelHandler),
    (r"/hpchub/static/(.*)", CacheControlStaticFilesHandler, {"path": str(STATIC)}),
]
