"""The PAM stacks that a site can choose, each through the hub's login page, with real modules and a real RADIUS server.

The stack is switched as a site does it, by the playbook. People of this file's own come and go with it, because each
needs a code that nobody has used.
"""

import json
import os
import re
import shlex
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Run = Callable[[str, str], str]
pytestmark = pytest.mark.usefixtures("nothing_submitted")

ROOT = Path(__file__).parents[2]
DENIED = "Sign-in refused. Check user name and secret."
NEW_PIN = "A new PIN or a further step is needed"
UNAVAILABLE = "Sign-in is unavailable at the moment"
PIN, TOKEN = "48151623", "3132333435363738393031323334353637383930"  # of people who live for a minute
CROWD = 160
KEPT = (
    "etc/hpchub/login.json etc/pam.d/hpchub etc/systemd/system/hpchub-login@.service etc/systemd/system/hpchub.service"
)
SERVERS = [
    {"host": "ctl", "secret": "{{ lookup('ansible.builtin.password', demo_radius_secret_file) }}"},
    {"host": "ctl:1899", "secret": "nobody-listens-there"},
]


@dataclass(frozen=True)
class Answer:
    """What the person sees after pressing the button, and how long it took in seconds."""

    status: int
    signed_in: bool
    page: str
    seconds: float


SignIn = Callable[[str, str], Answer]


@pytest.fixture(scope="module")
def sign_in_by_http(url: str) -> SignIn:
    """The login page without a browser: many people at once."""

    def send(user: str, secret: str) -> Answer:
        jar, context = CookieJar(), ssl._create_unverified_context()
        handlers = (urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor(jar))
        browser = urllib.request.build_opener(*handlers)
        browser.open(f"{url}/hub/login", timeout=90).read()
        xsrf = next(cookie.value for cookie in jar if cookie.name == "_xsrf")
        form = urllib.parse.urlencode({"username": user, "password": secret, "_xsrf": xsrf}).encode()
        started = time.monotonic()
        try:
            answer = browser.open(f"{url}/hub/login?next=%2Fhub%2Fhome", data=form, timeout=90)
            status, page = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, page = error.code, error.read().decode()
        seconds = time.monotonic() - started
        try:
            signed_in = json.load(browser.open(f"{url}/hub/api/user", timeout=90))["name"] == user
        except urllib.error.HTTPError:
            signed_in = False
        return Answer(status, signed_in, page, seconds)

    return send


@pytest.fixture(scope="module", autouse=True)
def crowd(run: Run) -> Iterator[list[str]]:
    """Enrolled people whose password is PIN and whose token is TOKEN, here and where the RADIUS server looks."""
    names = [f"guest{number:03}" for number in range(CROWD)]
    hashed = run("login1", f"openssl passwd -6 {PIN}")
    passwd = "".join(f"{name}:x:{30000 + index}:2000::/nonexistent:/bin/sh\n" for index, name in enumerate(names))
    shadow = "".join(f"{name}:{hashed}:20000:0:99999:7:::\n" for name in names)
    put = f"printf %s {shlex.quote(passwd)} >>/etc/passwd; printf %s {shlex.quote(shadow)} >>/etc/shadow"
    put += (
        f"; umask 077; cd /etc/oath/users; for name in {' '.join(names)}; do echo HOTP/T30 $name + {TOKEN} >$name; done"
    )
    away = "sed -i /^guest[0-9]/d /etc/passwd /etc/shadow; rm -f /etc/oath/users/guest[0-9]*"
    for machine in ("login1", "ctl"):
        run(machine, f"{away}; {put}")
    yield names
    for machine in ("login1", "ctl"):
        run(machine, away)


@pytest.fixture(scope="module")
def guest(crowd: list[str]) -> Callable[[], str]:
    """Somebody who has not signed in yet."""
    return iter(crowd).__next__


@pytest.fixture(scope="module")
def code(run: Run) -> Callable[[], str]:
    """The code of now. It is taken early in its step, so that it is still good when it arrives."""

    def ask() -> str:
        return run("login1", f"oathtool --totp {TOKEN}")

    return ask


