"""Live connections of a Lab (kernels, terminals) end with the session of whoever opened them.

JupyterHub asks who somebody is when a connection opens, and never again.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

from jupyterhub.singleuser.extension import (  # type: ignore[import-untyped]  # upstream has no types
    JupyterHubIdentityProvider,
)
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler

CHECK_SECONDS = 30.0
POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1


class Visitors(JupyterHubIdentityProvider):  # type: ignore[misc]  # upstream has no types
    """Who visits, by the hub's word, as long as the hub says so."""

    _watching: asyncio.Task[None] | None = None

    def __init__(self, **kwargs: object) -> None:
        """Nobody is connected."""
        super().__init__(**kwargs)
        self._live: WeakSet[WebSocketHandler] = WeakSet()

    async def get_user(self, handler: Any) -> Any:  # noqa: ANN401 - upstream has no types
        """The visitor of a request, None if there is none; a live connection is remembered."""
        user = await super().get_user(handler)
        if user is not None and isinstance(handler, WebSocketHandler):
            self._live.add(handler)
            if self._watching is None or self._watching.done():
                self._watching = asyncio.ensure_future(self._watch())
        return user

    async def _watch(self) -> None:
        while self._live:
            await asyncio.sleep(CHECK_SECONDS)
            for handler in list(self._live):
                if handler.ws_connection is None:
                    self._live.discard(handler)
                elif not await self._welcome(handler):
                    handler.close(POLICY_VIOLATION, "Your session has ended. Please sign in again.")

    async def _welcome(self, handler: WebSocketHandler) -> bool:
        """Whether the hub still knows the visitor; a hub that does not answer ends nothing."""
        token, session = self.hub_auth.get_token(handler), self.hub_auth.get_session_id(handler)
        try:
            return await self.hub_auth.user_for_token(token, session_id=session, sync=False) is not None
        except HTTPError:
            return True
