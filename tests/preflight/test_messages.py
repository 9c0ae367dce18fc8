"""What a sysadmin reads about a wrong inventory or an unready login node, word for word."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hpchub.preflight import host, inventory, report
from hpchub.preflight.files import Engine

ROOT = Path(__file__).resolve().parents[2]
MAGIC = {"inventory_hostname": "login1.example.org", "ansible_facts": {"os_family": "Debian"}}
CASES = sorted((Path(__file__).parent / "cases").glob("*.yml"))
VARS = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())

DEBIAN = {"family": "Debian", "name": "Debian", "major": "13"}
QUEUES = [{"name": "interactive", "max_walltime_minutes": 240}, {"name": "regular"}]
PBS = {"queue_type": "Execution", "enabled": "True", "started": "True"}
PREFIX = {
    "path": "/shared/apps/hub", "nearest": "/shared/apps", "is_directory": True, "read_only": False, "noexec": False,
    "closed": "", "free_gib": 900.0, "has_environment": False,
}  # fmt: skip
READY: dict[str, Any] = {
    "python": "3.13",
    "python_path": "/usr/bin/python3",
    "scheduler": {
        "system": "slurm",
        "command": "/usr/bin/scontrol show partition --oneliner",
        "error": "",
        "output": "PartitionName=interactive MaxTime=04:00:00\nPartitionName=regular MaxTime=1-00:00:00\n",
    },
    "shared_prefix": PREFIX,
    "group": {"name": "hpcusers", "known": True},
    "host": {"name": "login1", "addresses": ["192.0.2.1"]},
    "certificate": None,
    "directory": {},
    "ports": {"hpchub.service": {"port": 8081, "taken": ""}},
    "sign_in": {
        "service": "common-account",
        "shipped": True,
        "rules": [{"phase": "account", "file": "/etc/pam.d/common-account", "line": 17, "words": ["pam_unix.so"]}],
        "tokens": {"directory": "/etc/oath/users", "known": True, "open": False, "with_pin": []},
    },
    "systemd": True,
}


DUO = {"path": "/etc/duo/pam_duo.conf", "known": True, "open": False,
       "settings": {"failmode": "secure", "autopush": "yes"}}  # fmt: skip


def signs_in(**parts: Any) -> dict[str, Any]:
    return {"sign_in": READY["sign_in"] | parts}


def rule(phase: str, *words: str) -> dict[str, Any]:
    return {"phase": phase, "file": "/etc/pam.d/password-auth", "line": 7, "words": list(words)}


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What looks at a login node, and a /etc/pam.d for it."""
    module = load("library/preflight_probe.py")
    monkeypatch.setattr(module, "PAM_SERVICES", tmp_path / "pam.d")
    (tmp_path / "pam.d").mkdir()
    return module


