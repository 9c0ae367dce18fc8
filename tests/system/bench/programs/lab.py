"""A server that answers as a Lab does, with next to nothing behind: no notebook, no kernel, no page but one.

As a job it takes what the job's script carries on standard input, or, for stock batchspawner, from its environment. It
reports its port, serves with the certificate that it gets, asks the hub who visits it, by OAuth and then once a minute,
and reports activity.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from hpchub.lab import start

ACTIVITY_SECONDS = 300.0
"""As JupyterHub's own servers report."""
VISITOR_SECONDS = 60.0
"""As long as a Lab believes the hub's word about a visitor; an open page makes it ask again."""
PAGE = '<!doctype html><title>JupyterLab</title><script id="jupyter-config-data"></script>'


@dataclass
class Hub:
    """The hub, seen from a server."""

    api: str
    token: str
    context: ssl.SSLContext | None

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> Any:
        """A new connection for each question: they are rare. Raises OSError, ValueError."""
        parts = urlsplit(self.api)
        if self.context is None:
            connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        else:
            connection = http.client.HTTPSConnection(parts.netloc, timeout=60, context=self.context)
        try:
            connection.request(method, f"{parts.path}{path}", body, {"Authorization": f"token {self.token}", **headers})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise OSError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return json.loads(text) if text else None


@dataclass
class Lab:
    """One server: `environment` is what the hub gave it."""

    environment: Mapping[str, str]
    hub: Hub
    visitors: dict[str, str] = field(default_factory=dict)
    """Cookies, and the tokens that they stand for."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """The path below which it serves."""
        return self.environment["JUPYTERHUB_SERVICE_PREFIX"]

    async def serve(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve for ever, or until cancelled."""
        server = await asyncio.start_server(self._connection, sock=bound, ssl=context, backlog=128)
        self.tasks.append(asyncio.ensure_future(self._report()))
        try:
            await server.serve_forever()
        finally:
            for task in self.tasks:
                task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").rstrip().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
                status, more, text = await self._answer(first.split(" ")[1], headers)
                more |= {"Content-Length": str(len(text)), "X-JupyterHub-Version": "6.1.1"}
                fields = "".join(f"{key}: {value}\r\n" for key, value in more.items())
                writer.write(f"HTTP/1.1 {status} -\r\n{fields}\r\n{text}".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, target: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
        """Status, headers and text."""
        parts = urlsplit(target)
        path = parts.path.removeprefix(self.prefix)
        client = f"jupyterhub-user-{self.environment['JUPYTERHUB_USER']}"
        callback = f"{self.prefix}oauth_callback"
        if path == "api":
            return 200, {"Content-Type": "application/json"}, '{"version": "2.21.1"}'
        if path == "oauth_callback":
            code = parse_qs(parts.query)["code"][0]
            cookie = await self._admit(code, client, callback)
            return 302, {"Location": f"{self.prefix}lab", "Set-Cookie": f"{client}={cookie}; Path={self.prefix}"}, ""
        cookies = SimpleCookie(headers.get("cookie", ""))
        if client in cookies and cookies[client].value in self.visitors:
            return 200, {"Content-Type": "text/html"}, PAGE
        query = {"client_id": client, "redirect_uri": callback, "response_type": "code", "state": secrets.token_hex(8)}
        return 302, {"Location": f"/hub/api/oauth2/authorize?{urlencode(query)}"}, ""

    async def _admit(self, code: str, client: str, callback: str) -> str:
        """Ask the hub who comes with this code; gives the cookie."""
        form = {
            "client_id": client, "client_secret": self.hub.token, "grant_type": "authorization_code",
            "code": code, "redirect_uri": callback,
        }  # fmt: skip
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        token = (await asyncio.to_thread(self.hub.ask, "POST", "/oauth2/token", urlencode(form), **kind))[
            "access_token"
        ]
        await self._who(token)
        cookie = secrets.token_hex(16)
        if not self.visitors:
            self.tasks.append(asyncio.ensure_future(self._visited(token)))
        self.visitors[cookie] = token
        return cookie

    async def _who(self, token: str) -> None:
        await asyncio.to_thread(self.hub.ask, "GET", "/user", Authorization=f"token {token}")

    async def _visited(self, token: str) -> None:
        """Somebody has the Lab open."""
        while True:
            await asyncio.sleep(VISITOR_SECONDS)
            try:
                await self._who(token)
            except (OSError, ValueError) as error:
                print(self.prefix, error, file=sys.stderr)

    async def _report(self) -> None:
        user, server = self.environment["JUPYTERHUB_USER"], self.environment.get("JUPYTERHUB_SERVER_NAME", "")
        while True:
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            body = json.dumps({"servers": {server: {"last_activity": now}}, "last_activity": now})
            try:
                await asyncio.to_thread(
                    self.hub.ask, "POST", f"/users/{user}/activity", body, **{"Content-Type": "application/json"}
                )
            except (OSError, ValueError) as error:
                print(self.prefix, error, file=sys.stderr)
            await asyncio.sleep(ACTIVITY_SECONDS)


async def from_order(text: str, host: str = "0.0.0.0") -> None:
    """Ours: what the job's script carries, and the callback of the real Lab."""
    order = start.read_order(text)
    url, token = order.environment[start.API_URL], order.environment[start.TOKEN]
    bound = start.bind(host)
    with tempfile.TemporaryDirectory() as runtime:
        calling = start.write_tls(order, runtime)
        port = bound.getsockname()[1]
        certificate = await asyncio.to_thread(start.report_port, f"{url}/hpchub/port", token, port, calling)
        Path(runtime, "tls.pem").write_text(certificate, encoding="ascii")
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(f"{runtime}/tls.pem", f"{runtime}/tls.key")
        serving.load_verify_locations(f"{runtime}/hub-ca.pem")
        serving.verify_mode = ssl.CERT_REQUIRED
    await Lab(order.environment, Hub(url, token, calling)).serve(bound, serving)


async def from_environment() -> None:
    """Stock: what batchspawner's own first program does, in place of it."""
    bound = start.bind("0.0.0.0")
    hub = Hub(os.environ[start.API_URL], os.environ[start.TOKEN], None)
    port = json.dumps({"port": bound.getsockname()[1]})
    await asyncio.to_thread(hub.ask, "POST", "/batchspawner", port, **{"Content-Type": "application/json"})
    await Lab(os.environ, hub).serve(bound, None)


if __name__ == "__main__":
    asyncio.run(from_environment() if start.TOKEN in os.environ else from_order(sys.stdin.read()))
