"""One TLS connection that ends badly leaves the healthy ones of its thread alone."""

import contextlib
import select
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hpchub import openssl_errors
from hpchub.dask_jobs import configuration

PTH = Path(openssl_errors.__file__).parents[1] / "hpchub_guards.pth"


def wait_and_read(end: ssl.SSLSocket) -> bytes:
    select.select([end], [], [], 5)
    return end.read(100)


class Pair:
    """Two ends of one TLS connection over loopback, in one thread."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            right = socket.create_connection(listener.getsockname())
            left, _address = listener.accept()
        self.server = server.wrap_socket(left, server_side=True, do_handshake_on_connect=False)
        self.client = client.wrap_socket(right, do_handshake_on_connect=False)
        for end in (self.server, self.client):
            end.setblocking(False)
        done: set[ssl.SSLSocket] = set()
        while len(done) < 2:
            for end in (self.server, self.client):
                try:
                    end.do_handshake()
                    done.add(end)
                except ssl.SSLWantReadError:
                    pass
        self.client.write(b"x")
        assert wait_and_read(self.server) == b"x"
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read(10)  # takes the session tickets out of the way


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key, certificate = configuration.make_key_pair(datetime.now(UTC))
    (tmp_path / "pair.pem").write_bytes(key + certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "pair.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(tmp_path / "pair.pem")
    return server, client


def peer_goes_while_we_answer(pair: Pair) -> None:
    """As dask does it: last words, then a close without TLS's own goodbye. We answer, and then read the end."""
    pair.client.write(b"last words")
    pair.client.shutdown(socket.SHUT_RDWR)
    pair.client.close()
    assert wait_and_read(pair.server) == b"last words"
    pair.server.write(b"answer")
    with contextlib.suppress(OSError):
        wait_and_read(pair.server)


def writes_to_a_closed_peer(pair: Pair) -> None:
    """The first write is answered with a reset, the second fails."""
    pair.client.close()
    for _ in range(2):
        with contextlib.suppress(OSError):
            pair.server.write(b"x")
        select.select([pair.server], [], [], 0.2)


@pytest.mark.parametrize("event", [peer_goes_while_we_answer, writes_to_a_closed_peer])
def test_a_healthy_connection_survives_the_end_of_another(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], event: object
) -> None:
    assert callable(event)
    broken, healthy = Pair(*contexts), Pair(*contexts)
    event(broken)
    with pytest.raises(ssl.SSLWantReadError):
        healthy.server.read(10)
    healthy.client.write(b"still here")
    assert wait_and_read(healthy.server) == b"still here"


def test_the_guard_is_there_exactly_where_openssl_needs_it() -> None:
    assert hasattr(ssl.SSLSocket.read, openssl_errors._MARK) == (ssl.OPENSSL_VERSION_INFO >= (3, 4))


def test_a_second_installation_wraps_nothing_twice() -> None:
    before = ssl.SSLSocket.read
    openssl_errors.install()
    assert ssl.SSLSocket.read is before


def test_old_openssl_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (3, 0, 19, 0, 0))
    assert not openssl_errors.needed()
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (3, 5, 7, 0, 0))
    assert openssl_errors.needed()


def test_errors_of_the_system_empty_the_queue_and_tlss_own_do_not() -> None:
    cleared: list[int] = []

    def fail(error: BaseException) -> None:
        raise error

    guarded = openssl_errors._guarded(fail, lambda: cleared.append(1))
    for error, count in ((BrokenPipeError(), 1), (ssl.SSLWantReadError(), 1), (ConnectionResetError(), 2)):
        with pytest.raises(type(error)):
            guarded(error)
        assert len(cleared) == count


def test_the_way_without_ctypes_empties_the_queue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    openssl_errors._clearer()()


def test_every_interpreter_of_the_environment_loads_the_guards() -> None:
    code = "import site, sys; site.addsitedir(sys.argv[1]); print('hpchub.openssl_errors' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(PTH.parent)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_python_that_the_guard_does_not_fit_does_not_start(tmp_path: Path) -> None:
    environment = tmp_path / "packages"
    environment.mkdir()
    (environment / "aaa.pth").write_text("import ssl; del ssl.SSLSocket.unwrap; ssl.OPENSSL_VERSION_INFO = (3, 4)\n")
    (environment / "guards.pth").write_text(PTH.read_text())
    code = "import site, sys; sys.path.append(sys.argv[1]); site.addsitedir(sys.argv[2]); print('unguarded')"
    program = [sys.executable, "-I", "-c", code, str(PTH.parent), str(environment)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "ssl.SSLSocket.unwrap is not there" in done.stderr
