"""Signing in at the hub: what the person reads, what the helper is sent, and which client address counts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader
from tornado import httpserver, netutil, web

from hpchub.login import helper
from hpchub.login.helper import NOTICES, HelperAuthenticator, LoginRefused, client_address

HANDLER = SimpleNamespace(request=SimpleNamespace(connection=None, remote_ip="192.0.2.7"))
Reply = Callable[[dict[str, str]], Awaitable[bytes]]


@asynccontextmanager
async def helper_that(tmp_path: Path, reply: Reply) -> AsyncIterator[HelperAuthenticator]:
    """An authenticator whose login helper answers as `reply` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reply(json.loads(await reader.readline())))
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "helper.sock")
    async with server:
        yield HelperAuthenticator(
            socket=str(tmp_path / "helper.sock"), timeout_seconds=1, support_contact="help@example.org"
        )


def always(answer: object) -> Reply:
    async def reply(_request: dict[str, str]) -> bytes:
        return (answer if isinstance(answer, bytes) else json.dumps(answer).encode()) + b"\n"

    return reply


async def refusal(authenticator: HelperAuthenticator, user: str = "alice", password: str = "12345678") -> LoginRefused:
    with pytest.raises(LoginRefused) as caught:
        await authenticator.get_authenticated_user(HANDLER, {"username": user, "password": password})
    return caught.value


async def test_a_person_whom_the_helper_accepts_is_let_in_under_the_name_that_was_checked(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def reply(request: dict[str, str]) -> bytes:
        seen.append(request)
        return json.dumps({"result": "ok", "user": request["user"]}).encode() + b"\n"

    async with helper_that(tmp_path, reply) as authenticator:
        model = await authenticator.get_authenticated_user(HANDLER, {"username": "Alice", "password": " pin 123456 "})
    assert model["name"] == "alice"
    assert seen == [{"user": "alice", "password": " pin 123456 ", "rhost": ""}]


@pytest.mark.parametrize("result", sorted(NOTICES))
async def test_each_refusal_has_its_own_words(tmp_path: Path, result: str) -> None:
    async with helper_that(tmp_path, always({"result": result, "user": ""})) as authenticator:
        error = await refusal(authenticator)
    status, notice = NOTICES[result]
    assert error.status_code == status
    assert notice in error.jupyterhub_message
    assert ("help@example.org" in error.jupyterhub_message) == (result != "denied")


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense", b"[]", {"result": "ok"}, {"result": "ok", "user": "bob"}, {"result": "yes", "user": "alice"}],
)
async def test_an_answer_that_is_not_the_protocol_opens_nothing(tmp_path: Path, answer: object) -> None:
    async with helper_that(tmp_path, always(answer)) as authenticator:
        assert (await refusal(authenticator)).status_code in (403, 503)


async def test_a_helper_that_hangs_or_is_not_there_is_unavailable_and_the_hub_goes_on(tmp_path: Path) -> None:
    async def never(_request: dict[str, str]) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with helper_that(tmp_path, never) as authenticator:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        other = asyncio.ensure_future(tick())
        assert (await refusal(authenticator)).status_code == 503
        other.cancel()
        assert ticks > 30
    absent = HelperAuthenticator(socket=str(tmp_path / "absent.sock"))
    assert (await refusal(absent)).status_code == 503


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("alice", ""), ("alice", "é" * 256)])
async def test_a_form_that_lacks_something_asks_no_helper(tmp_path: Path, user: str, password: str) -> None:
    absent = HelperAuthenticator(socket=str(tmp_path / "absent.sock"))
    assert (await refusal(absent, user, password)).status_code == 403


async def test_the_secret_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with helper_that(tmp_path, always({"result": "denied", "user": ""})) as authenticator:
        authenticator.log.propagate = True
        await refusal(authenticator, password="very-secret")
    assert "Failed login for 'alice'" in caplog.text
    assert "very-secret" not in caplog.text


async def ask_address(peer_is_own: bool) -> str:
    """What a hub takes for the client's address when a sender on 127.0.0.1 or 127.0.0.2 forwards 203.0.113.9."""

    class Handler(web.RequestHandler):
        def get(self) -> None:
            self.write(client_address(self))

    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(web.Application([("/", Handler)]), xheaders=True)
    server.add_sockets(sockets)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", sockets[0].getsockname()[1], local_addr=("127.0.0.1" if peer_is_own else "127.0.0.2", 0)
    )
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.9\r\nConnection: close\r\n\r\n"
    )
    text = (await reader.read()).decode()
    writer.close()
    server.stop()
    return text.split("\r\n\r\n")[1]


async def test_a_forwarded_address_counts_from_the_hubs_own_host_alone() -> None:
    assert await ask_address(True) == "203.0.113.9"
    assert await ask_address(False) == "127.0.0.2"


def test_the_login_page_names_the_secret_as_the_site_does_and_browsers_do_not_offer_to_save_it() -> None:
    stock = (
        "{% block login_container %}<form>{% block password_input %}{% endblock %}</form>{% endblock %}"
        "{% block script %}{% endblock %}"
    )
    own = Path(helper.__file__).parent / "templates"
    pages = Environment(
        loader=ChoiceLoader([FileSystemLoader(own), DictLoader({"templates/login.html": stock})]), autoescape=True
    )
    site = SimpleNamespace(label="PIN followed by token code", banner="<b>Authorised use only</b>")
    html = pages.get_template("login.html").render(authenticator=site)
    assert "PIN followed by token code:" in html
    assert 'autocomplete="one-time-code"' in html
    assert "current-password" not in html
    assert "&lt;b&gt;Authorised use only" in html
    site.banner = ""
    assert "login-banner" not in pages.get_template("login.html").render(authenticator=site)
