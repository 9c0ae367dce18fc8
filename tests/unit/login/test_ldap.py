"""Signing in at a directory: what a server may do to the hub. These servers do what a good one never does.

The good one, real slapd with one-time codes, is in tests/system/test_ldap.py.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpchub.login.base import LoginRefused
from hpchub.login.ldap import LdapAuthenticator
from hpchub.settings import Ldap

HANDLER = SimpleNamespace(request=SimpleNamespace(remote_ip=""))
BIND, SEARCH, EXTENDED = 0x60, 0x63, 0x77
OK, REFERRAL, INVALID, BUSY, OTHER = 0, 10, 49, 51, 80
Answer = Callable[[int, int], bytes]
"""Of a message's number and operation: what the server sends; b"" for nothing."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority, and a key pair of its own for each of two names."""
    at = tmp_path_factory.mktemp("tls")

    def openssl(name: str, *options: str) -> Path:
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        files = ["-keyout", str(at / name), "-out", str(at / f"{name}.pem")]
        subprocess.run([*new, *files, *options], check=True, capture_output=True)
        (at / name).write_text((at / name).read_text() + (at / f"{name}.pem").read_text())
        return at / name

    ca = openssl("ca", "-subj", "/CN=Authority", "-addext", "keyUsage=critical,keyCertSign")
    by = ["-CA", str(ca), "-CAkey", str(ca), "-extensions", "usr_cert"]
    return {"ca": ca} | {
        name: openssl(name, *by, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
        for name in ("localhost", "elsewhere.example.org")
    }


class Server:
    """A server on loopback that counts connections and binds, and answers as it is told."""

    def __init__(self, answer: Answer, certificate: Path, start_tls: bool = False) -> None:
        self.answer, self.start_tls = answer, start_tls
        self.connections = self.binds = self.at_once = self.most_at_once = 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._door = socket.create_server(("127.0.0.1", 0))
        scheme = "ldap+starttls" if start_tls else "ldaps"
        self.url = f"{scheme}://localhost:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._door.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(plain,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        try:
            connection = plain if self.start_tls else self._tls.wrap_socket(plain, server_side=True)
            while message := connection.recv(4096):
                at = 2 + (message[1] & 0x7F if message[1] & 0x80 else 0)  # behind a length of several bytes
                number, operation = message[at + 2], message[at + 3]
                self.binds += operation == BIND
                self.at_once += 1
                self.most_at_once = max(self.at_once, self.most_at_once)
                answer = self.answer(number, operation)
                self.at_once -= 1
                connection.sendall(answer)
                if operation == EXTENDED and said(number, operation, OK) == answer:
                    connection = self._tls.wrap_socket(plain, server_side=True)
        except OSError:
            pass

    def close(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # or the thread that waits there would take one more
        self._door.close()


def said(number: int, operation: int, code: int, more: bytes = b"") -> bytes:
    """An answer to a bind, search or extended request, in BER (RFC 4511)."""
    result = bytes([0x0A, 1, code, 4, 0, 4, 0]) + more
    kind = {BIND: 0x61, SEARCH: 0x65, EXTENDED: 0x78}[operation]
    return bytes([0x30, len(result) + 5, 2, 1, number, kind, len(result)]) + result


def always(code: int) -> Answer:
    return lambda number, operation: said(number, operation, code)


def never(_number: int, _operation: int) -> bytes:
    return b""


@pytest.fixture
def serve(certificates: dict[str, Path]) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Answer, name: str = "localhost", **options: bool) -> Server:
        servers.append(Server(answer, certificates[name], **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@asynccontextmanager
async def hub(
    tmp_path: Path, ca: Path, *urls: str, word: str = "ok", **more: object
) -> AsyncIterator[LdapAuthenticator]:
    """An authenticator for these servers, whose login helper says `word` about every account."""

    async def helper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        answer = {"result": word, "user": asked["account"] if word == "ok" else ""}
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    names = {"bind_dn": "uid={username},dc=example,dc=org"} if "search_base" not in more else {}
    ldap = Ldap(**{"servers": urls, "ca_file": str(ca), "timeout_seconds": 1, **names, **more})  # type: ignore[arg-type]
    async with await asyncio.start_unix_server(helper, tmp_path / "helper.sock"):
        yield LdapAuthenticator(ldap=ldap, socket=str(tmp_path / "helper.sock"))


async def status(authenticator: LdapAuthenticator, user: str = "alice", password: str = "123456654321") -> int:
    """200, or the refusal's."""
    try:
        return 200 if await authenticator.authenticate(HANDLER, {"username": user, "password": password}) == user else 0
    except LoginRefused as refusal:
        return refusal.status_code


@pytest.mark.parametrize(
    ("code", "expected"), [(OK, 200), (INVALID, 403), (19, 403), (53, 403), (BUSY, 503), (OTHER, 503), (REFERRAL, 503)]
)
async def test_only_a_success_lets_in_and_only_a_judged_secret_is_refused(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], code: int, expected: int
) -> None:
    server = serve(always(code))
    async with hub(tmp_path, certificates["ca"], server.url) as authenticator:
        assert await status(authenticator) == expected
    assert server.binds == 1


@pytest.mark.parametrize(("word", "expected"), [("denied", 403), ("locked", 403), ("unavailable", 503)])
async def test_a_good_bind_is_not_enough_for_an_account_that_the_helper_refuses(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], word: str, expected: int
) -> None:
    async with hub(tmp_path, certificates["ca"], serve(always(OK)).url, word=word) as authenticator:
        assert await status(authenticator) == expected


async def test_after_a_bind_that_nobody_answered_no_second_server_gets_the_same_code(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    silent, good = serve(never), serve(always(OK))
    async with hub(tmp_path, certificates["ca"], silent.url, good.url) as authenticator:
        assert await status(authenticator) == 503
        assert (silent.binds, good.connections) == (1, 0)
        assert await status(authenticator) == 200  # with the next code; the silent one is asked last for a while
        assert (silent.binds, good.binds) == (1, 1)


@pytest.mark.parametrize("trouble", ["nobody", "silence", "certificate", "no-start-tls"])
async def test_where_no_secret_was_sent_the_next_server_is_asked(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], trouble: str
) -> None:
    good = serve(always(OK))
    first = {
        "nobody": lambda: serve(never),
        "silence": lambda: serve(never, start_tls=True),
        "certificate": lambda: serve(always(OK), "elsewhere.example.org"),
        "no-start-tls": lambda: serve(always(2), start_tls=True),
    }[trouble]()
    if trouble == "nobody":
        first.close()
    async with hub(tmp_path, certificates["ca"], first.url, good.url) as authenticator:
        assert await status(authenticator) == 200
    assert (first.binds, good.binds) == (0, 1)


async def test_start_tls_comes_before_the_bind(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    server = serve(always(OK), start_tls=True)
    async with hub(tmp_path, certificates["ca"], server.url) as authenticator:
        assert await status(authenticator) == 200


@pytest.mark.parametrize(("operation", "expected"), [(BIND, 503), (SEARCH, 403)])
async def test_no_server_that_an_answer_refers_to_is_asked(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], operation: int, expected: int
) -> None:
    other, group = serve(always(OK)), "cn=hub,dc=example,dc=org"
    address = f"{other.url}/{group}".encode()

    def refer(number: int, asked: int) -> bytes:
        if asked != operation:
            return said(number, asked, OK)
        return said(number, asked, REFERRAL, bytes([0xA3, len(address) + 2, 4, len(address)]) + address)

    async with hub(tmp_path, certificates["ca"], serve(refer).url, allowed_groups=(group,)) as authenticator:
        assert await status(authenticator) == expected
    assert other.connections == 0


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", ""),
        ("alice", "   "),
        ("", "x"),
        ("\uff41lice", "x"),
        ("alice\n", "x"),
        ("alice,dc=org", "x"),
        ("*", "x"),
    ],
)
async def test_an_empty_secret_or_a_strange_name_never_reaches_a_server(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], user: str, password: str
) -> None:
    server = serve(always(OK))
    async with hub(tmp_path, certificates["ca"], server.url) as authenticator:
        assert await status(authenticator, user, password) == 403
    assert server.connections == 0


