"""A strict site: its own certificate, a host name for each user, terms to agree to, all below a path of the site's.

The hub is made so, and back.
"""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

Run = Callable[[str, str], str]
Origin = Callable[[str], str]

ROOT = Path(__file__).parents[2]

HUB, ALICE, BOB = "hub.example.org", "alice.hub.example.org", "bob.hub.example.org"
PATH = "/interactive"
TERMS = "I obey the rules of use."
SITE = {
    "jupyterhub_subdomains": True,
    "jupyterhub_login_consent": TERMS,
    "jupyterhub_proxy_tls_mode": "files",
    "jupyterhub_proxy_tls_certificate": "/root/web/chain.pem",
    "jupyterhub_proxy_tls_private_key": "/root/web/key.pem",
}
CERTIFICATES = f"""set -e; umask 077; mkdir -p /root/web; cd /root/web
new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30"
$new -subj /CN=ca -keyout ca.key -out ca.pem
$new -subj /CN={HUB} -CA ca.pem -CAkey ca.key -addext subjectAltName=DNS:{HUB},DNS:*.{HUB} \
  -addext basicConstraints=CA:FALSE -keyout key.pem -out own.pem
cat own.pem ca.pem >chain.pem"""


def configure(*arguments: str) -> None:
    """Run site.yml as a site does after it edited its inventory."""
    done = subprocess.run(
        ["ansible-playbook", "site.yml", "--tags", "configure", *arguments],
        cwd=ROOT, env=os.environ, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.fixture(scope="module")
def origin(url: str) -> Origin:
    """The origin of a host name, as the browser sees it: this machine publishes the hub on a port of its own."""
    return lambda host: f"https://{host}:{url.rsplit(':', 1)[1]}"


@pytest.fixture(scope="module")
def authority(run: Run, origin: Origin) -> Iterator[str]:
    """The hub as SITE says, and afterwards as it was; gives the authority that a browser of such a site knows."""
    run("login1", CERTIFICATES)
    try:
        configure("-e", json.dumps({**SITE, "jupyterhub_url": f"{origin(HUB)}{PATH}/"}))
        yield run("login1", "cat /root/web/ca.pem")
    finally:
        configure()
        run("login1", "rm -r /root/web")


@pytest.fixture(scope="module")
def context(authority: str, origin: Origin, browser: Browser) -> BrowserContext:
    return browser.new_context(base_url=origin(HUB), ignore_https_errors=True, locale="en-GB")


@pytest.fixture(scope="module")
def page(context: BrowserContext, origin: Origin, password: Callable[[str], str]) -> Iterator[Page]:
    """Bob's window with his Lab in it; a second server of his starts meanwhile."""
    page = enter(context, "bob", password("bob"))
    stop(page)  # what an earlier test may have left: a Lab knows the address it was started under
    try:
        assert ask(page, "POST", "servers/second", {"user_options": {"project": "climate"}}) in (201, 202)
        page.goto(f"{PATH}/hub/spawn")
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_url(f"{origin(BOB)}{PATH}/user/bob/lab**", timeout=90_000)
        expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)
        yield page
    finally:
        page.goto(f"{origin(HUB)}{PATH}/hub/home")
        stop(page)


def enter(context: BrowserContext, user: str, secret: str) -> Page:
    """A window of a user's, on the hub's own page."""
    page = context.new_page()
    page.goto(f"{PATH}/hub/login?next={PATH}/hub/home")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", secret)
    page.get_by_label(TERMS).check()
    page.click("#login_submit")
    page.wait_for_url("**/hub/home")
    return page


def stop(page: Page) -> None:
    """Stop both servers of bob and wait until they are gone: a 204 says so, a 404 that there is none."""
    for _ in range(60):
        answers = {ask(page, "DELETE", server) for server in ("server", "servers/second")}
        if answers <= {204, 404}:
            return
        time.sleep(1)
    raise AssertionError(f"bob's servers do not stop: {answers}")


def ask(page: Page, method: str, path: str, body: object = None) -> int:
    """The status of a question about bob to the hub's REST API, asked by the page."""
    program = """async ([method, path, body]) => {
      const headers = {"X-XSRFToken": window.jhdata.xsrf_token, "Content-Type": "application/json"};
      const address = window.jhdata.base_url + "api/users/bob/" + path;
      return (await fetch(address, {method, headers, body: JSON.stringify(body)})).status;
    }"""
    return int(page.evaluate(program, [method, path, body]))


def headers(authority: str, address: str, path: str) -> dict[str, str]:
    """The headers of an answer, over TLS that is verified for this host name."""
    host, port = address.removeprefix("https://").split(":")
    secure = ssl.create_default_context(cadata=authority)
    with socket.create_connection(("127.0.0.1", int(port)), timeout=15) as plain:
        connection = http.client.HTTPConnection(host, int(port))
        connection.sock = secure.wrap_socket(plain, server_hostname=host)
        connection.request("GET", path)
        return {name.lower(): value for name, value in connection.getresponse().getheaders()}


