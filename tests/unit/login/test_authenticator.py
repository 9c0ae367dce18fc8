"""Signing in at the hub: what the person reads, what the helper is sent, and which client address counts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiohttp import ClientSession, CookieJar
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader
from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.proxy import Proxy
from tornado import netutil
from traitlets.config import Config

from hpchub.lab import server
from hpchub.login import base, handlers
from hpchub.login.base import NOTICES, HpcAuthenticator, LoginRefused
from hpchub.login.pam import PamAuthenticator

HANDLER = SimpleNamespace(request=SimpleNamespace(remote_ip="192.0.2.7"))
Reply = Callable[[dict[str, str]], Awaitable[bytes]]


@asynccontextmanager
async def helper_that(tmp_path: Path, reply: Reply) -> AsyncIterator[PamAuthenticator]:
    """An authenticator whose login helper answers as `reply` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reply(json.loads(await reader.readline())))
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "helper.sock", backlog=4096)  # as systemd has it
    async with server:
        yield PamAuthenticator(
            socket=str(tmp_path / "helper.sock"), timeout_seconds=1, support_contact="help@example.org"
        )


def always(answer: object) -> Reply:
    async def reply(_request: dict[str, str]) -> bytes:
        return (answer if isinstance(answer, bytes) else json.dumps(answer).encode()) + b"\n"

    return reply


async def refusal(
    authenticator: HpcAuthenticator, user: str = "alice", password: str = "12345678", **more: str
) -> LoginRefused:
    with pytest.raises(LoginRefused) as caught:
        await authenticator.get_authenticated_user(HANDLER, {"username": user, "password": password, **more})
    return caught.value


async def test_a_person_whom_the_helper_accepts_is_let_in_under_the_name_that_was_checked(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def reply(request: dict[str, str]) -> bytes:
        seen.append(request)
        return json.dumps({"result": "ok", "user": request["user"]}).encode() + b"\n"

    async with helper_that(tmp_path, reply) as authenticator:
        model = await authenticator.get_authenticated_user(HANDLER, {"username": "Alice", "password": " pin 123456 "})
    assert model["name"] == "alice"
    assert seen == [{"user": "alice", "password": " pin 123456 ", "rhost": "192.0.2.7"}]


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
    absent = PamAuthenticator(socket=str(tmp_path / "absent.sock"))
    assert (await refusal(absent)).status_code == 503


async def test_of_190_people_at_once_some_wait_and_all_get_in(tmp_path: Path) -> None:
    busy, most = 0, 0

    async def reply(request: dict[str, str]) -> bytes:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.02)
        busy -= 1
        return json.dumps({"result": "ok", "user": request["user"]}).encode() + b"\n"

    async with helper_that(tmp_path, reply) as authenticator:
        authenticator.timeout_seconds = 60
        people = [{"username": f"user{number}", "password": "12345678"} for number in range(190)]
        models = await asyncio.gather(*(authenticator.get_authenticated_user(HANDLER, person) for person in people))
    assert [model["name"] for model in models] == [person["username"] for person in people]
    assert 100 < most <= base.ATTEMPTS_AT_ONCE


async def test_while_attempts_hang_in_every_place_an_account_is_still_asked_about(tmp_path: Path) -> None:
    async def reply(request: dict[str, str]) -> bytes:
        if "account" not in request:
            await asyncio.sleep(30)
        return b'{"result": "ok", "user": "alice"}\n'

    async with helper_that(tmp_path, reply) as authenticator:
        people = [refusal(authenticator, f"user{number}") for number in range(base.ATTEMPTS_AT_ONCE + 10)]
        hanging = asyncio.gather(*people)
        await asyncio.sleep(0.1)
        assert await authenticator.refresh_user(Person()) is True
        assert authenticator._standings["alice"].result == "ok"
        assert {error.status_code for error in await hanging} == {503}


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("alice", ""), ("alice", "é" * 256)])
async def test_a_form_that_lacks_something_asks_no_helper(tmp_path: Path, user: str, password: str) -> None:
    absent = PamAuthenticator(socket=str(tmp_path / "absent.sock"))
    assert (await refusal(absent, user, password)).status_code == 403


