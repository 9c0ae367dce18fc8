"""Who runs as whom, and what of it anybody else can reach or read."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext
from testinfra.host import Host

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
MACHINES = ("login1", "c1", "c2")


@pytest.fixture(scope="module")
def job(lab: Callable[[str], str], jobs: Jobs) -> dict[str, str]:
    """The job of alice's Lab, running."""
    number = lab("alice")
    return next(job for job in jobs("alice") if job["id"] == number)


@pytest.fixture(scope="module")
def script(job: dict[str, str], order: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What only root and alice can see: the order that the job's script carries."""
    return order(job["id"])


@pytest.fixture(scope="module")
def secrets(script: dict[str, Any], run: Run) -> list[str]:
    """Everything that must stay where it is: the site's secrets, the hub's cookie secret, alice's token and key."""
    kept = run("login1", "for f in $(find /etc/hpchub/secrets -type f); do cat $f; echo; done").split()
    kept += run("login1", "for f in /etc/hpchub/internal/*.key; do sed -n 2p $f; done").split()
    cookie = run("login1", "find /var/lib/hpchub -name '*cookie_secret*' -exec cat {} +").split()
    assert len(kept) >= 7
    assert cookie
    key = script["tls"]["key"].splitlines()[1]
    return [*kept, *cookie, script["environment"]["JUPYTERHUB_API_TOKEN"], key]


def account(run: Run, unit: str) -> str:
    """The user that a running unit's process has."""
    return run("login1", f"ps -o user= -p $(systemctl show --property=MainPID --value {unit})")


def test_hub_and_proxy_do_not_run_as_root(run: Run) -> None:
    assert account(run, "hpchub") == "hpchub"
    assert account(run, "hpchub-proxy") in ("hpchub-proxy", "hpchub-+")


def test_of_our_units_only_the_login_helper_runs_as_root(run: Run) -> None:
    files = run("login1", "systemctl list-unit-files --no-legend 'hpchub*.service' | cut -d' ' -f1").split()
    units = {name: name.replace("@.", "@1.") for name in files}
    users = {name: run("login1", f"systemctl show --property=User --value {unit}") for name, unit in units.items()}
    assert {name for name, user in users.items() if user in ("", "root")} == {"hpchub-login@.service"}


SPEAK = """
import os, socket, sys
for uid, gid in [(0, 0), *((int(a), int(b)) for a, b in (pair.split(":") for pair in sys.argv[1:]))]:
    answer = os.pipe()
    if os.fork() == 0:
        os.setgroups([]), os.setgid(gid), os.setuid(uid)
        try:
            with socket.socket(socket.AF_UNIX) as helper:
                helper.connect("/run/hpchub-login.sock")
                helper.sendall(b'{"account": "alice"}\\n')
                said = helper.recv(4096)
        except OSError as error:
            said = type(error).__name__.encode()
        os.write(answer[1], said)
        os._exit(0)
    os.wait()
    print(uid, gid, os.read(answer[0], 4096).decode().strip())
"""


def test_nobody_but_the_hub_can_speak_to_the_login_helper(run: Run) -> None:
    assert run("login1", "stat --format='%A %U:%G' /run/hpchub-login.sock") == "srw-rw---- root:hpchub"
    accounts = [line.split(":") for line in run("login1", "getent passwd").splitlines()]
    (hub,) = [f"{fields[2]}:{fields[3]}" for fields in accounts if fields[0] == "hpchub"]
    others = {f"{fields[2]}:{fields[3]}" for fields in accounts} - {hub, "0:0"}
    in_hubs_group = [f"{uid}:{hub.split(':')[1]}" for uid in ("2001", "65534")]
    program = f"python3 -c {shlex.quote(SPEAK)} {' '.join([*sorted(others), *in_hubs_group, hub])}"
    said = dict(
        line.rsplit(" ", 1) if "Error" in line else line.split(" {", 1) for line in run("login1", program).splitlines()
    )
    unavailable = '"result": "unavailable", "user": ""}'
    assert said.pop("0 0") == unavailable
    assert [said.pop(pair.replace(":", " ")) for pair in in_hubs_group] == [unavailable] * 2
    assert said.pop(hub.replace(":", " ")) == '"result": "ok", "user": "alice"}'
    assert len(said) > 20
    assert set(said.values()) == {"PermissionError"}
    assert run("login1", "ss --no-header --listening --unix | grep -c hpchub-login") == "1"
    assert (
        run("login1", "ss --no-header --listening --tcp --udp --processes | grep -c hpchub.privileged || true") == "0"
    )


def test_the_hub_cannot_read_what_root_keeps(host: Callable[[str], Host]) -> None:
    for path in ("/etc/shadow", "/etc/oath/users/alice", "/etc/hpchub/secrets/proxy-token"):
        assert host("login1").run(f"runuser -u hpchub -- cat {path}").rc != 0, path


def test_the_relay_may_run_one_program_as_a_user_and_the_hub_nothing(host: Callable[[str], Host]) -> None:
    login1 = host("login1")
    program = "sudo -n -u alice /usr/local/libexec/hpchub-jobs"
    assert login1.run(f"runuser -u hpchub-jobs -- {program} </dev/null").rc == 0
    assert login1.run(f"runuser -u hpchub -- {program} </dev/null").rc != 0
    for line in (
        "sudo -n -u alice /usr/bin/id",
        "sudo -n -u alice /usr/local/libexec/hpchub-jobs --help",
        "sudo -n -u root /usr/local/libexec/hpchub-jobs",
        "sudo -n -u hpchub-proxy /usr/local/libexec/hpchub-jobs",
        "sudo -n -u alice --preserve-env=PATH /usr/local/libexec/hpchub-jobs",
    ):
        assert login1.run(f"runuser -u hpchub-jobs -- {line} </dev/null").rc != 0, line


def test_nobody_but_the_hub_reaches_the_relay(host: Callable[[str], Host], run: Run) -> None:
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/hpchub-jobs.sock');"
        " s.sendall(b'alice\\n{}'); s.shutdown(1); print(s.recv(999).decode())"
    )
    asked = f'python3 -c "{ask}"'
    assert "verb must be" in run("login1", f"runuser -u hpchub -- {asked}")
    assert host("login1").run(f"runuser -u bob -- {asked}").rc != 0
    assert host("login1").run(f"runuser -u hpchub-proxy -- {asked}").rc != 0
    assert "verb" not in host("login1").run(asked).stdout, "root itself is not the hub"


