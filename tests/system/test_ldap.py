"""Signing in at a directory: real slapd with one-time codes, and the hub switched to it as a site does."""

import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import APIResponse, BrowserContext

pytestmark = pytest.mark.proof

Run = Callable[[str, str], str]
SignIn = Callable[[str, str], APIResponse]
ROOT = Path(__file__).parents[2]
CLUSTER = os.environ.get("CLUSTER", "demo")
SECRETS = ROOT / "build" / CLUSTER / "secrets"
UNITS = ("ldap-server@636", "ldap-server@1636")
DENIED = "Sign-in refused. Check user name and secret."
UNAVAILABLE = "Sign-in is unavailable at the moment. Your account is not affected."
NO_SECRET = "000000000000"
SECONDS = 2
SITE = {
    "jupyterhub_login_method": "ldap",
    "jupyterhub_ldap_servers": ["ldap+starttls://ctl", "ldaps://ctl:1636"],
    "jupyterhub_ldap_ca_file": "/etc/ssl/certs/test-directory.pem",
    "jupyterhub_ldap_search_base": "ou=people,dc=example,dc=org",
    "jupyterhub_ldap_lookup_dn": "cn=lookup,dc=example,dc=org",
    "jupyterhub_ldap_allowed_groups": ["cn=hub,ou=groups,dc=example,dc=org"],
    "jupyterhub_ldap_timeout_seconds": SECONDS,
}


def configure(*options: str) -> None:
    """Render the site's configuration again."""
    others = "singleuser,dask_site,jupyterhub_proxy,jupyterhub_spawner"
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "site.yml", "--tags", "configure", "--skip-tags", others, *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"CLUSTER": CLUSTER}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def secret(name: str) -> str:
    return (SECRETS / name).read_text().strip()


@pytest.fixture(scope="module", autouse=True)
def hub_at_the_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site") / "ldap.json"
    site.write_text(json.dumps(SITE | {"jupyterhub_ldap_lookup_password": secret("ldap-lookup.password")}))
    try:
        configure("-e", f"@{site}")
        yield
    finally:
        configure()


@pytest.fixture
def browser_of_its_own(visitor: Callable[[], BrowserContext]) -> Iterator[BrowserContext]:
    context = visitor()
    yield context
    context.close()


@pytest.fixture
def attempt(browser_of_its_own: BrowserContext) -> SignIn:
    """Send the login form; gives what the person reads."""
    return lambda user, secret: sign_in_with(browser_of_its_own, user, secret)


def sign_in_with(context: BrowserContext, user: str, password: str) -> APIResponse:
    context.request.get("/hub/login")
    return context.request.post("/hub/login", form={"username": user, "password": password, "_xsrf": xsrf(context)})


def xsrf(context: BrowserContext) -> str:
    return next(c["value"] for c in context.cookies() if c["name"] == "_xsrf" and c["path"] == "/hub/")


@pytest.fixture
def binds(run: Run) -> Callable[[str], int]:
    """How often a user's secret has reached the directory since the test began."""
    since = run("ctl", "date +%s.%N")

    def count(user: str) -> int:
        journal = run("ctl", f"journalctl --no-pager --output=cat --since=@{since} -u 'ldap-server@*'")
        return len(re.findall(rf'BIND dn="uid={user},[^"]*" method=128', journal))

    return count


@contextmanager
def meanwhile(run: Run, host: str, begin: str, end: str) -> Iterator[None]:
    run(host, begin)
    try:
        yield
    finally:
        run(host, end)


@pytest.fixture(scope="module")
def erins_secret(password: Callable[[str], str]) -> str:
    return password("erin")


@pytest.fixture(scope="module")
def erins_browser(visitor: Callable[[], BrowserContext], known: dict[str, BrowserContext]) -> Iterator[BrowserContext]:
    """Erin's session ends here, elsewhere as well."""
    context = visitor()
    yield context
    context.close()
    known.pop("erin", None)


def test_pin_and_code_let_erin_in_and_reach_the_directory_once(
    erins_browser: BrowserContext, erins_secret: str, binds: Callable[[str], int]
) -> None:
    assert sign_in_with(erins_browser, "erin", erins_secret).ok
    assert erins_browser.request.get("/hub/api/user").json()["name"] == "erin"
    assert binds("erin") == 1


def test_a_code_that_was_used_is_refused(
    attempt: SignIn, erins_secret: str, browser_of_its_own: BrowserContext
) -> None:
    answer = attempt("erin", erins_secret)
    assert (answer.status, DENIED in answer.text()) == (403, True)
    assert browser_of_its_own.request.get("/hub/api/user").status == 403


def test_a_wrong_pin_with_the_right_code_and_a_name_that_nobody_has_are_refused_in_the_same_words(
    attempt: SignIn, password: Callable[[str], str], binds: Callable[[str], int]
) -> None:
    right = password("bob")
    pin, code = right[:-6], right[-6:]
    for user, wrong in (("bob", f"{int(pin) ^ 1:0{len(pin)}d}{code}"), ("mallory", right), ("*", right)):
        answer = attempt(user, wrong)
        assert (answer.status, DENIED in answer.text()) == (403, True), user
    assert (binds("bob"), binds("mallory")) == (1, 0)


def test_carol_who_is_not_in_the_group_reads_whom_to_ask(attempt: SignIn, password: Callable[[str], str]) -> None:
    answer = attempt("carol", password("carol"))
    assert answer.status == 403
    assert "it may not use this service" in answer.text()
    assert "help@example.org" in answer.text()