def load(path: str) -> ModuleType:
    """A plug-in of the role, as Ansible loads it."""
    spec = importlib.util.spec_from_file_location("preflight", ROOT / "roles/preflight" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in (ROOT / "inventories/example/group_vars/all").glob("*.yml"):
        merged |= yaml.safe_load(path.read_text()) or {}
    return merged


def inventory_problems(engine: Engine, given: dict[str, Any]) -> list[str]:
    return inventory.judge(MAGIC | given, ROOT / "roles", engine).problems


def host_problems(**answers: Any) -> list[str]:
    return host.problems(READY | answers, QUEUES, VARS["__preflight_systems"], DEBIAN)


def test_the_example_inventory_has_no_problem(engine: Engine) -> None:
    assert inventory_problems(engine, example()) == []


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_wrong_inventory_is_reported_whole_and_once(engine: Engine, case: Path) -> None:
    asked = yaml.safe_load(case.read_text())

    problems = inventory_problems(engine, example() | asked["change"])

    told = report(problems, "inventories/example") + "\n"
    if "UPDATE_CASES" in os.environ:
        case.write_text(f"{case.read_text().partition('report: |')[0]}report: |\n{textwrap.indent(told, '  ')}")
    assert told == asked["report"]


def test_a_ready_login_node_has_no_problem() -> None:
    assert host_problems() == []


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"python": ""}, "hpc_python is /usr/bin/python3, which is not on the login node, or cannot run."),
        (
            {"python": "3.9"},
            "hpc_python is /usr/bin/python3, which is Python 3.9. Name one of 3.11 or newer that all nodes have.",
        ),
        (
            {"group": {"name": "hpcusers", "known": False}},
            "hpc_users_group 'hpcusers' is no group on the login node (getent group hpcusers).",
        ),
        (
            {"host": {"name": "login9", "addresses": []}},
            "jupyterhub_connect_host 'login9' has no address on the login node (getent hosts login9).",
        ),
        (
            {"ports": {"hpchub.service": {"port": 8081, "taken": "Address already in use"}}},
            "Port 8081 (hpchub.service) cannot be used: Address already in use (ss -ltnp sport = :8081).",
        ),
        (
            {"directory": {"ldaps://ldap.example.org": "certificate verify failed"}},
            "jupyterhub_ldap_servers: ldaps://ldap.example.org cannot be asked from the login node:"
            " certificate verify failed. Write the name that its certificate has, and its authority's certificate to"
            " jupyterhub_ldap_ca_file.",
        ),
        (
            signs_in(service="centre", rules=None),
            "/etc/pam.d/centre is not on the login node. Write it, or correct jupyterhub_pam_service.",
        ),
        (
            signs_in(service="centre", rules=[rule("auth", "pam_unix.so")]),
            "/etc/pam.d/centre has no account phase, so PAM would take that of the service 'other'. Add one.",
        ),
        (
            signs_in(service="centre", shipped=False, rules=[rule("account", "pam_unix.so")]),
            "/etc/pam.d/centre has no auth phase, so PAM would take that of the service 'other'. Add one.",
        ),
        (
            signs_in(rules=[rule("account", "pam_faillock.so")]),
            "/etc/pam.d/password-auth, line 7: pam_faillock in the account phase. The hub runs that phase every few"
            " minutes for everybody who is signed in, and each time it forgets the failures. Use authsucc in the auth"
            " phase instead, in a service of your own (jupyterhub_pam_stack: own).",
        ),
        (
            signs_in(service="centre", rules=[rule("auth", "pam_radius_auth.so", "localifdown"), rule("account", "x")]),
            "/etc/pam.d/password-auth, line 7: localifdown lets people in when no RADIUS server answers."
            " Take it out, or include another file in /etc/pam.d/centre.",
        ),
        (
            signs_in(service="centre", rules=[rule("auth", "pam_unix.so", "nullok"), rule("account", "x")]),
            "/etc/pam.d/password-auth, line 7: nullok lets an account without a password in."
            " Take it out, or include another file in /etc/pam.d/centre.",
        ),
        (
            signs_in(tokens={"directory": "/etc/oath/users", "known": False, "open": False, "with_pin": []}),
            "jupyterhub_pam_oath_users_file: /etc/oath/users is no directory on the login node. Make it, for root alone"
            " (install -d -m 0700), with a file for each user.",
        ),
        (
            signs_in(tokens={"directory": "/etc/oath/users", "known": True, "open": True, "with_pin": []}),
            "/etc/oath/users, which holds token secrets, is open to others than root. Run chmod 0700 on it.",
        ),
        (
            signs_in(
                tokens={"directory": "/etc/oath/users", "known": True, "open": False, "with_pin": ["alice", "bob"]}
            ),
            "In /etc/oath/users the files of alice, bob hold a PIN of their own. Write + in its place: the PIN is now"
            " the account's password (docs/install.md, How people sign in).",
        ),
        (
            signs_in(servers_without_address=["radius9"]),
            "jupyterhub_pam_radius_servers 'radius9' has no address on the login node (getent hosts radius9).",
        ),
        (
            signs_in(duo={"path": "/etc/duo/pam_duo.conf", "known": False}),
            "jupyterhub_pam_duo_config_file: /etc/duo/pam_duo.conf is not on the login node; without it pam_duo lets"
            " everybody in. Write it, for root alone, with failmode = secure and autopush = yes.",
        ),
        (
            signs_in(duo=DUO | {"open": True}),
            "/etc/duo/pam_duo.conf can be read by others than root, and then pam_duo lets everybody in."
            " Run chmod 0600 on it.",
        ),
        (
            signs_in(duo=DUO | {"settings": {"failmode": "safe", "autopush": "yes"}}),
            "/etc/duo/pam_duo.conf does not say failmode = secure: with anything else it lets people in while Duo is"
            " out of reach.",
        ),
        (
            signs_in(duo=DUO | {"settings": {"failmode": "secure"}}),
            "/etc/duo/pam_duo.conf does not say autopush = yes, without which pam_duo asks.",
        ),
        (
            signs_in(sssd={"runs": False, "module": True}),
            "sssd does not run on the login node, and it is what would check the secret (systemctl status sssd).",
        ),
        (
            signs_in(sssd={"runs": True, "module": False}),
            "pam_sss is not on the login node. Install libpam-sss (Debian) or sssd-client (EL) yourself: it may change"
            " how the whole host signs people in, so that hpchub does not.",
        ),
        (
            {"shared_prefix": PREFIX | {"nearest": "/"}},
            "hpc_shared_prefix is /shared/apps/hub, and neither it nor the directory above is on the login node, only"
            " /. Mount the file system, make the directory above, or write another.",
        ),
        (
            {"shared_prefix": PREFIX | {"nearest": "/shared/apps/hub", "is_directory": False}},
            "hpc_shared_prefix is /shared/apps/hub, and /shared/apps/hub is no directory on the login node. Write"
            " another.",
        ),
        (
            {"shared_prefix": PREFIX | {"read_only": True}},
            "hpc_shared_prefix is /shared/apps/hub, and root cannot write there on the login node (findmnt --target"
            " /shared/apps).",
        ),
        (
            {"shared_prefix": PREFIX | {"noexec": True}},
            "hpc_shared_prefix is /shared/apps/hub, and programs cannot run from there: it is mounted noexec (findmnt"
            " --target /shared/apps).",
        ),
        (
            {"shared_prefix": PREFIX | {"closed": "/shared"}},
            "hpc_shared_prefix is /shared/apps/hub, and users cannot pass through /shared. Run chmod o+x on it, or"
            " write another.",
        ),
        (
            {"shared_prefix": PREFIX | {"free_gib": 0.01}},
            "hpc_shared_prefix is /shared/apps/hub, and 0.0 GiB are free there; the users' environment needs 1.5 GiB"
            " (df /shared/apps).",
        ),
        (
            {"scheduler": READY["scheduler"] | {"output": "slurm_load_partitions: what is this\n"}},
            "The scheduler's answer cannot be read: cannot read this line of scontrol: slurm_load_partitions: what is"
            " this (/usr/bin/scontrol show partition --oneliner).",
        ),
        ({"systemd": False}, "The login node does not run systemd, which the hub's services need."),
        (
            {"scheduler": READY["scheduler"] | {"error": "Unable to contact slurm controller", "output": ""}},
            "The scheduler does not answer: Unable to contact slurm controller"
            " (/usr/bin/scontrol show partition --oneliner).",
        ),
        (
            {"scheduler": READY["scheduler"] | {"output": "PartitionName=interactive MaxTime=UNLIMITED\n"}},
            "hpc_queues 'regular': the scheduler knows no such queue, but interactive.",
        ),
        (
            {
                "scheduler": READY["scheduler"]
                | {"output": "PartitionName=interactive MaxTime=02:00:00\nPartitionName=regular MaxTime=UNLIMITED\n"}
            },
            "hpc_queues 'interactive': max_walltime_minutes is 240, but the scheduler allows 120"
            " (/usr/bin/scontrol show partition --oneliner). Lower it, or leave it out.",
        ),
        (
            {
                "scheduler": {
                    "system": "pbs",
                    "command": "/opt/pbs/bin/qstat -Q -f -F json",
                    "error": "",
                    "output": json.dumps(
                        {"Queue": {"interactive": PBS | {"resources_max": {"walltime": "01:30:00"}}, "regular": PBS}}
                    ),
                }
            },
            "hpc_queues 'interactive': max_walltime_minutes is 240, but the scheduler allows 90"
            " (/opt/pbs/bin/qstat -Q -f -F json). Lower it, or leave it out.",
        ),
    ],
)
def test_an_unready_login_node_is_told_what_is_missing(answers: dict[str, Any], problem: str) -> None:
    assert host_problems(**answers) == [problem]