@pytest.mark.parametrize("machine", MACHINES)
def test_no_secret_is_in_an_argument_or_an_environment(machine: str, secrets: list[str], run: Run) -> None:
    seen = run(machine, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true")
    assert "PATH=" in seen
    assert [secret[:6] + "..." for secret in secrets if secret in seen] == []


def test_no_secret_is_in_what_the_batch_system_shows_of_the_job(
    job: dict[str, str], secrets: list[str], batch: Any, run: Run
) -> None:
    seen = run("ctl", batch.show.format(job=job["id"]))
    assert job["id"] in seen
    assert [secret[:6] + "..." for secret in secrets if secret in seen] == []


@pytest.mark.parametrize("machine", ["ctl", *MACHINES])
def test_no_secret_is_in_a_journal_or_a_log(machine: str, secrets: list[str], run: Run) -> None:
    seen = run(
        machine, "journalctl --no-pager --output=cat; cat /var/log/slurm/* /var/spool/pbs/*_logs/* 2>/dev/null || true"
    )
    assert [secret[:6] + "..." for secret in secrets if secret in seen] == []


def test_no_secret_is_in_the_labs_log_or_in_a_file_of_alices_home(
    job: dict[str, str], secrets: list[str], batch: Any, run: Run
) -> None:
    assert "hpchub" in run("login1", f"ls /home/alice/.local/state/hpchub/{batch.log.format(job=job['id'])}")
    for secret in secrets:
        assert run("login1", f"grep -rlF -e '{secret}' /home/alice || true") == ""


def test_alices_kernels_and_terminals_do_not_inherit_the_token(
    job: dict[str, str], signed_in: Callable[[str], BrowserContext], run: Run
) -> None:
    page = signed_in("alice").new_page()
    page.goto("/user/alice/lab")
    xsrf = next(c["value"] for c in page.context.cookies() if c["name"] == "_xsrf" and c["path"] == "/user/alice/")
    for what in ("terminals", "kernels"):
        assert page.request.post(f"/user/alice/api/{what}", headers={"X-XSRFToken": xsrf}, data="{}").ok
    page.close()
    seen = run(job["node"], "for pid in $(pgrep -u alice); do tr '\\0' '\\n' </proc/$pid/environ; done")
    assert seen.count("JUPYTERHUB_SERVICE_PREFIX=/user/alice/") >= 2
    assert re.findall(r"^JUPYTERHUB_API_TOKEN=.+", seen, re.MULTILINE) == []


def test_bob_cannot_read_alices_token(
    job: dict[str, str], secrets: list[str], batch: Any, host: Callable[[str], Host]
) -> None:
    node = host(job["node"])
    pids = node.run("pgrep -u alice").stdout.split()
    assert pids
    for pid in pids:
        for name in ("environ", "fd/0", "mem", "maps"):
            assert node.run(f"runuser -u bob -- head -c 1 /proc/{pid}/{name}").rc != 0
    attempts = f"{batch.script.format(job=job['id'])}; {batch.show.format(job=job['id'])}; ps axeww; "
    attempts += "cat /home/alice/.local/state/hpchub/* /var/lib/slurm/slurmd/*/* /var/spool/pbs/*/jobs/*"
    seen = node.run(f"runuser -u bob -- sh -c {shlex.quote(attempts)}").stdout
    assert [secret[:6] + "..." for secret in secrets if secret in seen] == []


@pytest.mark.parametrize("path", ["lab", "api/contents", "proxy/8787/status", "api/terminals", "files/home/alice"])
def test_bob_does_not_reach_alices_lab_through_the_hub(
    path: str, job: dict[str, str], signed_in: Callable[[str], BrowserContext]
) -> None:
    assert job["state"] == "RUNNING"
    answer = signed_in("bob").request.get(f"/user/alice/{path}")
    assert answer.status in (403, 404)


def test_batchspawners_own_callback_is_gone(api: Callable[..., tuple[int, Any]]) -> None:
    assert api("alice", "POST", "/batchspawner", {"port": 8888})[0] == 404


@pytest.fixture(scope="module")
def starting(
    api: Callable[..., tuple[int, Any]],
    run: Run,
    jobs: Jobs,
    batch: Any,
    order: Callable[[str], dict[str, Any]],
    wait_until: Callable[..., None],
) -> Iterator[str]:
    """A job of bob that waits in the queue, so that its start is pending; gives its token."""
    others = len(jobs("bob"))
    run("ctl", batch.drain)
    try:
        status, _ = api("bob", "POST", "/users/bob/server", {"user_options": {"project": "climate"}})
        assert status in (201, 202)
        yield order(jobs("bob")[-1]["id"])["environment"]["JUPYTERHUB_API_TOKEN"]
    finally:
        api("bob", "DELETE", "/users/bob/server")
        run("ctl", batch.resume)
        wait_until("bob's job is gone", lambda: len(jobs("bob")) == others, 60)


@pytest.mark.parametrize(
    "body",
    [
        '{"port": 9999, "cmd": ["id"]}',
        '{"port": "9999"}',
        '{"port": true}',
        '{"port": 22}',
        "[9999]",
        "port=9999",
        "{}",
    ],
)
def test_the_callback_takes_a_port_and_nothing_else(
    body: str, starting: str, visitor: Callable[[], BrowserContext]
) -> None:
    answer = visitor().request.post(
        "/hub/api/hpchub/port", headers={"Authorization": f"token {starting}"}, data=body.encode()
    )
    assert answer.status == 400


def test_the_callback_takes_no_port_for_a_lab_that_runs(
    script: dict[str, Any], visitor: Callable[[], BrowserContext]
) -> None:
    token = script["environment"]["JUPYTERHUB_API_TOKEN"]
    answer = visitor().request.post(
        "/hub/api/hpchub/port", headers={"Authorization": f"token {token}"}, data=json.dumps({"port": 9999})
    )
    assert answer.status == 403


def test_the_callback_wants_a_token(visitor: Callable[[], BrowserContext]) -> None:
    assert visitor().request.post("/hub/api/hpchub/port", data=json.dumps({"port": 9999})).status == 403


def test_the_proxys_api_is_not_to_be_had_by_users(host: Callable[[str], Host]) -> None:
    program = 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/run/hpchub-proxy/api.sock")'
    assert host("login1").run(f"runuser -u alice -- python3 -c '{program}'").rc != 0


@pytest.mark.parametrize("name", ["login1", "c1"])
def test_nothing_that_is_installed_can_be_written_by_everybody(name: str, run: Callable[[str, str], str]) -> None:
    places = "/opt/hpchub /usr/local/lib/hpchub /usr/local/libexec /etc/hpchub /etc/pam.d /etc/sudoers.d"
    assert run(name, f"find {places} -perm /o+w ! -type l ! -type s 2>/dev/null || true") == ""