def test_an_account_that_this_host_has_closed_is_refused_whatever_the_directory_says(
    attempt: SignIn, password: Callable[[str], str], binds: Callable[[str], int]
) -> None:
    answer = attempt("dave", password("dave"))
    assert (answer.status, binds("dave")) == (403, 1)
    assert "This account is locked" in answer.text()


def test_an_account_that_this_host_closes_later_has_lost_its_session(erins_browser: BrowserContext, run: Run) -> None:
    request = erins_browser.request
    assert request.get("/hub/api/user").ok
    headers = {"X-XSRFToken": xsrf(erins_browser), "Content-Type": "application/json"}
    with meanwhile(run, "login1", "usermod --expiredate 1 erin", "usermod --expiredate '' erin"):
        assert request.post("/hub/api/users/erin/server", headers=headers, data="{}").status in (400, 403)
    assert request.get("/hub/api/user").status == 403


def test_with_the_first_of_two_servers_down_alice_signs_in(
    attempt: SignIn, password: Callable[[str], str], browser_of_its_own: BrowserContext, run: Run
) -> None:
    alices = password("alice")
    with meanwhile(run, "ctl", f"systemctl stop {UNITS[0]}", f"systemctl start {UNITS[0]}"):
        assert attempt("alice", alices).ok
    assert browser_of_its_own.request.get("/hub/api/user").json()["name"] == "alice"


def test_with_no_server_people_read_that_sign_in_is_unavailable_and_the_log_says_why(attempt: SignIn, run: Run) -> None:
    with meanwhile(run, "ctl", f"systemctl stop {' '.join(UNITS)}", f"systemctl start {' '.join(UNITS)}"):
        answer = attempt("bob", NO_SECRET)
    assert (answer.status, UNAVAILABLE in answer.text()) == (503, True)
    journal = run("login1", "journalctl --no-pager --output=cat --since=-1min -u hpchub")
    assert re.search(r"LDAP server ldaps://ctl:1636: LDAPSocketOpenError: .*refused", journal)


@pytest.mark.parametrize("certificate", ["untrusted", "other-name"])
def test_a_server_whose_certificate_is_not_right_never_gets_the_secret(
    attempt: SignIn, run: Run, binds: Callable[[str], int], certificate: str
) -> None:
    def take(name: str) -> str:
        links = " && ".join(f"ln -sfn {name}.{kind} /etc/ldap/tls/server.{kind}" for kind in ("pem", "key"))
        return f"{links} && systemctl restart {' '.join(UNITS)}"

    with meanwhile(run, "ctl", take(certificate), take("right")):
        answer = attempt("bob", NO_SECRET)
    assert (answer.status, UNAVAILABLE in answer.text()) == (503, True)
    assert binds("bob") == 0
    journal = run("login1", "journalctl --no-pager --output=cat --since=-1min -u hpchub")
    why = {"untrusted": "unable to get local issuer certificate", "other-name": "Hostname mismatch"}[certificate]
    assert len(re.findall(rf"LDAP server .*{why}", journal)) >= 2


@pytest.mark.alone("the login page has 2 s")
def test_a_server_that_does_not_answer_holds_up_nobody_else(run: Run, url: str) -> None:
    trusting = ssl._create_unverified_context()

    def page() -> float:
        started = time.monotonic()
        urllib.request.urlopen(f"{url}/hub/login", context=trusting, timeout=30).read()
        return time.monotonic() - started

    def sign_in(user: str) -> tuple[int, float]:
        started = time.monotonic()
        cookies = urllib.request.HTTPCookieProcessor()
        browser = urllib.request.build_opener(cookies, urllib.request.HTTPSHandler(context=trusting))
        browser.open(f"{url}/hub/login", timeout=60).read()
        value = next(cookie.value for cookie in cookies.cookiejar if cookie.name == "_xsrf" and cookie.path == "/hub/")
        form = f"username={user}&password={NO_SECRET}&_xsrf={quote(value or '')}".encode()
        try:
            return browser.open(f"{url}/hub/login", form, timeout=60).status, time.monotonic() - started
        except urllib.error.HTTPError as error:
            return error.code, time.monotonic() - started

    before = [page() for _ in range(5)]
    signal = "systemctl kill --signal={} " + " ".join(UNITS)
    with meanwhile(run, "ctl", signal.format("STOP"), signal.format("CONT")), ThreadPoolExecutor(24) as people:
        attempts = [people.submit(sign_in, f"nobody{number}") for number in range(24)]
        during = []
        while not all(attempt.done() for attempt in attempts):
            during.append(page())
        answers = [attempt.result() for attempt in attempts]
    slowest = max(seconds for _status, seconds in answers)
    print(
        f"login page: {max(before):.2f} s at most before, {max(during):.2f} s of {len(during)} while both servers are"
        f" silent; 24 sign-ins at once: {slowest:.1f} s at most"
    )
    assert {status for status, _seconds in answers} == {503}
    assert slowest > SECONDS, "nobody waited for a server"
    assert max(during) < 2


def test_secrets_are_in_no_log_and_the_lookup_password_in_one_closed_file(erins_secret: str, run: Run) -> None:
    journal = run("login1", "journalctl --no-pager --output=cat --since=-10min")
    lookup = secret("ldap-lookup.password")
    assert "erin" in journal
    assert [found for found in (erins_secret, lookup) if found in journal] == []
    assert run("login1", f"grep -rl {lookup} /etc/hpchub") == "/etc/hpchub/secrets/ldap-password"
    assert run("login1", "stat -c '%a %U' /etc/hpchub/secrets/ldap-password") == "600 root"