async def test_the_secret_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with helper_that(tmp_path, always({"result": "denied", "user": ""})) as authenticator:
        authenticator.log.propagate = True
        await refusal(authenticator, password="very-secret")
    assert "Failed login for 'alice'" in caplog.text
    assert "very-secret" not in caplog.text


async def test_whoever_does_not_agree_to_the_terms_is_asked_nothing_else_and_loses_no_code(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def reply(request: dict[str, str]) -> bytes:
        seen.append(request)
        return b'{"result": "ok", "user": "alice"}\n'

    async with helper_that(tmp_path, reply) as authenticator:
        authenticator.consent = "I obey the rules of use."
        for form in ({}, {"consent": ""}, {"consent": "no"}):
            for _ in range(6):  # more than the throttle bears
                error = await refusal(authenticator, **form)
                assert error.status_code == 403
                assert "tick the box" in error.jupyterhub_message
        assert seen == []
        form = {"username": "alice", "password": "12345678", "consent": "yes"}
        assert (await authenticator.get_authenticated_user(HANDLER, form))["name"] == "alice"


# -- too many failures


async def test_the_sixth_failure_in_a_row_reads_how_long_to_wait_and_never_reaches_pam(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, str]] = []

    async def reply(request: dict[str, str]) -> bytes:
        asked.append(request)
        return b'{"result": "denied", "user": ""}\n'

    async with helper_that(tmp_path, reply) as authenticator:
        authenticator.log.propagate = True
        assert [(await refusal(authenticator)).status_code for _ in range(6)] == [403] * 5 + [429]
        error = await refusal(authenticator)
        assert (await refusal(authenticator, "bob")).status_code == 403
    assert "Wait 1 second, then try again." in error.jupyterhub_message
    assert "not locked" in error.jupyterhub_message
    assert [request["user"] for request in asked] == ["alice"] * 5 + ["bob"]
    assert len([line for line in caplog.messages if line.startswith("Throttled login for 'alice'")]) == 2


async def test_of_a_hundred_guesses_at_once_five_reach_the_helper(tmp_path: Path) -> None:
    asked = 0

    async def reply(_request: dict[str, str]) -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.2)
        return b'{"result": "denied", "user": ""}\n'

    async with helper_that(tmp_path, reply) as authenticator:
        errors = await asyncio.gather(*(refusal(authenticator) for _ in range(100)))
    assert asked == 5
    assert sorted(error.status_code for error in errors) == [403] * 5 + [429] * 95


async def test_an_outage_counts_against_nobody(tmp_path: Path) -> None:
    absent = PamAuthenticator(socket=str(tmp_path / "absent.sock"))
    assert {(await refusal(absent)).status_code for _ in range(30)} == {503}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (59.5, "60 seconds"), (61, "2 minutes"), (900, "15 minutes")],
)
def test_a_wait_is_said_in_words(seconds: float, words: str) -> None:
    assert base.in_words(seconds) == words


# -- whoever signed in earlier


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Person:
    """A user as refresh_user sees one, without a database."""

    name = "alice"
    spawners: ClassVar[dict[str, object]] = {}
    orm_user = orm.User(name="alice")


async def test_every_answer_but_ok_ends_a_session_and_an_outage_only_after_half_an_hour(tmp_path: Path) -> None:
    says = "ok"

    async def reply(request: dict[str, str]) -> bytes:
        assert request == {"account": "alice"}
        return json.dumps({"result": says, "user": "alice" if says == "ok" else ""}).encode() + b"\n"

    async with helper_that(tmp_path, reply) as authenticator:
        clock = authenticator._clock = Clock()
        for word in ("ok", "denied", "ok", "locked", "ok", "expired", "ok", "new_pin", "ok"):
            says = word
            clock.now += base.CHECK_SECONDS
            assert await authenticator.refresh_user(Person()) is (says == "ok")
        for word in ("unavailable", "nonsense"):
            says = word
            clock.now += base.GRACE_SECONDS / 2 - 1
            assert await authenticator.refresh_user(Person()) is True
        clock.now += 3
        assert await authenticator.refresh_user(Person()) is False
        says = "ok"
        clock.now += base.FRESH_SECONDS + 1
        assert await authenticator.refresh_user(Person()) is True


