"""The one place that leans on batchspawner's and JupyterHub's insides.

Of batchspawner it keeps the base class alone; hub/app.py drops its callback. Of JupyterHub it sets the flags of a
pending start: JupyterHub has no word for a start that is taken up again, after a restart of the hub or after a job was
requeued, and shows its pending page, with progress and Stop button, for as long as these flags say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlparse

from batchspawner import BatchSpawnerBase  # type: ignore[import-untyped]  # upstream has no types

from hpchub.hub.refused import Refused

NO_TIMEOUT = 10 * 365 * 24 * 3600
"""For JupyterHub's start_timeout, in seconds, which would count the time in the queue: `FollowedJob` has its own."""


class ResumableSpawner(BatchSpawnerBase):  # type: ignore[misc]  # upstream has no types
    """A spawner whose start can be taken up again. A subclass says how in the three methods that raise here."""

    _spawn_pending: bool
    _spawn_future: asyncio.Future[str] | None

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as upstream
        """As JupyterHub makes it."""
        super().__init__(**kwargs)
        self.start_timeout = NO_TIMEOUT

    async def follow(self) -> str:
        """From a submitted job to an answering server; returns its URL, or raises Refused."""
        raise NotImplementedError

    async def url_if_ready(self) -> str | None:
        """The URL of the server if it answers now, else None."""
        raise NotImplementedError

    async def keep(self, change: Callable[[], None] = lambda: None) -> None:
        """Make a change and write the state."""
        raise NotImplementedError

    async def get_url(self) -> str:
        """After a restart of the hub: wait for the server as `start` would have done, however long the queue takes.

        Meanwhile JupyterHub sees a pending start, with its page, its progress and its Stop button.
        """
        self.server.proto = "https"  # JupyterHub 6.1.1 takes over host and port of what comes back, and misspells this
        if url := await self.url_if_ready():
            return f"{url}{self.server.base_url}"
        try:
            url = await self._pend(self.follow())
        except (Refused, asyncio.CancelledError) as error:
            self.log.error("%s did not come back: %s", self._log_name, error)
            self.http_timeout = 1  # JupyterHub now looks for the server in vain and cleans up
            return "http://127.0.0.1:1/"
        self._routing = asyncio.ensure_future(self._route())
        return f"{url}{self.server.base_url}"

    def _resume_after_requeue(self) -> None:
        """The job of a running server was requeued: wait for it as at the start, with a pending page meanwhile."""

        async def come_back() -> str:
            proxy = self.user.settings["proxy"]
            await proxy.delete_user(self.user, self.name)  # the hub shows the pending page
            url = await self.follow()

            def move() -> None:
                self.server.ip, self.server.port = urlparse(url).hostname, urlparse(url).port

            await self.keep(move)
            await proxy.add_user(self.user, self.name)
            return url

        self._pend(come_back())

    def _pend(self, following: Coroutine[Any, Any, str]) -> asyncio.Future[str]:
        """Let JupyterHub see a pending start until this is done; a failure stays, for the page that tells it."""

        def done(future: asyncio.Future[str]) -> None:
            self._spawn_pending = False
            if not future.cancelled() and future.exception() is None:
                self._spawn_future = None

        future = asyncio.ensure_future(following)
        self._spawn_pending, self._spawn_future = True, future
        future.add_done_callback(done)
        return future

    async def _route(self) -> None:
        """JupyterHub adds missing routes only when it has looked at all servers; nobody shall wait for the others."""
        for _ in range(600):
            if self.ready:
                await self.user.settings["proxy"].add_user(self.user, self.name)
                return
            await asyncio.sleep(0.1)


async def give_up_start(spawner: ResumableSpawner) -> None:
    """End a start that is pending; afterwards the server can be stopped."""
    if spawner._spawn_future:
        spawner._spawn_future.cancel()
        await asyncio.wait([spawner._spawn_future], timeout=1)
        await asyncio.sleep(0)  # JupyterHub clears its flags in callbacks of that future
