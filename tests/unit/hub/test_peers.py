"""Whom the hub believes about addresses, and what a Lab's certificate opens: with real TLS connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from tornado import httpserver, netutil, web

from hpchub.hub import peers
from hpchub.hub.internal_tls import Labs

CLAIMS = {"X-Real-Ip": "203.0.113.9", "X-Forwarded-For": "198.51.100.1, 203.0.113.7", "Forwarded": "for=203.0.113.8"}


class Echo(web.RequestHandler):
    def get(self) -> None:
        headers = sorted(name for name in self.request.headers if name not in ("Host", "Connection"))
        self.write(f"{self.request.remote_ip} {self.request.protocol} {','.join(headers)}")

    post = get


@dataclass(frozen=True)
class Hub:
    """A server with the hub's certificate, and what calls it."""

    port: int
    directory: Path

    async def connect(self, who: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with somebody's certificate."""
        context = ssl.create_default_context(cafile=str(self.directory / "trusted.pem"))
        context.check_hostname = False
        context.load_cert_chain(self.directory / f"{who}.pem", self.directory / f"{who}.key")
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def ask(self, who: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and body of what somebody with this certificate gets."""
        reader, writer = await self.connect(who)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body


@pytest.fixture
async def hub(services: object, labs: Labs, tmp_path: Path) -> AsyncIterator[Hub]:
    for who, name in (("hub", "hpchub hub"), ("proxy", "hpchub proxy"), ("culler", "hpchub culler")):
        key, certificate = services.sign(name)  # type: ignore[attr-defined]  # of the fixture
        (tmp_path / f"{who}.key").write_text(key)
        (tmp_path / f"{who}.pem").write_text(certificate)
    caller = labs.caller("demo:0:alice::0")
    (tmp_path / "lab.key").write_text(caller.key)
    (tmp_path / "lab.pem").write_text(labs.server(caller.certificate, "127.0.0.1", timedelta(hours=1)))
    forged = labs.caller("hpchub proxy")  # whatever the hub could be brought to sign, it is no certificate of services
    (tmp_path / "forged.key").write_text(forged.key)
    (tmp_path / "forged.pem").write_text(forged.certificate)
    (tmp_path / "trusted.pem").write_text(services.pem + labs.certificate)  # type: ignore[attr-defined]  # as above
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "trusted.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "hub.pem", tmp_path / "hub.key")
    application = peers.Application([("/base/.*", Echo)], hub=SimpleNamespace(base_url="/base/hub/"))
    server = httpserver.HTTPServer(application, ssl_options=context, xheaders=True)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    yield Hub(sockets[0].getsockname()[1], tmp_path)
    server.stop()


async def test_the_proxys_word_about_an_address_counts_and_what_a_browser_adds_to_it_does_not(hub: Hub) -> None:
    assert await hub.ask("proxy", "/base/hub/login", CLAIMS) == (200, "203.0.113.7 https ")
    assert await hub.ask("proxy", "/base/hub/login", {"X-Forwarded-For": "nonsense"}) == (200, "127.0.0.1 https ")


@pytest.mark.parametrize("who", ["lab", "culler", "hub", "forged"])
async def test_whoever_is_not_the_proxy_has_the_address_he_calls_from(hub: Hub, who: str) -> None:
    assert await hub.ask(who, "/base/hub/api/user", CLAIMS | {"X-Scheme": "http"}) == (200, "127.0.0.1 https ")


@pytest.mark.parametrize(
    "path", ["api", "api/", "api/user", "api/users/alice/activity", "api/oauth2/token", "api/hpchub/port"]
)
async def test_a_labs_certificate_opens_what_a_lab_needs(hub: Hub, path: str) -> None:
    assert (await hub.ask("lab", f"/base/hub/{path}"))[0] == 200


@pytest.mark.parametrize("who", ["lab", "forged"])
@pytest.mark.parametrize(
    "path",
    [
        "login", "home", "admin", "spawn", "token", "health", "metrics", "api/users", "api/users/alice", "api/proxy",
        "api/users/alice/tokens", "api/users/alice/server", "api/info", "api/authorizations/token/x", "api/shutdown",
        "api/users/alice/../bob/activity", "api/users/a/b/activity", "api/oauth2/authorize", "api/user/../users",
        "//api/user", "api/user/", "api%2fuser", "",
    ],
)  # fmt: skip
async def test_and_nothing_else(hub: Hub, who: str, path: str) -> None:
    assert (await hub.ask(who, f"/base/hub/{path}"))[0] == 403


@pytest.mark.parametrize("lines", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_longer_than_any_form_is_not_kept(hub: Hub, lines: str) -> None:
    chunked = "chunked" in lines
    reader, writer = await hub.connect("proxy")
    writer.write(f"POST /base/hub/login HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n".encode())
    part = b"x" * 60_000
    if chunked:
        writer.write(b"ea60\r\n" + part + b"\r\n" + b"ea60\r\n" + part + b"\r\n")
    answer = b""
    with suppress(ConnectionResetError):
        async with asyncio.timeout(10):
            answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ") or not answer
    assert b"https" not in answer, "a handler saw it"


async def test_a_body_that_does_not_come_is_not_awaited_for_long(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BODY_SECONDS", 0.2)
    reader, writer = await hub.connect("proxy")
    writer.write(b"POST /base/hub/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    async with asyncio.timeout(10):
        assert await reader.read() == b""


async def test_services_reach_the_api_and_the_proxy_all_that_browsers_ask_for(hub: Hub) -> None:
    assert [(await hub.ask(who, "/base/hub/api/users"))[0] for who in ("culler", "hub", "proxy")] == [200, 200, 200]


async def test_a_lab_reaches_nothing_outside_the_hubs_own_paths(hub: Hub) -> None:
    assert [(await hub.ask("lab", path))[0] for path in ("/base/user/alice/", "/base/", "/api/user")] == [403, 403, 403]


def test_a_certificate_that_says_nothing_counts_as_a_labs() -> None:
    assert peers.peer_of(None) is peers.peer_of({}) is peers.Peer.LAB


def test_the_names_are_those_that_the_role_gives() -> None:
    root = Path(__file__).parents[3] / "roles/internal_tls"
    assert 'common_name: "hpchub {{ item }}"' in (root / "tasks/configure.yml").read_text()
    assert 'common_name: "hpchub {{ item.name }}"' in (root / "tasks/configure.yml").read_text()
    assert peers.SERVICES.split()[1] in (root / "vars/main.yml").read_text()