async def test_a_good_word_about_somebody_else_is_none(tmp_path: Path) -> None:
    async with helper_that(tmp_path, always({"result": "ok", "user": "bob"})) as authenticator:
        clock = authenticator._clock = Clock()
        assert await authenticator.refresh_user(Person()) is True  # as an outage, for a time
        clock.now += base.GRACE_SECONDS + 1
        assert await authenticator.refresh_user(Person()) is False


async def test_the_requests_of_a_page_ask_once(tmp_path: Path) -> None:
    asked = 0

    async def reply(_request: dict[str, str]) -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        return b'{"result": "locked", "user": ""}\n'

    async with helper_that(tmp_path, reply) as authenticator:
        assert await asyncio.gather(*(authenticator.refresh_user(Person()) for _ in range(20))) == [False] * 20
    assert asked == 1


async def test_a_change_is_logged_with_its_reason_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = PamAuthenticator(socket=str(tmp_path / "absent.sock"))
    authenticator.log.propagate = True
    clock = authenticator._clock = Clock()
    for _ in range(3):
        await authenticator.refresh_user(Person())
        clock.now += base.CHECK_SECONDS
    changes = [line for line in caplog.messages if line.startswith("The account of")]
    assert changes == ["The account of 'alice' is unavailable, it was ok; the sign-in stays valid for 30 minutes"]


def test_a_disabled_account_is_out_of_the_hub_and_its_labs_within_five_minutes() -> None:
    lab_remembers = server.defaults("/home/alice", "token").HubAuth.cache_max_age
    authenticator = PamAuthenticator()
    assert 0 < authenticator.auth_refresh_age + lab_remembers + base.ACCOUNT_SECONDS <= 300
    assert authenticator.auth_refresh_strict  # for tokens, the ones of Labs' visitors too
    assert authenticator.refresh_pre_spawn


# -- in JupyterHub itself


class NoProxy(Proxy):
    """Browsers come straight to the hub."""

    should_start = False

    async def get_all_routes(self) -> dict[str, Any]:
        return {}

    async def add_route(self, _spec: str, _target: str, _data: object) -> None:
        """There is none."""

    async def delete_route(self, _spec: str) -> None:
        """There is none."""


