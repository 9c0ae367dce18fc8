"""A dashboard answers the user who runs it, and nobody else of the same node or of another."""

import asyncio
import os
import socket
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tornado.httpserver
from tornado.web import Application, RequestHandler

from hpchub.dask_jobs import owner_only
from hpchub.dask_jobs.owner_only import NOBODY, OwnersServer
from hpchub.dask_jobs.patches import dashboard, import_hook

SRC = Path(owner_only.__file__).parents[2]
BOB = 2002
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's socket")


@contextmanager
def as_user(uid: int | None) -> Iterator[None]:
    """A socket that is made here belongs to `uid`, as the kernel sees it; None is who runs the tests."""
    before = os.geteuid()
    os.seteuid(before if uid is None else uid)
    try:
        yield
    finally:
        os.seteuid(before)


def connect(address: tuple[str, int], uid: int | None = None) -> socket.socket:
    with as_user(uid):
        return socket.create_connection(address, timeout=5)


class Page(RequestHandler):
    def get(self) -> None:
        self.write("task names")


class Server(OwnersServer):
    """One that serves a page, and can be connected to at `address`."""

    address: tuple[str, int]


ADDRESSES = {"IPv4": ("127.0.0.1", "127.0.0.1"), "IPv6": ("::1", "::1"), "IPv4 mapped": ("::", "127.0.0.1")}


@pytest.fixture(params=ADDRESSES.values(), ids=ADDRESSES.keys())
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    host, to = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    listener.setblocking(False)
    serving = Server(Application([("/", Page)]))
    serving.address = (to, listener.getsockname()[1])
    serving.add_socket(listener)
    yield serving
    serving.stop()


async def ask(connection: socket.socket) -> str:
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer.decode()


async def test_the_owner_is_served(server: Server) -> None:
    answer = await ask(connect(server.address))

    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith("task names")


@needs_root
async def test_another_user_of_the_node_reads_a_sentence_and_nothing_else(server: Server) -> None:
    answer = await ask(connect(server.address, BOB))

    assert answer.startswith("HTTP/1.1 403 ")
    assert answer.endswith("If that is you, open it through JupyterLab on this node.\n")


@needs_root
async def test_root_is_refused_by_another_users_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: BOB)
    assert (await ask(connect(server.address))).startswith("HTTP/1.1 403 ")
    assert (await ask(connect(server.address, BOB))).startswith("HTTP/1.1 200 ")


@needs_root
async def test_where_users_have_no_numbers_everybody_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    assert (await ask(connect(server.address, NOBODY))).startswith("HTTP/1.1 403 ")


async def test_a_kernel_that_does_not_tell_closes_the_page(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_only, "SOCK_DIAG_BY_FAMILY", 999)
    assert (await ask(connect(server.address))).startswith("HTTP/1.1 403 ")


@needs_root
async def test_a_stranger_does_not_use_up_the_server(server: Server) -> None:
    strangers = [connect(server.address, BOB) for _ in range(100)]
    answers = [await ask(stranger) for stranger in strangers]
    assert {answer[:12] for answer in answers} == {"HTTP/1.1 403"}
    assert not server._connections
    assert (await ask(connect(server.address))).startswith("HTTP/1.1 200 ")


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over loopback, ours first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = connect(listener.getsockname())
        return listener.accept()[0], peer


def test_the_kernel_names_the_owner_of_the_other_end() -> None:
    ours, peer = pair()
    with ours, peer:
        assert owner_only.owner(peer.getsockname(), ours.getsockname()) == os.getuid()


def test_who_has_hung_up_has_no_owner() -> None:
    ours, peer = pair()
    with ours:
        address = peer.getsockname()
        peer.close()
        assert owner_only.owner(address, ours.getsockname()) is None


def test_who_has_said_all_has_no_owner() -> None:
    ours, peer = pair()
    with ours, peer:
        peer.shutdown(socket.SHUT_WR)
        assert owner_only.owner(peer.getsockname(), ours.getsockname()) is None


def test_a_peer_on_another_host_has_no_owner() -> None:
    ours, peer = pair()
    with ours, peer:
        assert owner_only.owner(("192.0.2.7", peer.getsockname()[1]), ours.getsockname()) is None
        assert owner_only.owner(("2001:db8::7", 40000, 0, 0), ("::1", 8787, 0, 0)) is None


def test_a_server_with_the_peers_address_is_not_the_peer() -> None:
    ours, peer = pair()
    with ours, peer, socket.create_server(("127.0.0.1", 0)) as other:
        assert owner_only.owner(other.getsockname(), ours.getsockname()) is None


DASK = """
import os, site, sys, urllib.error, urllib.request
site.addsitedir(sys.argv[1])
from distributed import LocalCluster

def status(port, path, uid):
    os.seteuid(uid)
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    finally:
        os.seteuid(os.getuid())

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        (worker,) = cluster.workers.values()
        pages = {
            cluster.scheduler.http_server: ("/status", "/metrics", "/health", "/info/main/workers.html"),
            worker.http_server: ("/metrics", "/health"),
        }
        for server, paths in pages.items():
            for path in paths:
                print(*(status(server.port, path, int(uid)) for uid in sys.argv[2:]))
"""


@needs_root
def test_dasks_own_pages_open_for_their_owner_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DASK)
    done = subprocess.run(
        [sys.executable, program, str(SRC), str(os.getuid()), str(BOB)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == ["200 403"] * 6, done.stderr


def test_a_dask_with_another_server_is_not_imported() -> None:
    node = types.ModuleType("distributed.node")
    with pytest.raises(ImportError, match="cannot close the dashboards"):
        dashboard.change(node)
    vars(node)["HTTPServer"] = tornado.httpserver.HTTPServer
    dashboard.change(node)
    assert vars(node)["HTTPServer"] is OwnersServer


def test_every_interpreter_of_the_environment_looks_out_for_dask_and_imports_nothing_for_it() -> None:
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]);"
        "print(type(sys.meta_path[0]).__name__, 'tornado' in sys.modules, 'distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(SRC)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Finder False False\n", "")


def test_a_second_installation_finds_nothing_twice() -> None:
    before = list(sys.meta_path)
    import_hook.install()
    assert sys.meta_path == before
