"""What the world sees of the hub: TLS, headers, cookies, the login page, the way out, and how narrow each unit is."""

import re
import socket
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

Run = Callable[[str, str], str]

EXPOSURE = {
    "hpchub-proxy.service": 2.5,
    "hpchub-culler.service": 2.5,
    "hpchub.service": 2.5,
    "hpchub-jobs@1.service": 2.5,
    "hpchub-login@1.service": 3.0,
}
"""The most that `systemd-analyze security` may say of each unit: 0 is shut in, 10 is free."""
ON_PBS = {"hpchub.service": 6.0, "hpchub-jobs@1.service": 6.6}
"""On Debian 12: a set-uid program of PBS has to work in these."""


def handshake(url: str, version: ssl.TLSVersion, ciphers: str = "") -> tuple[str, str]:
    """Version and cipher that the public port agrees to; raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")  # as weak as the client can be: the server has to refuse
    context.minimum_version = context.maximum_version = version
    host, port = url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as plain, context.wrap_socket(plain) as wrapped:
        cipher = wrapped.cipher()
        assert cipher
        return str(wrapped.version()), cipher[0]


@pytest.mark.parametrize(("version", "name"), [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")])
def test_tls_1_2_and_1_3_are_spoken_with_an_authenticated_cipher(url: str, version: str, name: str) -> None:
    agreed, cipher = handshake(url, ssl.TLSVersion[version])
    assert agreed == name
    assert re.search("GCM|POLY1305", cipher)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # that they are out of date is the point
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_an_older_tls_is_refused(url: str, version: str) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
        handshake(url, ssl.TLSVersion[version])


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256"])
def test_a_cipher_of_the_cbc_kind_or_without_forward_secrecy_is_refused(url: str, cipher: str) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.handshake.failure"):
        handshake(url, ssl.TLSVersion.TLSv1_2, cipher)


@pytest.fixture(scope="module")
def alice(signed_in: Callable[[str], BrowserContext], lab: Callable[[str], str]) -> BrowserContext:
    """Her browser, in which she has signed in and opened her Lab and the hub's pages."""
    lab("alice")
    page = signed_in("alice").new_page()
    page.goto("/user/alice/lab")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
    page.goto("/hub/home")
    page.close()
    return signed_in("alice")


@pytest.mark.parametrize("path", ["/hub/login", "/hub/home", "/hub/nowhere", "/hub/api/user", "/user/nobody/lab"])
def test_the_hubs_pages_are_framed_by_nobody_and_name_no_version(
    alice: BrowserContext, visitor: Callable[[], BrowserContext], path: str
) -> None:
    headers = (visitor() if path == "/hub/login" else alice).request.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert not headers.keys() & {"server", "x-jupyterhub-version", "x-powered-by"}


@pytest.mark.parametrize("path", ["/hub/login", "/user/alice/api/status"])
@pytest.mark.parametrize("name", ["hub.example.org", "192.0.2.7", "login1:8443"])
def test_hub_and_lab_answer_under_whatever_name_they_are_asked_by(alice: BrowserContext, path: str, name: str) -> None:
    assert alice.request.get(path, headers={"Host": name}).ok


def test_a_labs_answers_name_no_version_either(alice: BrowserContext) -> None:
    headers = alice.request.get("/user/alice/api/status").headers
    assert not headers.keys() & {"server", "x-jupyterhub-version", "x-powered-by"}


def test_a_browser_is_not_told_hsts_of_a_self_signed_certificate(alice: BrowserContext) -> None:
    for path in ("/hub/login", "/user/alice/api/status"):
        assert "strict-transport-security" not in alice.request.get(path).headers


def test_every_cookie_is_secure_and_ends_with_the_session(alice: BrowserContext, run: Run) -> None:
    hours = float(run("login1", "sed -n 's/^ *session_hours: //p' /etc/hpchub/site.yml"))
    cookies = {f"{cookie['name']} {cookie['path']}": cookie for cookie in alice.cookies()}
    assert {
        "jupyterhub-hub-login /hub/", "_xsrf /hub/", "jupyterhub-session-id /",
        "jupyterhub-user-alice /user/alice/", "_xsrf /user/alice/",
    } <= cookies.keys()  # fmt: skip
    for name, cookie in cookies.items():
        assert cookie["secure"], name
        assert cookie["sameSite"] in ("Lax", "Strict"), name
        assert cookie["httpOnly"] == (cookie["name"] != "_xsrf"), name
        assert 0 < cookie["expires"] - time.time() <= hours * 3600 + 5, name