def test_a_service_is_read_with_all_that_it_includes(probe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pam.d/centre").write_text(
        "# auth required pam_permit.so nullok\n"
        "auth [success=1 default=ignore] /usr/lib/security/pam_unix.so \\\n   nodelay # nullok\n"
        "-auth substack password-auth\n@include common-account\nsession include system-auth\n"
    )
    (tmp_path / "pam.d/password-auth").write_text(
        "auth sufficient pam_radius_auth.so localifdown\naccount required pam_faillock.so\nauth include centre\n"
    )
    (tmp_path / "pam.d/common-account").write_text("account required pam_unix.so\nauth required pam_never.so\n")

    found = [(rule["phase"], Path(rule["file"]).name, *rule["words"]) for rule in probe.rules("centre")]

    assert found == [
        ("auth", "centre", "pam_unix.so", "nodelay"),
        ("auth", "password-auth", "pam_radius_auth.so", "localifdown"),
        ("account", "common-account", "pam_unix.so"),
        ("auth", "common-account", "pam_never.so"),
    ]
    assert probe.rules("nowhere") is None


def test_of_token_files_only_names_are_told_whose_pin_is_in_them(probe: ModuleType, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.mkdir(mode=0o700)
    (users / "alice").write_text("HOTP/T30 alice + 3132333435363738\n")
    (users / "bob").write_text("HOTP/T30\tbob\t4711\t3132333435363738\t0\t123456\t2026-01-01T00:00:00L\n")

    answer = probe.tokens(users)

    assert answer["with_pin"] == ["bob"]
    assert "4711" not in repr(answer)
    assert not probe.tokens(tmp_path / "nowhere")["known"]


def test_of_duos_file_only_two_settings_are_told(probe: ModuleType, tmp_path: Path) -> None:
    conf = tmp_path / "pam_duo.conf"
    conf.write_text("[duo]\nskey = very-secret\n; failmode = secure\nfailmode = safe\nautopush=yes\n")
    conf.chmod(0o644)

    answer = probe.duo(conf)

    assert answer["settings"] == {"failmode": "safe", "autopush": "yes"}
    assert answer["open"]
    assert "very-secret" not in repr(answer)


def test_an_unsupported_system_is_named_with_the_supported_ones() -> None:
    system = {"family": "Debian", "name": "Ubuntu", "major": "24"}

    assert host.problems(READY, QUEUES, VARS["__preflight_systems"], system) == [
        "The login node runs Ubuntu 24. hpchub runs on Debian 12 and 13; RedHat 9 and 10."
    ]


def validate(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real playbook, with this machine as the login node."""
    return subprocess.run(
        ["ansible-playbook", "-i", str(inventory), "playbooks/validate.yml", *arguments],
        cwd=ROOT, env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}, text=True, capture_output=True,
    )  # fmt: skip


def inventory_with(directory: Path, hosts: str, change: dict[str, Any]) -> Path:
    """The example with a change, in one file."""
    group_vars = directory / "example/group_vars/all"
    group_vars.mkdir(parents=True)
    (directory / "example/hosts.yml").write_text(hosts)
    interpreter = {"ansible_python_interpreter": sys.executable, "ansible_become": False}
    (group_vars / "all.yml").write_text(yaml.safe_dump(example() | change | interpreter))
    return directory / "example"


THIS_HOST = "hub: {hosts: {localhost: {ansible_connection: local}}}\n"


def test_validate_stops_with_the_report_before_it_looks_at_the_host(tmp_path: Path) -> None:
    case = yaml.safe_load((Path(__file__).parent / "cases/misspelt.yml").read_text())

    done = validate(inventory_with(tmp_path, THIS_HOST, case["change"]))

    assert done.returncode != 0
    told = re.sub(r"(?m)^(\d+\. )", r"\1group_vars/all/all.yml, line N: ", case["report"].rstrip("\n"))
    assert json.dumps(told)[1:-1] in re.sub(r"line \d+:", "line N:", done.stdout)
    assert "changed=0" in done.stdout
    assert "Ask the login node" in done.stdout
    assert done.stdout.count("FAILED") == 1


def test_a_broken_template_names_its_variable_and_file_and_hides_no_other_problem(tmp_path: Path) -> None:
    change = {
        "jupyterhub_login_banner": "{{ nosuch }}",
        "jupyterhub_subdomains": "maybe",
        "jupyterhub_port": 99999,
        "jupyterhub_login_username_pattern": "*",
    }
    place = inventory_with(tmp_path, THIS_HOST, change)
    text = (place / "group_vars/all/all.yml").read_text().splitlines()
    line = {name: 1 + next(n for n, words in enumerate(text) if words.startswith(f"{name}:")) for name in change}

    done = validate(place, "-e", "jupyterhub_session_hours=1000")

    assert done.returncode != 0
    for name, words in {
        "jupyterhub_login_banner": "cannot be worked out: 'nosuch' is undefined.",
        "jupyterhub_subdomains": "is 'maybe', and must be true or false",
        "jupyterhub_port": "is 99999. Write at most 65535.",
        "jupyterhub_login_username_pattern": "is *. Write a regular expression.",
    }.items():
        assert f"group_vars/all/all.yml, line {line[name]}: {name} {words}" in done.stdout
    assert "the command line: jupyterhub_session_hours is 1000. Write at most 744." in done.stdout
    assert "preflight found 5 problems" in done.stdout


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/validate.yml"])
def test_an_inventory_is_asked_for_its_hub_before_anything_else(playbook: str) -> None:
    (play,) = yaml.safe_load((ROOT / playbook).read_text())

    assert play["hosts"].startswith("{{ groups['hub'] if groups['hub'] | default([]) | length == 1 else undef(")


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("", "Nobody is the hub in the inventory"),
        ("hubs: {hosts: {login1: }}\n", "Nobody is the hub in the inventory"),
        ("hub: {hosts: {login1: , login2: }}\n", "login1 and login2 is the hub in the inventory"),
    ],
    ids=["no-inventory", "no-group", "two-hubs"],
)
def test_an_inventory_without_one_hub_fails(hosts: str, words: str, tmp_path: Path) -> None:
    place = inventory_with(tmp_path, hosts, {}) if hosts else tmp_path / "nowhere"

    done = validate(place)

    assert done.returncode != 0
    assert words in done.stderr
    assert str(place) in done.stderr
    assert "inventories/example shows one" in done.stderr


def test_a_port_is_ours_only_if_a_process_of_our_unit_listens_there(
    probe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as mine:
        port = mine.getsockname()[1]
        (own,) = probe.listeners(port)

        assert "in use" in probe.taken_by(port, "hpchub.service").lower()
        assert probe.taken_by(port, own) == ""
    assert probe.taken_by(port, "hpchub.service") == ""
    assert probe.taken_by(70000, "hpchub.service") == "there is no such port"


def test_a_process_belongs_to_the_innermost_unit_of_its_control_group(probe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/machine.slice/box.service/system.slice/hpchub.service\n")
    assert probe.unit_of(tmp_path) == "hpchub.service"
    (tmp_path / "cgroup").write_text("0::/user.slice\n")
    (tmp_path / "comm").write_text("python3\n")
    assert probe.unit_of(tmp_path) == "python3"


def test_of_the_shared_prefix_the_nearest_directory_that_is_there_is_told(probe: ModuleType, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "apps").mkdir(mode=0o700)
    (tmp_path / "file").touch()

    deep, file = probe.prefix(str(tmp_path / "apps/x/hub")), probe.prefix(str(tmp_path / "file/hub"))

    assert (deep["nearest"], deep["is_directory"]) == (str(tmp_path / "apps"), True)
    assert (file["nearest"], file["is_directory"]) == (str(tmp_path / "file"), False)
    assert deep["free_gib"] > 0
    assert not deep["has_environment"]
    assert probe.prefix(str(tmp_path / "apps/hub"))["closed"]
