"""A tornado server holds 200 idle TLS connections, while as many other peers drop in every bad way that there is.

Prints how many of the 200 are kept, of how many, and the release of OpenSSL. Over loopback, in some seconds.
"""

import asyncio
import itertools
import json
import socket
import ssl
import struct
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from hpchub.dask_jobs.configuration import make_key_pair

HEALTHY = 200
PAUSE = 0.02  # seconds until the server has seen what happened


class Page(RequestHandler):
    """Answers at once."""

    def get(self) -> None:
        """Say so."""
        self.write("here")


class Story(RequestHandler):
    """Answers bit by bit, also when nobody listens any more."""

    async def get(self) -> None:
        """Write four times."""
        for _ in range(4):
            self.write("and then ")
            await self.flush()
            await asyncio.sleep(PAUSE / 8)


def serve(pair: str) -> int:
    """Start the server in a thread of its own; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    ports: list[int] = []
    listening = threading.Event()

    async def run() -> None:
        server = HTTPServer(Application([("/", Page), ("/story", Story)]), ssl_options=context)
        listener = socket.create_server(("127.0.0.1", 0), backlog=HEALTHY)
        listener.setblocking(False)
        server.add_socket(listener)
        ports.append(listener.getsockname()[1])
        listening.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    listening.wait()
    return ports[0]


class Peers:
    """Connections to the server, good and bad."""

    def __init__(self, port: int, pair: str) -> None:
        """Trust the server's certificate."""
        self.port = port
        self.context = ssl.create_default_context(cafile=pair)
        self.context.check_hostname = False

    def plain(self) -> socket.socket:
        """Connect, without TLS so far."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def tls(self, path: str = "/") -> ssl.SSLSocket:
        """Connect and ask for a page."""
        end = self.context.wrap_socket(self.plain())
        end.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return end

    def leaves_after_last_words(self) -> None:
        """As Dask does it: the answer is written, and then the end is read."""
        end = self.tls()
        end.shutdown(socket.SHUT_RDWR)
        end.close()

    def leaves_in_the_middle(self) -> None:
        """A close without TLS's goodbye; the answer goes on."""
        self.tls("/story").close()

    def resets(self) -> None:
        """The answer meets a reset."""
        end = self.tls("/story")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()

    def leaves_before_the_handshake(self) -> None:
        """Like a port scan."""
        self.plain().close()

    def talks_rubbish(self) -> None:
        """Plain HTTP."""
        with self.plain() as end:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")


def alive(end: ssl.SSLSocket, ask: bool = True) -> bool:
    """Whether a connection answers."""
    answer = b""
    try:
        if ask:
            end.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not answer.endswith(b"here"):
            part = end.recv(10_000)
            if not part:
                return False
            answer += part
    except OSError:
        return False
    return True


def main() -> None:
    """Each bad end is followed by a look at a healthy connection, and all are looked at in the end."""
    with tempfile.NamedTemporaryFile() as pair:
        Path(pair.name).write_bytes(b"".join(make_key_pair(datetime.now(UTC))))
        peers = Peers(serve(pair.name), pair.name)
    healthy = [peers.tls() for _ in range(HEALTHY)]
    assert all(alive(end, ask=False) for end in healthy)
    bad = itertools.cycle(
        (
            peers.leaves_after_last_words,
            peers.leaves_in_the_middle,
            peers.resets,
            peers.leaves_before_the_handshake,
            peers.talks_rubbish,
        )
    )
    for end, drop in zip(healthy, bad, strict=False):
        drop()
        time.sleep(PAUSE)
        alive(end)
    kept = sum(alive(end) for end in healthy)
    print(json.dumps({"kept": kept, "total": HEALTHY, "openssl": ssl.OPENSSL_VERSION_INFO[:2]}))


main()