def test_without_agreeing_to_the_terms_nobody_signs_in_and_no_code_is_lost(
    context: BrowserContext, password: Callable[[str], str], run: Run
) -> None:
    asked = "journalctl --no-pager --output=cat -t hpchub-login | grep -c 'user=\"bob\"' || true"
    page = context.new_page()
    before = run("login1", asked)
    page.goto(f"{PATH}/hub/login")
    page.fill("input[name=username]", "bob")
    page.fill("input[name=password]", "000000000000")
    page.click("#login_submit")
    assert page.evaluate("document.querySelector('#consent_input').validity.valueMissing")
    page.evaluate("document.querySelector('#consent_input').remove()")  # as somebody does who sends a form of their own
    page.click("#login_submit")
    expect(page.locator(".login_error")).to_contain_text("agree to the terms")
    assert run("login1", asked) == before
    page.close()


def test_the_lab_has_a_host_name_of_its_own_and_so_has_a_named_server(page: Page, origin: Origin) -> None:
    page.goto(f"{origin(HUB)}{PATH}/user/bob/second/lab")
    page.wait_for_url(f"{origin(BOB)}{PATH}/user/bob/second/lab**", timeout=60_000)
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=60_000)


def test_what_runs_beside_a_lab_opens_under_its_host_name_as_a_dask_dashboard_does(
    page: Page, origin: Origin, run: Run
) -> None:
    for node in ("c1", "c2"):  # wherever his Lab is
        run(node, "systemd-run --quiet --collect --uid=bob timeout 60 python3 -m http.server 47123 --bind 127.0.0.1")
        run(node, "timeout 20 sh -c 'until ss -ltn | grep -q :47123; do sleep 0.5; done'")
    answer = page.goto(f"{origin(BOB)}{PATH}/user/bob/proxy/47123/etc/")
    assert answer
    assert answer.status == 200
    expect(page.get_by_role("heading", name="Directory listing for /etc/")).to_be_visible()
    assert page.url == f"{origin(BOB)}{PATH}/user/bob/proxy/47123/etc/"


def test_each_of_his_labs_has_its_own_dask_clusters_whose_plots_and_links_open_for_him_alone(
    page: Page,
    context: BrowserContext,
    browser: Browser,
    origin: Origin,
    password: Callable[[str], str],
    dask_panel: Callable[[Page], Locator],
    plot: Callable[[Page, Locator, str], None],
    live: Callable[[BrowserContext, str], None],
) -> None:
    stranger = browser.new_context(base_url=origin(HUB), ignore_https_errors=True)
    alice = enter(stranger, "alice", password("alice"))
    for server in ("", "second/"):
        base = f"{PATH}/user/bob/{server}"
        page.goto(f"{origin(BOB)}{base}lab")
        panel = dask_panel(page)
        panel.get_by_role("button", name="NEW").click()
        link = panel.locator(".dask-ClusterListingItem a")  # one: what the other Lab has is not here
        expect(link).to_have_attribute("href", re.compile(rf"^{base}proxy/\d+/status$"), timeout=30_000)
        plot(page, panel, "Task Stream")
        address = f"{origin(BOB)}{link.get_attribute('href')}"
        live(context, address)
        answer = alice.goto(address)
        assert answer
        assert answer.status == 403
    stranger.close()


def test_a_script_in_a_lab_reads_neither_the_hub_nor_another_lab(page: Page, origin: Origin) -> None:
    page.goto(f"{origin(BOB)}{PATH}/user/bob/lab")
    for address in (f"{origin(HUB)}{PATH}/hub/token", f"{origin(ALICE)}{PATH}/user/alice/lab"):
        program = "address => fetch(address, {credentials: 'include'}).then(() => 'read', error => error.name)"
        assert page.evaluate(program, address) == "TypeError"


def test_a_users_host_name_gets_no_login_cookie(page: Page, context: BrowserContext, origin: Origin) -> None:
    cookies = {cookie["name"]: cookie for cookie in context.cookies()}
    login = cookies["__Host-jupyterhub-hub-login"]
    assert (login["domain"], login["secure"], login["httpOnly"]) == (HUB, True, True)
    assert cookies["__Host-jupyterhub-user-bob"]["domain"] == BOB
    stranger = page.context.browser.new_context(ignore_https_errors=True).new_page()
    stranger.goto(f"{origin(BOB)}{PATH}/hub/login?next={PATH}/user/bob/lab")
    assert stranger.url == f"{origin(HUB)}{PATH}/hub/login?next={PATH}/user/bob/lab"
    stranger.context.close()


def test_hub_and_labs_say_that_nobody_speaks_plain_http_here(authority: str, page: Page, origin: Origin) -> None:
    year = "max-age=31536000; includeSubDomains"
    for host, path in (
        (HUB, f"{PATH}/hub/login"),
        (HUB, "/"),
        (BOB, f"{PATH}/user/bob/api/status"),
        (f"nobody.{HUB}", "/"),
    ):
        assert headers(authority, origin(host), path)["strict-transport-security"] == year
