"""Attacks, with figures: a part of each in `make test`, all of it in `make soak`."""

import hashlib
import hmac
import http.client
import json
import secrets
import shlex
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext
from testinfra.host import Host

Run = Callable[[str, str], str]
Guess = tuple[int, str]
PROGRAMS = Path(__file__).parent / "programs"
USERS = 100
FIRST_UID = 3001
STEP = 30


def figures(some: int, all_of_them: int) -> pytest.MarkDecorator:
    """How often: the first number in `make test`, the second in `make soak`."""
    full = pytest.param(all_of_them, marks=pytest.mark.soak)
    return pytest.mark.parametrize("times", [some, full])


def code(secret: bytes, moving: int) -> str:
    """The six digits of RFC 4226 for a counter, or for the number of a time step (RFC 6238)."""
    digest = hmac.new(secret, moving.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 0xF
    return f"{(int.from_bytes(digest[offset : offset + 4], 'big') & 0x7FFFFFFF) % 10**6:06d}"


@dataclass(frozen=True)
class Person:
    """Somebody of the crowd, with PIN and token."""

    name: str
    pin: str
    secret: bytes

    def password(self) -> str:
        """PIN and current code."""
        return self.pin + code(self.secret, int(time.time()) // STEP)


@pytest.fixture(scope="module")
def crowd(host: Callable[[str], Host], run: Run) -> Iterator[list[Person]]:
    """A hundred people who may sign in, on the login node alone; the last one's token counts instead of ticking."""
    people = [
        Person(f"u{number:03d}", f"{secrets.randbelow(10**6):06d}", secrets.token_bytes(20))
        for number in range(1, USERS + 1)
    ]
    gid = run("login1", "getent group hpcusers | cut -d: -f3")
    # by newusers' own format: name, password, uid, gid, text, home, shell
    rows = [
        f"{one.name}:{one.pin}:{FIRST_UID + number}:{gid}::/nonexistent:/usr/sbin/nologin"
        for number, one in enumerate(people)
    ]
    tokens = [f"{'HOTP' if one is people[-1] else 'HOTP/T30'} {one.name} + {one.secret.hex()}" for one in people]
    feed(host("login1"), "newusers", "\n".join(rows) + "\n")
    feed(
        host("login1"),
        "umask 077; while read -r type name rest; do echo $type $name $rest >/etc/oath/users/$name; done",
        "\n".join(tokens) + "\n",
    )
    yield people
    names = " ".join(one.name for one in people)
    run("login1", f"for name in {names}; do userdel $name; rm -f /etc/oath/users/$name; done; rmdir /nonexistent")


def feed(machine: Host, line: str, text: str) -> str:
    """Run a command as root with text on standard input; gives its output."""
    done = machine.run(f"bash -c {shlex.quote(line)} <<'END-OF-INPUT'\n{text.rstrip(chr(10))}\nEND-OF-INPUT")
    assert done.rc == 0, done.stderr
    return str(done.stdout)


def race(machine: Host, parallel: int, rounds: list[list[dict[str, str]]]) -> list[Counter[str]]:
    """What the login helper said, round by round."""
    order = json.dumps({"parallel": parallel, "rounds": rounds})
    program = (PROGRAMS / "login_race.py").read_text()
    feed(machine, "cat >/tmp/login_race.py", program)
    lines = feed(machine, "runuser -u hpchub -- python3 /tmp/login_race.py", order).splitlines()
    return [Counter(json.loads(line)) for line in lines]


@figures(25, 500)
def test_one_code_of_a_counting_token_never_lets_two_of_eight_in(
    times: int, crowd: list[Person], host: Callable[[str], Host]
) -> None:
    person = crowd[-1]
    rounds = [
        [{"user": person.name, "password": person.pin + code(person.secret, counter)}] for counter in range(times)
    ]
    seen = race(host("login1"), 8, rounds)
    print(f"\n{times} rounds of 8 with one code (HOTP): {Counter(one['ok'] for one in seen)} successes a round")
    assert [one["ok"] for one in seen] == [1] * times


@figures(25, 500)
def test_one_code_of_a_ticking_token_never_lets_two_of_eight_in(
    times: int, crowd: list[Person], host: Callable[[str], Host]
) -> None:
    seen: list[Counter[str]] = []
    while len(seen) < times:
        some = crowd[: min(times - len(seen), 8)]  # so few that their codes are still good when it is their turn
        crowd = crowd[len(some) : -1] + crowd[: len(some)] + crowd[-1:]
        seen += race(host("login1"), 8, [[{"user": one.name, "password": one.password()}] for one in some])
    print(f"\n{times} rounds of 8 with one code (TOTP): {Counter(one['ok'] for one in seen)} successes a round")
    assert max(one["ok"] for one in seen) == 1
    # a code that was used before in its time step lets nobody in; most have to be new, or nothing was tried
    assert sum(one["ok"] for one in seen) >= 0.9 * min(times, USERS - 1)


@pytest.mark.parametrize(("steps", "result"), [(-3, "denied"), (-1, "ok"), (3, "denied")])
def test_a_token_whose_clock_is_off_by_one_step_still_counts_and_by_three_does_not(
    steps: int, result: str, crowd: list[Person], host: Callable[[str], Host]
) -> None:
    time.sleep(max(0.0, 5 - (STEP - time.time() % STEP)))  # not at the end of a step
    one = crowd[30 + steps]
    password = one.pin + code(one.secret, int(time.time()) // STEP + steps)
    assert race(host("login1"), 1, [[{"user": one.name, "password": password}]]) == [Counter({result: 1})]


class Door:
    """The hub's login form, as a program uses it."""

    def __init__(self, url: str) -> None:
        self.host = url.removeprefix("https://")
        self.tls = ssl._create_unverified_context()

    def knock(self, user: str, password: str) -> tuple[int, float]:
        """Sign in from a browser that has never been here; gives the status (302: in) and the seconds it took."""
        began = time.monotonic()
        connection = http.client.HTTPSConnection(self.host, timeout=120, context=self.tls)
        connection.request("GET", "/hub/login")
        page = connection.getresponse()
        page.read()
        cookies = dict(
            value.split(";")[0].split("=", 1) for name, value in page.getheaders() if name.lower() == "set-cookie"
        )
        connection.request(
            "POST",
            "/hub/login",
            urlencode({"username": user, "password": password, "_xsrf": cookies["_xsrf"]}),
            {
                "Content-Type": "application/x-www-form-urlencoded",
                "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            },
        )
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, time.monotonic() - began


@pytest.fixture
def door(url: str) -> Door:
    return Door(url)


@pytest.mark.alone("a code is good for 60 s, and a hundred people wait")
def test_a_class_of_a_hundred_behind_one_address_signs_in_at_once(crowd: list[Person], door: Door) -> None:
    time.sleep(STEP - time.time() % STEP)  # a code that nobody has used, and time to use it
    with ThreadPoolExecutor(USERS) as pool:
        answers = list(pool.map(lambda one: door.knock(one.name, one.password()), crowd[:-1]))
    seconds = sorted(took for _, took in answers)
    print(f"\n{len(answers)} sign-ins at once: median {statistics.median(seconds):.1f} s, slowest {seconds[-1]:.1f} s")
    assert Counter(status for status, _ in answers) == {302: len(answers)}


@figures(60, 1200)
def test_while_somebody_guesses_at_one_account_others_sign_in_and_the_helper_is_spared(
    times: int, crowd: list[Person], door: Door, run: Run
) -> None:
    victim, other = crowd[0], crowd[1]
    asked = f"journalctl --no-pager --output=cat -t hpchub-login | grep -c 'user=\"{victim.name}\"' || true"
    before = int(run("login1", asked))
    with ThreadPoolExecutor(8) as pool:
        guesses = [pool.submit(door.knock, victim.name, f"{number:012d}") for number in range(times)]
        time.sleep(STEP - time.time() % STEP)
        status, took = door.knock(other.name, other.password())
        statuses = Counter(guess.result()[0] for guess in guesses)
    reached = int(run("login1", asked)) - before
    print(f"\n{times} guesses: {dict(statuses)}; {reached} reached PAM; another person signed in after {took:.1f} s")
    assert status == 302
    assert statuses.keys() <= {403, 429}
    assert reached <= 30, "SSH's own tally would be driven up"


# -- the hub's account in other hands: everything here runs as it, outside the sandbox of its unit

OUT_OF_REACH = [
    "/etc/shadow",
    "/etc/oath/users/alice",
    "/etc/hpchub/secrets/proxy-token",
    "/etc/hpchub/internal/services-ca.key",
    "/etc/hpchub/internal/proxy.key",
    "/etc/sudoers.d/hpchub",
    "/home/alice/.bash_history",
    "/home/alice",
]


@pytest.mark.parametrize("path", OUT_OF_REACH)
def test_the_hubs_account_cannot_read(path: str, host: Callable[[str], Host], run: Run) -> None:
    run("login1", f"test -e {path} || runuser -u alice -- touch {path}")
    assert host("login1").run(f"runuser -u hpchub -- cat {path}").rc != 0
    assert host("login1").run(f"runuser -u hpchub -- ls {path}/").rc != 0


RELAY = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/hpchub-jobs.sock")
connection.sendall(sys.stdin.buffer.read())
connection.shutdown(socket.SHUT_WR)
try:
    print(connection.makefile().read())
except ConnectionResetError:  # closed with what was sent unread
    print()
"""


@pytest.fixture(scope="module")
def relay(host: Callable[[str], Host]) -> Callable[[str], str]:
    """What the relay answers to the hub's account: "" if it refuses, else the job program's words."""
    feed(host("login1"), "cat >/tmp/relay.py", RELAY)
    return lambda request: feed(host("login1"), "runuser -u hpchub -- python3 /tmp/relay.py", request).strip()


@pytest.mark.parametrize("user", ["root", "slurm", "munge", "hpchub", "hpchub-jobs", "daemon", "#0", "-s", "nobody"])
def test_the_hubs_account_becomes_nobody_outside_the_enrolled_group(user: str, relay: Callable[[str], str]) -> None:
    assert relay(f'{user}\n{{"verb": "cancel", "job_ids": ["1"]}}') == ""


@pytest.mark.parametrize(
    "request_",
    [
        '{"verb": "exec", "argv": ["id"]}',
        '{"verb": "cancel", "job_ids": ["1 --user=alice"]}',
        '{"verb": "cancel", "job_ids": ["1"], "environment": {"LD_PRELOAD": "/tmp/x.so"}}',
        '{"verb": "submit", "job": {}, "environment": {"SLURM_CONF": "/tmp/slurm.conf"}, "tls": {}}',
        '{"verb": "submit"}',
        "[" * 5000,
        "null",
        "",
    ],
)
@pytest.mark.usefixtures("nothing_submitted")
def test_the_job_program_does_two_things_and_nothing_else(request_: str, relay: Callable[[str], str]) -> None:
    answer = json.loads(relay(f"alice\n{request_}"))
    assert answer["ok"] is False
    assert answer["message"]


@pytest.mark.parametrize(
    "smuggled", ["LD_PRELOAD=/tmp/x.so", "SLURM_CONF=/tmp/x", "PYTHONPATH=/tmp", "BASH_ENV=/tmp/x"]
)
def test_no_variable_of_the_caller_passes_sudo(smuggled: str, host: Callable[[str], Host], run: Run) -> None:
    program = "/usr/local/libexec/hpchub-jobs"
    run("login1", "echo 'import os; os.system(\"touch /tmp/smuggled\")' >/tmp/sitecustomize.py; rm -f /tmp/smuggled")
    done = host("login1").run(
        f"echo '{{}}' | runuser -u hpchub-jobs -- env {smuggled} sudo -n -u alice {program}; "
        f"echo '{{}}' | runuser -u hpchub-jobs -- sudo -n -u alice {smuggled} {program}"
    )
    assert "not allowed to set" in done.stderr or "password is required" in done.stderr
    assert '"verb must be' in done.stdout
    assert host("login1").run("test -e /tmp/smuggled").rc != 0


# -- what may shape a job


@figures(40, 800)
@pytest.mark.usefixtures("nothing_submitted")
def test_no_hostile_wish_becomes_a_job(times: int, api: Callable[..., tuple[int, object]]) -> None:
    hostile = [
        "x\n#SBATCH --uid=0",
        "$(id)",
        "`id`",
        "; id",
        "--wrap=id",
        "../../etc",
        "a" * 5000,
        "\0",
        "é",
        "",
        None,
        -1,
    ]
    fields = ["project", "queue", "walltime", "cores", "memory", "gpus", "reservation", "cmd", "environment", "script"]
    good = {"project": "climate", "queue": "interactive", "walltime": "00:10", "cores": "1", "memory": "1"}
    statuses: Counter[int] = Counter()
    for number in range(times):
        value = hostile[number % len(hostile)]
        field = fields[number % len(fields)]
        if field in good.keys() | {"gpus", "reservation"} and value in ("", None):
            continue  # as the form opens
        wish = {**good, field: value}
        shape = number % 4
        if shape == 0:
            body: object = {"user_options": wish}
        elif shape == 1:
            body = wish
        elif shape == 2:
            body = {"user_options": [wish]}
        else:
            body = {"user_options": {**wish, field: [value, {"a": value}]}}
        statuses[api("bob", "POST", "/users/bob/server", body)[0]] += 1
    print(f"\n{sum(statuses.values())} hostile wishes: {dict(statuses)}")
    assert set(statuses) <= {400, 422}


@pytest.mark.usefixtures("nothing_submitted")
@pytest.mark.parametrize(
    "query", ["opt-project=climate", "opt-cmd=id", "project=climate&queue=interactive", "opt-partition=x%0a%23SBATCH"]
)
def test_a_foreign_link_starts_and_shapes_nothing(query: str, signed_in: Callable[[str], BrowserContext]) -> None:
    answer = signed_in("bob").request.get(f"/hub/spawn/bob?{query}", headers={"Referer": "https://evil.example.org/"})
    assert "A link cannot start a server for you" in answer.text()
    assert signed_in("bob").request.get(f"/hub/spawn?{query}").status == 400
