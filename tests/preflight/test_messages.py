"""What a sysadmin reads about a wrong inventory or an unready login node, word for word."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((Path(__file__).parent / "cases").glob("*.yml"))
VARS = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())

DEBIAN = {"family": "Debian", "name": "Debian", "major": "13"}
QUEUES = [{"name": "interactive", "max_walltime_minutes": 240}, {"name": "regular"}]
READY: dict[str, Any] = {
    "python": "3.13",
    "python_path": "/usr/bin/python3",
    "scheduler": {
        "command": "/usr/bin/scontrol show partition --oneliner",
        "error": "",
        "output": "PartitionName=interactive MaxTime=04:00:00\nPartitionName=regular MaxTime=1-00:00:00\n",
    },
    "group": {"name": "hpcusers", "known": True},
    "host": {"name": "login1", "addresses": ["192.0.2.1"]},
    "missing_files": [],
    "directory": {},
    "ports": {"hpchub.service": {"port": 8081, "taken": ""}},
    "systemd": True,
}


@pytest.fixture(scope="module")
def preflight() -> ModuleType:
    path = ROOT / "roles/preflight/filter_plugins/preflight.py"
    spec = importlib.util.spec_from_file_location("preflight", path)
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


def inventory_problems(preflight: ModuleType, given: dict[str, Any]) -> list[str]:
    problems: list[str] = preflight.preflight_inventory(
        given, preflight.preflight_specs(str(ROOT / "roles")), VARS["__preflight_of_site"]
    )
    return problems


def host_problems(preflight: ModuleType, **answers: Any) -> list[str]:
    problems: list[str] = preflight.preflight_host(READY | answers, QUEUES, VARS["__preflight_systems"], DEBIAN)
    return problems


def test_the_example_inventory_has_no_problem(preflight: ModuleType) -> None:
    assert inventory_problems(preflight, example()) == []


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_wrong_inventory_is_reported_whole_and_once(preflight: ModuleType, case: Path) -> None:
    asked = yaml.safe_load(case.read_text())

    problems = inventory_problems(preflight, example() | asked["change"])

    assert preflight.preflight_report(problems, "inventories/example") + "\n" == asked["report"]


def test_a_ready_login_node_has_no_problem(preflight: ModuleType) -> None:
    assert host_problems(preflight) == []


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
            "Port 8081, on which hpchub.service would listen, cannot be had: Address already in use"
            " (ss -ltnp sport = :8081).",
        ),
        (
            {"missing_files": ["/etc/ssl/private/hub.example.org.key"]},
            "/etc/ssl/private/hub.example.org.key is not on the login node."
            " jupyterhub_proxy_tls_* name the certificate and its key.",
        ),
        (
            {"directory": {"ldaps://ldap.example.org": "certificate verify failed"}},
            "jupyterhub_ldap_servers: ldaps://ldap.example.org cannot be asked from the login node:"
            " certificate verify failed.",
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
                    "command": "/opt/pbs/bin/qstat -Q -f -F json",
                    "error": "",
                    "output": json.dumps(
                        {"Queue": {"interactive": {"resources_max": {"walltime": "01:30:00"}}, "regular": {}}}
                    ),
                }
            },
            "hpc_queues 'interactive': max_walltime_minutes is 240, but the scheduler allows 90"
            " (/opt/pbs/bin/qstat -Q -f -F json). Lower it, or leave it out.",
        ),
    ],
)
def test_an_unready_login_node_is_told_what_is_missing(
    preflight: ModuleType, answers: dict[str, Any], problem: str
) -> None:
    assert host_problems(preflight, **answers) == [problem]


def test_an_unsupported_system_is_named_with_the_supported_ones(preflight: ModuleType) -> None:
    system = {"family": "Debian", "name": "Ubuntu", "major": "24"}

    assert preflight.preflight_host(READY, QUEUES, VARS["__preflight_systems"], system) == [
        "The login node runs Ubuntu 24. hpchub runs on Debian 12 and 13; RedHat 9 and 10."
    ]


def test_validate_stops_with_the_report_before_it_looks_at_the_host(tmp_path: Path) -> None:
    case = yaml.safe_load((Path(__file__).parent / "cases/misspelt.yml").read_text())
    inventory = tmp_path / "example"
    group_vars = inventory / "group_vars" / "all"
    group_vars.mkdir(parents=True)
    (inventory / "hosts.yml").write_text("hub: {hosts: {localhost: {ansible_connection: local}}}\n")
    interpreter = {"ansible_python_interpreter": sys.executable, "ansible_become": False}
    (group_vars / "all.yml").write_text(yaml.safe_dump(example() | case["change"] | interpreter))

    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), "playbooks/validate.yml"],
        cwd=ROOT, env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}, text=True, capture_output=True,
    )  # fmt: skip

    assert done.returncode != 0
    assert json.dumps(case["report"].rstrip("\n"))[1:-1] in done.stdout
    assert "changed=0" in done.stdout
    assert "Ask the login node" in done.stdout
    assert done.stdout.count("FAILED") == 1