class Hub:
    """A running JupyterHub with this authenticator, whose helper says "ok" unless `words` has another for the user."""

    check_seconds = 1

    def __init__(self) -> None:
        self.words: dict[str, str] = {}

    async def reply(self, request: dict[str, str]) -> bytes:
        name = request.get("account") or request["user"]
        word = self.words.get(name, "ok")
        return json.dumps({"result": word, "user": name if word == "ok" else ""}).encode() + b"\n"

    async def says(self, user: str, word: str) -> None:
        """The helper changes its mind, and the hub's own memory of it grows old."""
        self.words[user] = word
        await asyncio.sleep(self.check_seconds + 0.1)

    async def start(self, tmp_path: Path, authenticator: HpcAuthenticator) -> None:
        port = netutil.bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{port[0].getsockname()[1]}"
        port[0].close()
        config = Config()
        config.JupyterHub.hub_bind_url = self.url
        config.JupyterHub.db_url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
        config.JupyterHub.cookie_secret_file = str(tmp_path / "cookie_secret")
        config.JupyterHub.proxy_class = NoProxy
        config.JupyterHub.authenticator_class = PamAuthenticator
        config.PamAuthenticator.socket = authenticator.socket
        self.app = JupyterHub(config=config)
        await self.app.initialize([])
        self.app.authenticator.auth_refresh_age = self.check_seconds
        await self.app.start()

    async def sign_in(self, browser: ClientSession, user: str) -> None:
        """As the login page does."""
        await browser.get(f"{self.url}/hub/login")
        xsrf = next(cookie.value for cookie in browser.cookie_jar if cookie.key == "_xsrf")
        form = {"username": user, "password": "12345678", "_xsrf": xsrf}
        async with browser.post(f"{self.url}/hub/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()

    def token(self, user: str, session_id: str | None = None) -> str:
        """A token of a user, like the one that a Lab gets for a visitor with this browser session."""
        return str(orm.APIToken.new(user=orm.User.find(self.app.db, user), session_id=session_id))

    async def status(self, browser: ClientSession, token: str = "", cookies: dict[str, str] | None = None) -> int:
        """Of the question who one is, with the browser's cookie or with a token: a Lab asks it about its visitors."""
        headers = {"Authorization": f"token {token}"} if token else {}
        async with browser.get(f"{self.url}/hub/api/user", headers=headers, cookies=cookies) as answer:
            return answer.status


@asynccontextmanager
async def browser() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        yield session


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "FRESH_SECONDS", 0.0)
    running = Hub()
    async with helper_that(tmp_path, running.reply) as authenticator:
        await running.start(tmp_path, authenticator)
        yield running
        await running.app.cleanup()
    JupyterHub.clear_instance()


async def test_a_disabled_account_loses_session_and_tokens_and_the_next_person_does_not(hub: Hub) -> None:
    async with browser() as alices, browser() as bobs, browser() as nobodys:
        await hub.sign_in(alices, "alice")
        await hub.sign_in(bobs, "bob")
        visitor, bobs_visitor = hub.token("alice"), hub.token("bob")
        assert [await hub.status(alices), await hub.status(nobodys, visitor)] == [200, 200]
        await hub.says("alice", "locked")
        assert [await hub.status(nobodys, visitor), await hub.status(alices)] == [403, 403]
        assert [await hub.status(bobs), await hub.status(nobodys, bobs_visitor)] == [200, 200]
        await hub.says("alice", "ok")
        assert [await hub.status(nobodys, visitor), await hub.status(alices)] == [403, 403]  # they do not revive


async def test_the_token_that_a_server_holds_is_refused_and_comes_back_with_the_account(hub: Hub) -> None:
    async with browser() as alices, browser() as nobodys:
        await hub.sign_in(alices, "alice")
        token = hub.token("alice")
        user = next(iter(hub.app.users.values()))
        user.spawners[""].token_id = orm.APIToken.find(hub.app.db, token).id
        for word, status in (("ok", 200), ("expired", 403), ("ok", 200)):
            await hub.says("alice", word)
            assert await hub.status(nobodys, token) == status


async def test_an_outage_ends_nothing(hub: Hub) -> None:
    async with browser() as alices, browser() as nobodys:
        await hub.sign_in(alices, "alice")
        token = hub.token("alice")
        await hub.says("alice", "unavailable")
        assert [await hub.status(alices), await hub.status(nobodys, token)] == [200, 200]


async def test_signing_out_ends_the_tokens_of_this_browser_alone(hub: Hub) -> None:
    async with browser() as here, browser() as elsewhere, browser() as nobodys:
        await hub.sign_in(here, "alice")
        await asyncio.sleep(1.1)  # a login cookie knows its second
        await hub.sign_in(elsewhere, "alice")
        session = next(cookie.value for cookie in here.cookie_jar if cookie.key == "jupyterhub-session-id")
        mine, own = hub.token("alice", session), hub.token("alice")
        copy = {cookie.key: cookie.value for cookie in here.cookie_jar if cookie.key != "_xsrf"}
        assert await hub.status(nobodys, cookies=copy) == 200
        await here.get(f"{hub.url}/hub/logout")
        assert [await hub.status(here), await hub.status(nobodys, mine)] == [403, 403]
        assert [await hub.status(elsewhere), await hub.status(nobodys, own)] == [200, 200]
        login = {"jupyterhub-hub-login": copy["jupyterhub-hub-login"]}
        assert [await hub.status(nobodys, cookies=some) for some in (copy, login)] == [403, 403]
        await hub.sign_in(here, "alice")
        assert [await hub.status(here), await hub.status(nobodys, cookies=copy)] == [200, 403]