async def test_one_person_is_served_after_the_other_but_two_people_at_once(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    def slow(number: int, operation: int) -> bytes:
        time.sleep(0.2)
        return said(number, operation, OK)

    server = serve(slow)
    async with hub(tmp_path, certificates["ca"], server.url) as authenticator:
        assert await asyncio.gather(*(status(authenticator) for _ in range(4))) == [200] * 4
        assert server.most_at_once == 1
        assert await asyncio.gather(status(authenticator), status(authenticator, "bob")) == [200] * 2
    assert server.most_at_once == 2


async def test_a_silent_server_costs_the_hub_no_time_and_a_person_no_more_than_the_site_says(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async with hub(tmp_path, certificates["ca"], serve(never).url, timeout_seconds=60) as authenticator:
        authenticator.timeout_seconds = 12  # of which the helper has ten
        other, started = asyncio.ensure_future(tick()), time.monotonic()
        assert await status(authenticator) == 503
        assert time.monotonic() - started < 4
        other.cancel()
    assert max(gaps) < 0.5


async def test_whoever_comes_when_time_is_up_sends_no_secret(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    server = serve(always(OK))
    async with hub(tmp_path, certificates["ca"], server.url) as authenticator:
        attempt = asyncio.to_thread(authenticator._attempt, "alice", "123456654321", time.monotonic() + 0.5)
        assert await attempt == "unavailable"
    assert server.connections == 0


async def test_a_lookup_account_that_is_refused_is_an_outage_and_no_secret_is_sent(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server]
) -> None:
    server = serve(always(INVALID))
    search = {"search_base": "dc=example,dc=org", "lookup_dn": "cn=lookup,dc=example,dc=org"}
    async with hub(tmp_path, certificates["ca"], server.url, **search) as authenticator:
        authenticator.lookup_password = "lookup"
        assert await status(authenticator) == 503
    assert server.binds == 1


async def test_the_log_says_server_and_reason_and_never_the_secret(
    tmp_path: Path, certificates: dict[str, Path], serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    refusing, absent = serve(always(INVALID)), serve(never)
    absent.close()
    async with hub(tmp_path, certificates["ca"], absent.url, refusing.url) as authenticator:
        authenticator.log.propagate = True
        await status(authenticator, password="very-secret-654321")
    assert f"LDAP server {absent.url}: LDAPSocketOpenError" in caplog.text
    assert "invalidCredentials" in caplog.text
    assert "very-secret" not in caplog.text