def test_the_token_that_a_lab_holds_for_a_visitor_ends_with_the_session(alice: BrowserContext, run: Run) -> None:
    hours = float(run("login1", "sed -n 's/^ *session_hours: //p' /etc/hpchub/site.yml"))
    value = {cookie["name"]: cookie["value"] for cookie in alice.cookies()}
    signed_in = int(re.findall(r"\|10:(\d+)\|", value["jupyterhub-hub-login"])[0])
    program = (
        "import sqlite3, sys; db = sqlite3.connect('file:/var/lib/hpchub/hub.sqlite?mode=ro', uri=True);"
        "print(*db.execute('select expires_at from api_tokens where session_id = ?', sys.argv[1:]))"
    )
    shown = run("login1", f'python3 -c "{program}" {value["jupyterhub-session-id"]}')
    ends = {datetime.fromisoformat(f"{end}Z").timestamp() for end in re.findall(r"\d+-\d+-\d+ \d+:\d+:\d+", shown)}
    assert ends == {signed_in + hours * 3600}


def test_a_second_click_sends_nothing_and_no_password_manager_is_asked(visitor: Callable[[], BrowserContext]) -> None:
    page = visitor().new_page()
    sent = []
    page.on("request", lambda request: sent.append(request.method) if "/hub/login" in request.url else None)
    page.goto("/hub/login")
    expect(page.locator("input[name=password]")).to_have_attribute("autocomplete", "one-time-code")
    page.fill("input[name=username]", "mallory")
    page.fill("input[name=password]", "123456654321")
    page.locator("#login_submit").dblclick()
    expect(page.locator(".login_error")).to_be_visible()
    assert sent == ["GET", "POST"]


def test_signing_out_leaves_copies_of_both_cookies_worthless(
    visitor: Callable[[], BrowserContext],
    sign_in: Callable[[Page, str, str], None],
    password: Callable[[str], str],
    alice: BrowserContext,
    wait_until: Callable[..., None],
) -> None:
    here, thief = visitor(), visitor()
    page = here.new_page()
    sign_in(page, "alice", password("alice"))
    page.goto("/user/alice/lab")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
    thief.add_cookies([cookie for cookie in here.cookies() if cookie["name"] != "_xsrf"])
    asked = ("/hub/api/user", "/user/alice/api/contents")

    def answers(browser: BrowserContext) -> list[int]:
        return [browser.request.get(path, max_redirects=0).status for path in asked]

    assert answers(thief) == [200, 200]
    page.goto("/hub/logout")
    expect(page.locator("input[name=username]")).to_be_visible()
    assert answers(thief)[0] == 403
    wait_until("the Lab has forgotten the visitor", lambda: answers(thief)[1] != 200, 75)
    assert answers(alice) == [200, 200], "her other browser lost its session"


@pytest.mark.parametrize("unit", EXPOSURE)
def test_each_unit_is_as_shut_in_as_it_was_reviewed(
    unit: str, batch: Any, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = run("login1", f"systemd-analyze security --no-pager {unit} | tail -n 1")
    with capsys.disabled():
        print(f"\n{verdict}")
    (exposure,) = re.findall(r": ([\d.]+) ", verdict)
    assert float(exposure) <= (EXPOSURE | (ON_PBS if batch.name == "pbs" else {}))[unit]


def test_a_token_that_a_user_makes_ends_whatever_was_asked_for(api: Callable[..., tuple[int, Any]], run: Run) -> None:
    hours = float(run("login1", "sed -n 's/^ *token_hours: //p' /etc/hpchub/site.yml"))
    status, token = api("alice", "POST", "/users/alice/tokens", {})
    assert status == 201
    ends = datetime.fromisoformat(token["expires_at"]).timestamp()
    assert 0 < ends - time.time() <= hours * 3600
    assert api("alice", "DELETE", f"/users/alice/tokens/{token['id']}")[0] == 204
    assert api("alice", "POST", "/users/alice/tokens", {"expires_in": int(hours * 3600) + 60})[0] == 400