async def test_what_was_signed_out_is_remembered_as_long_as_it_could_be_used(hub: Hub) -> None:
    def remembered() -> list[float]:
        return [record.until for record in hub.app.db.query(handlers.SignedOut)]

    hub.app.db.add(handlers.SignedOut(digest="old", until=time.time() - 1))
    async with browser() as alices, browser() as nobodys:
        await hub.sign_in(alices, "alice")
        await alices.get(f"{hub.url}/hub/logout")
        (until,) = remembered()
        assert until - time.time() == pytest.approx(hub.app.cookie_max_age_days * 24 * 3600, abs=60)
        await nobodys.get(f"{hub.url}/hub/logout")
        assert len(remembered()) == 1, "somebody who is not signed in filled the table"


async def test_nobody_signs_in_under_the_host_name_of_a_user(hub: Hub) -> None:
    hub.app.tornado_application.settings |= {"subdomain_host": "https://hub.example.org", "domain": "hub.example.org"}
    hub.words["bob"] = "denied"
    async with browser() as bobs:
        for method, form in (("GET", None), ("POST", {"username": "bob", "password": "12345678"})):
            headers = {"Host": "Alice.hub.example.org"}
            address = f"{hub.url}/hub/login?next=/user/alice/"
            async with bobs.request(method, address, data=form, headers=headers, allow_redirects=False) as answer:
                assert answer.status == 302
                assert answer.headers["Location"] == "https://hub.example.org/hub/login?next=/user/alice/"
                assert "Set-Cookie" not in answer.headers
        async with bobs.get(f"{hub.url}/hub/login", headers={"Host": "HUB.example.org:8443"}) as answer:
            assert answer.status == 200


async def test_the_login_page_says_how_long_to_wait(hub: Hub) -> None:
    async with browser() as alices:
        await alices.get(f"{hub.url}/hub/login")
        hub.words["alice"] = "denied"
        xsrf = next(cookie.value for cookie in alices.cookie_jar if cookie.key == "_xsrf")
        form = {"username": "alice", "password": "12345678", "_xsrf": xsrf}
        answers = []
        for _ in range(6):
            async with alices.post(f"{hub.url}/hub/login", data=form) as answer:
                answers.append((answer.status, await answer.text()))
    assert [status for status, _page in answers] == [403] * 5 + [429]
    assert "Wait 1 second, then try again." in answers[5][1]


def test_the_login_page_names_the_secret_as_the_site_does_and_browsers_do_not_offer_to_save_it() -> None:
    stock = (
        "{% block login_container %}<form>{% block password_input %}{% endblock %}</form>{% endblock %}"
        "{% block script %}{% endblock %}"
    )
    own = Path(base.__file__).parent / "templates"
    pages = Environment(
        loader=ChoiceLoader([FileSystemLoader(own), DictLoader({"templates/login.html": stock})]), autoescape=True
    )
    site = SimpleNamespace(label="PIN followed by token code", banner="<b>Authorised use only</b>", consent="")
    html = pages.get_template("login.html").render(authenticator=site)
    assert "PIN followed by token code:" in html
    assert 'autocomplete="one-time-code"' in html
    assert "current-password" not in html
    assert "&lt;b&gt;Authorised use only" in html
    assert "consent" not in html
    site.banner, site.consent = "", "I obey <b>all</b> rules."
    html = pages.get_template("login.html").render(authenticator=site)
    assert "login-banner" not in html
    assert "I obey &lt;b&gt;all&lt;/b&gt; rules." in html
