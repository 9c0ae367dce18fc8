"""Live connections of a Lab end with the session of whoever opened them."""

import asyncio
from typing import Any

import pytest
from jupyterhub.singleuser.extension import JupyterHubIdentityProvider
from tornado.httputil import HTTPConnection, HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from hpchub.lab import identity
from hpchub.lab.identity import Visitors


class Hub:
    """What the hub says about a visitor: somebody, nobody, or nothing because it does not answer."""

    def __init__(self) -> None:
        self.knows: dict[str, str] | None = {"name": "alice"}
        self.answers = True

    def get_token(self, handler: object) -> str:
        return "token"

    def get_session_id(self, handler: object) -> str:
        return "session"

    async def user_for_token(self, token: str, session_id: str, sync: bool) -> dict[str, str] | None:
        if not self.answers:
            raise HTTPError(503)
        return self.knows


class Socket(WebSocketHandler):
    """A kernel's or terminal's connection."""

    def __init__(self) -> None:
        request = HTTPServerRequest("GET", "/", connection=Connection())
        super().__init__(Application(), request)
        self.ws_connection = object()  # type: ignore[assignment]  # open, as far as Visitors looks
        self.closed: list[tuple[int | None, str | None]] = []

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.closed.append((code, reason))
        self.ws_connection = None


class Connection(HTTPConnection):
    """As little as a handler needs."""

    def set_close_callback(self, callback: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    async def known(self: object, handler: RequestHandler) -> object:
        return "alice"

    monkeypatch.setattr(JupyterHubIdentityProvider, "get_user", known)
    monkeypatch.setattr(identity, "CHECK_SECONDS", 0.01)
    return Hub()


@pytest.fixture
async def connected(hub: Hub) -> tuple[Any, Socket]:
    provider = Visitors()
    provider.__dict__["_trait_values"]["hub_auth"] = hub
    socket = Socket()
    assert await provider.get_user(socket) == "alice"
    return provider, socket


async def test_a_connection_lives_as_long_as_the_hub_knows_its_visitor(connected: tuple[Any, Socket]) -> None:
    await asyncio.sleep(0.1)

    assert connected[1].closed == []


async def test_a_connection_is_closed_when_its_visitors_session_has_ended(
    hub: Hub, connected: tuple[Any, Socket]
) -> None:
    hub.knows = None
    await asyncio.sleep(0.1)

    assert connected[1].closed == [(1008, "Your session has ended. Please sign in again.")]


async def test_a_hub_that_does_not_answer_closes_no_connection(hub: Hub, connected: tuple[Any, Socket]) -> None:
    hub.answers = False
    await asyncio.sleep(0.1)

    assert connected[1].closed == []


async def test_whoever_is_not_let_in_is_not_watched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(self: object, handler: RequestHandler) -> None:
        return None

    monkeypatch.setattr(JupyterHubIdentityProvider, "get_user", unknown)
    provider, socket = Visitors(), Socket()
    assert await provider.get_user(socket) is None

    assert not provider._live
