"""What its user gets at somebody else's ports: `visit.py HOST:PORT...` prints a JSON list of address, way, outcome.

An outcome is an HTTP status, what kind of Dask process answers, or the name of the error. It needs the user's own
session: DASK_ROOT_CONFIG names the user's certificate.
"""

import asyncio
import http.client
import json
import ssl
import sys
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

from distributed.comm import connect
from distributed.security import Security

SECONDS = 5
SOCKET = "/eventstream"  # a WebSocket of the scheduler's
PAGES = ("/", "/status", "/info/main/workers.html", "/metrics", "/json/counts.json", "/health", SOCKET)
LAB = ("/user/alice/lab", "/user/alice/api/contents", "/user/alice/api/terminals", "/user/alice/api/kernels")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def stranger() -> ssl.SSLContext:
    """TLS of somebody who has no certificate and does not look at the server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def status(address: str, path: str, context: ssl.SSLContext | None) -> int:
    """Ask for a page or a WebSocket."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    if context is not None:
        connection = http.client.HTTPSConnection(address, timeout=SECONDS, context=context)
    try:
        connection.request("GET", path, headers=UPGRADE if path == SOCKET else {})
        return connection.getresponse().status
    finally:
        connection.close()


async def identity(address: str, context: ssl.SSLContext | None) -> str:
    """Ask a scheduler, worker or nanny who it is."""
    arguments = {"ssl_context": context, "require_encryption": context is not None}
    comm = await asyncio.wait_for(connect(address, timeout=SECONDS, **arguments), 2 * SECONDS)
    try:
        await comm.write({"op": "identity", "reply": True})
        return str((await asyncio.wait_for(comm.read(), SECONDS))["type"])
    finally:
        comm.abort()


async def outcome(address: str, way: str, asking: Awaitable[object]) -> tuple[str, str, str]:
    """Wait for one answer."""
    try:
        return address, way, str(await asking)
    except Exception as error:
        return address, way, type(error).__name__


async def main(addresses: list[str]) -> None:
    """Try every way at every address, all at once; but pages last, which keep a scheduler busy."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(100))
    own = Security().get_connection_args("client")["ssl_context"]
    contexts = {"no certificate": stranger(), "own certificate": own}
    comms, pages = [], []
    for to in addresses:
        pages += [outcome(to, path, asyncio.to_thread(status, to, path, None)) for path in PAGES + LAB]
        for name, context in contexts.items():
            for path in ("/", LAB[1]):
                pages.append(outcome(to, f"{path}, {name}", asyncio.to_thread(status, to, path, context)))
            comms.append(outcome(to, f"dask, {name}", identity(f"tls://{to}", context)))
        comms.append(outcome(to, "dask, plain", identity(f"tcp://{to}", None)))
    print(json.dumps(await asyncio.gather(*comms) + await asyncio.gather(*pages)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