@pytest.fixture(scope="module")
def as_it_was(run: Run) -> Iterator[None]:
    """Whatever stack a test has chosen, the next module finds the one before."""
    run("login1", f"tar --create --file=/run/before.tar --directory=/ {KEPT}")
    yield
    run(
        "login1",
        "tar --extract --file=/run/before.tar --directory=/; rm /run/before.tar /etc/hpchub/secrets/radius.conf -f",
    )
    run("login1", "rm -f /etc/pam.d/centre; systemctl daemon-reload; systemctl restart hpchub-login.socket")


def playbook(url: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """What a site does after it has edited its inventory; of the roles, the one that it concerns."""
    port = str(urllib.parse.urlsplit(url).port)
    others = "singleuser,dask_site,jupyterhub_proxy,jupyterhub_spawner"
    arguments = ["site.yml", "--tags=configure", f"--skip-tags={others}"]
    return subprocess.run(
        ["ansible-playbook", *arguments, "--extra-vars", json.dumps(variables)],
        cwd=ROOT,
        env={**os.environ, "CLUSTER": os.environ.get("CLUSTER", "demo"), "CLUSTER_PORT": port},
        text=True,
        capture_output=True,
        check=False,
    )


def choose(url: str, **variables: Any) -> None:
    done = playbook(url, **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def reason(run: Run, user: str) -> str:
    """What the journal says about the last attempt of a user."""
    return run("login1", f"journalctl --no-pager --output=cat -t hpchub-login | grep 'user=\"{user}\"' | tail -1")


# -- oath_unix, the stack as shipped


def test_pin_and_code_sign_in_and_the_code_counts_once(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    name, secret = guest(), PIN + code()
    assert sign_in_by_http(name, secret).signed_in
    again = sign_in_by_http(name, secret)
    assert (again.status, again.signed_in) == (403, False)
    assert DENIED in again.page


def test_a_wrong_pin_is_refused_and_uses_the_code_up(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    name, now = guest(), code()
    for pin in ("48151624", PIN):
        answer = sign_in_by_http(name, pin + now)
        assert (answer.status, answer.signed_in) == (403, False)


@pytest.mark.parametrize("secret", [PIN + "000000", PIN, "{code}", "{code}{pin}", "{pin}{code}0"])
def test_code_without_pin_pin_without_code_and_a_wrong_code_are_refused(
    secret: str, guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    answer = sign_in_by_http(guest(), secret.format(code=code(), pin=PIN))
    assert (answer.status, answer.signed_in) == (403, False)


@pytest.mark.parametrize("hashed", ["", "!", "*"])
def test_the_code_alone_does_not_open_an_account_without_a_password(
    hashed: str, guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    name = guest()
    run("login1", f"sed -i 's|^{name}:[^:]*:|{name}:{hashed}:|' /etc/shadow")
    for secret in (code(), f"x{code()}"):
        assert not sign_in_by_http(name, secret).signed_in


def test_of_eight_attempts_with_one_code_at_once_one_gets_in(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    name, secret = guest(), PIN + code()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _number: sign_in_by_http(name, secret), range(8)))
    assert Counter(answer.signed_in for answer in answers)[True] == 1


@pytest.mark.alone("a code is good for 30 to 60 s, and a hundred people wait")
def test_a_hundred_people_who_sign_in_at_once_all_get_in(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    names, now = [guest() for _ in range(100)], code()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda name: sign_in_by_http(name, PIN + now), names))
    assert [(answer.status, name) for name, answer in zip(names, answers, strict=True) if not answer.signed_in] == []


# -- radius


@pytest.fixture(scope="module")
def radius(url: str, as_it_was: None) -> None:
    """The stack radius: the first server answers, the second does not."""
    choose(url, jupyterhub_pam_stack="radius", jupyterhub_pam_radius_servers=SERVERS,
           jupyterhub_pam_radius_timeout_seconds=3)  # fmt: skip


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Answer]]]:
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.mark.usefixtures("radius")
def test_radius_lets_in_who_the_server_accepts_and_a_code_counts_once(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    name, secret = guest(), PIN + code()
    assert sign_in_by_http(name, secret).signed_in
    again = sign_in_by_http(name, secret)
    assert (again.status, again.signed_in) == (403, False)
    assert DENIED in again.page


@pytest.mark.usefixtures("radius")
def test_radius_refuses_a_wrong_pin(guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn) -> None:
    answer = sign_in_by_http(guest(), f"4711{code()}")
    assert (answer.status, answer.signed_in) == (403, False)
    assert DENIED in answer.page


@pytest.mark.usefixtures("radius")
def test_a_token_that_wants_a_new_pin_is_sent_to_ssh(guest: Callable[[], str], sign_in_by_http: SignIn) -> None:
    answer = sign_in_by_http(guest(), "new-pin")
    assert (answer.status, answer.signed_in) == (403, False)
    assert NEW_PIN in answer.page


@pytest.mark.usefixtures("radius")
def test_an_account_that_expired_on_the_login_node_is_refused_whatever_radius_says(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    name = guest()
    run("login1", f"sed -i 's/^\\({name}:.*\\)::$/\\1:1:/' /etc/shadow")
    answer = sign_in_by_http(name, PIN + code())
    assert (answer.status, answer.signed_in) == (403, False)
    assert DENIED not in answer.page
    assert 'reason="account pam=' in reason(run, name)


@pytest.mark.usefixtures("radius")
def test_the_hub_cannot_read_the_radius_secret(host: Callable[[str], Host], run: Run) -> None:
    path = "/etc/hpchub/secrets/radius.conf"
    assert run("login1", f"stat --format='%a %U:%G' {path}") == "600 root:root"
    assert host("login1").run(f"runuser -u hpchub -- cat {path}").rc != 0
    hub = run("login1", "systemctl show --property=MainPID --value hpchub")
    assert host("login1").run(f"nsenter --target {hub} --mount cat {path}").rc != 0


@pytest.mark.usefixtures("radius")
def test_the_next_server_is_asked_when_one_does_not_answer(
    guest: Callable[[], str], code: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    path = "/etc/hpchub/secrets/radius.conf"
    run("login1", f"tac {path} >/run/turned && cat /run/turned >{path}")
    answer = sign_in_by_http(guest(), PIN + code())
    run("login1", f"tac {path} >/run/turned && cat /run/turned >{path}; rm /run/turned")
    assert answer.signed_in
    assert 5 < answer.seconds < 20


@pytest.mark.alone("somebody else has to be served within 8 s, while three wait")
@pytest.mark.usefixtures("radius")
@pytest.mark.parametrize(
    ("before", "after"),
    [("systemctl stop freeradius", "systemctl start freeradius"), ("pkill -STOP freeradius", "pkill -CONT freeradius")],
    ids=["down", "hanging"],
)
def test_while_no_radius_server_answers_sign_in_is_unavailable_and_the_hub_serves_everybody_else(
    before: str,
    after: str,
    guest: Callable[[], str],
    sign_in_by_http: SignIn,
    background: Callable[..., Future[Answer]],
    run: Run,
) -> None:
    run("ctl", before)
    try:
        waiting = [background(sign_in_by_http, guest(), "any-secret-123456") for _ in range(3)]
        time.sleep(2)
        other = sign_in_by_http("mallory", "any-secret-123456")
        assert (other.status, other.seconds < 8, [one.done() for one in waiting]) == (403, True, [False] * 3)
        answers = [one.result() for one in waiting]
    finally:
        run("ctl", after)
    assert {(answer.status, answer.signed_in) for answer in answers} == {(503, False)}
    assert all(UNAVAILABLE in answer.page for answer in answers)
    assert max(answer.seconds for answer in answers) < 25


@pytest.mark.usefixtures("radius")
@pytest.mark.parametrize("harm", ["rm -f", "chmod 644", "truncate --size=0", "chown alice"])
def test_a_radius_secret_that_is_missing_empty_or_somebody_elses_makes_sign_in_unavailable(
    harm: str, guest: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    path = "/etc/hpchub/secrets/radius.conf"
    run("login1", f"cp --preserve {path} /run/kept && {harm} {path}")
    answer = sign_in_by_http(guest(), "any-secret-123456")
    run("login1", f"rm -f {path} && mv /run/kept {path}")
    assert (answer.status, answer.signed_in) == (503, False)
    assert UNAVAILABLE in answer.page


# -- duo, whose servers nobody has here: what matters then is that nobody gets in


DUO = "[duo]\nikey = DINOBODY\nskey = nobodys\nhost = 127.0.0.1\nfailmode = secure\nautopush = yes\nprompts = 1\n"


@pytest.fixture(scope="module")
def duo(url: str, as_it_was: None, run: Run) -> Iterator[str]:
    """The stack duo, whose server is out of reach; gives its file."""
    path = "/etc/duo/pam_duo.conf"
    run("login1", f"umask 077; mkdir -p /etc/duo; printf %s {shlex.quote(DUO)} >{path}")
    choose(url, jupyterhub_pam_stack="duo")
    yield path
    run("login1", "rm -r /etc/duo")


@pytest.mark.usefixtures("duo")
def test_while_duo_is_out_of_reach_a_right_password_opens_nothing(
    guest: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    name = guest()
    wrong, right = sign_in_by_http(name, "4711"), sign_in_by_http(name, PIN)
    assert (wrong.status, wrong.signed_in) == (403, False)
    assert (right.status, right.signed_in) == (503, False)
    assert 'reason="authenticate pam=' in reason(run, name)
    assert "Failsecure Duo login" in run("login1", f"journalctl --no-pager --output=cat --since=-1min | grep {name}")


@pytest.mark.parametrize(
    "harm",
    ["rm -f", "chmod 644", "truncate --size=0", "sed -i s/secure/safe/"],
    ids=["missing", "open", "empty", "safe"],
)
def test_with_a_file_that_makes_pam_duo_let_everybody_in_nobody_gets_in(
    harm: str, duo: str, guest: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    run("login1", f"cp --preserve {duo} /run/kept && {harm} {duo}")
    name = guest()
    answer = sign_in_by_http(name, PIN)
    run("login1", f"rm -f {duo} && mv /run/kept {duo}")
    assert (answer.status, answer.signed_in) == (503, False)
    assert duo in reason(run, name)


# -- password


@pytest.fixture(scope="module")
def single(url: str, as_it_was: None) -> None:
    choose(url, jupyterhub_pam_stack="password", jupyterhub_pam_accept_single_factor=True)


@pytest.mark.usefixtures("single")
def test_with_the_stack_password_a_password_is_enough_and_a_wrong_one_is_not(
    guest: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    name = guest()
    wrong = sign_in_by_http(name, "4711")
    assert (wrong.status, wrong.signed_in) == (403, False)
    assert sign_in_by_http(name, PIN).signed_in
    assert not run("login1", "ls /etc/hpchub/secrets | grep radius || true"), "a secret that nobody needs was kept"


# -- own


@pytest.fixture(scope="module")
def own(url: str, as_it_was: None, run: Run) -> Callable[[str], None]:
    """The site's own service `centre`; gives what writes its auth phase."""

    def write(rules: str) -> None:
        text = f"{rules}\n@include common-account\n"
        run(
            "login1",
            f"printf %s {shlex.quote(text)} >/etc/pam.d/centre; rm -rf /run/faillock/*; mkdir -p /run/faillock",
        )

    write(FAILLOCK)
    choose(url, jupyterhub_pam_stack="own", jupyterhub_pam_service="centre",
           jupyterhub_pam_state_directories=["/run/faillock"])  # fmt: skip
    return write


FAILLOCK = """auth requisite pam_faillock.so preauth silent dir=/run/faillock deny=3
auth [success=1 default=bad] pam_unix.so nodelay
auth [default=die] pam_faillock.so authfail dir=/run/faillock deny=3
auth required pam_faillock.so authsucc dir=/run/faillock deny=3"""


def test_a_service_of_the_sites_own_counts_failures_and_locks(
    own: Callable[[str], None], guest: Callable[[], str], sign_in_by_http: SignIn
) -> None:
    own(FAILLOCK)
    name = guest()
    assert sign_in_by_http(name, PIN).signed_in
    assert [sign_in_by_http(name, "4711").status for _ in range(3)] == [403] * 3
    assert not sign_in_by_http(name, PIN).signed_in


@pytest.mark.parametrize(
    ("rules", "status", "page", "words"),
    [
        ("auth required pam_permit.so", 503, UNAVAILABLE, "success after 0 prompts"),
        ("auth required pam_unix.so\nauth required pam_oath.so usersfile=/etc/oath/users/${USER}", 403, NEW_PIN,
         "second prompt"),
        ("auth required pam_radius_auth.so conf=/run/radius.conf skip_passwd", 503, UNAVAILABLE, "echo-on prompt"),
        ("auth required pam_exec.so quiet /bin/sleep 300", 503, UNAVAILABLE, "no answer within 4 s"),
        ("auth required pam_exec.so quiet /bin/sh -c [kill -9 $PPID]", 503, UNAVAILABLE, "ended the process"),
        ("auth required pam_nowhere.so", 503, UNAVAILABLE, "authenticate pam="),
        ("", 503, UNAVAILABLE, "no rules for auth"),
    ],
    ids=["no prompt", "two prompts", "echo-on prompt", "hangs", "crashes", "no such module", "no auth phase"],
)  # fmt: skip
def test_whatever_a_module_does_but_ask_once_and_agree_lets_nobody_in(
    rules: str, status: int, page: str, words: str,
    own: Callable[[str], None], guest: Callable[[], str], sign_in_by_http: SignIn, run: Run,
) -> None:  # fmt: skip
    own(rules)
    secret = (ROOT / f"build/{os.environ.get('CLUSTER', 'demo')}/secrets/radius").read_text().split()[0]
    run("login1", f"umask 077; echo ctl {secret} 3 >/run/radius.conf")
    run("login1", 'sed -i \'s/"timeout_seconds": 60/"timeout_seconds": 4/\' /etc/hpchub/login.json')
    name = guest()
    try:
        answer = sign_in_by_http(name, PIN)
    finally:
        run(
            "login1",
            'sed -i \'s/"timeout_seconds": 4/"timeout_seconds": 60/\' /etc/hpchub/login.json; rm /run/radius.conf',
        )
    assert (answer.status, answer.signed_in) == (status, False)
    assert page in answer.page
    assert words in reason(run, name)
    assert PIN not in run("login1", "journalctl --no-pager --output=cat --since=-2min")


def test_without_its_file_pams_own_other_service_is_not_asked(
    own: Callable[[str], None], guest: Callable[[], str], sign_in_by_http: SignIn, run: Run
) -> None:
    name = guest()
    run("login1", "mv /etc/pam.d/other /run/other; echo auth sufficient pam_permit.so >/etc/pam.d/other")
    run("login1", "rm /etc/pam.d/centre")
    try:
        answer = sign_in_by_http(name, PIN)
    finally:
        run("login1", "mv /run/other /etc/pam.d/other")
    assert (answer.status, answer.signed_in) == (503, False)
    assert UNAVAILABLE in answer.page


def test_preflight_refuses_a_service_that_would_harm_before_anything_changes(
    url: str, own: Callable[[str], None], run: Run
) -> None:
    own("auth required pam_unix.so nullok\naccount required pam_faillock.so")
    before = run("login1", "sha256sum /etc/hpchub/login.json /etc/pam.d/* /etc/systemd/system/hpchub*")
    done = playbook(url, jupyterhub_pam_stack="own", jupyterhub_pam_service="centre")
    assert done.returncode != 0
    said = re.sub(r"\s+", " ", done.stdout)
    assert "/etc/pam.d/centre, line 1: nullok lets an account without a password in." in said
    assert "/etc/pam.d/centre, line 2: pam_faillock in the account phase." in said
    assert before == run("login1", "sha256sum /etc/hpchub/login.json /etc/pam.d/* /etc/systemd/system/hpchub*")
