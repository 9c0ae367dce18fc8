"""What is written to the login node, word for word. A change that is meant: UPDATE_GOLDEN=1 pytest tests/contract."""

import difflib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

from hpchub import settings
from hpchub.login import base

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"

STACKS = ("oath_unix", "oath_sss", "radius", "sss", "duo", "password")

FILES = {
    "hpchub.service": ("jupyterhub", "hpchub.service.j2"),
    "hpchub-login.socket": ("jupyterhub", "hpchub-login.socket.j2"),
    "hpchub-login@.service": ("jupyterhub", "hpchub-login@.service.j2"),
    "hpchub-culler.service": ("jupyterhub", "hpchub-culler.service.j2"),
    **{f"pam_{stack}": ("jupyterhub", f"pam_{stack}.j2") for stack in STACKS},
    "radius.conf": ("jupyterhub", "radius.conf.j2"),
    "site.yml": ("jupyterhub", "site.yml.j2"),
    "hpchub-proxy.service": ("jupyterhub_proxy", "hpchub-proxy.service.j2"),
    "hpchub-jobs.socket": ("jupyterhub_spawner", "hpchub-jobs.socket.j2"),
    "hpchub-jobs@.service": ("jupyterhub_spawner", "hpchub-jobs@.service.j2"),
    "sudoers": ("jupyterhub_spawner", "sudoers.j2"),
    "dask.yaml": ("dask_site", "site.yaml.j2"),
}


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """The example inventory on a Debian 13 host, as the roles see it."""
    loader = DataLoader()
    merged: dict[str, Any] = {
        "inventory_hostname": "login1.example.org",
        "ansible_facts": {"os_family": "Debian", "distribution_major_version": "13", "systemd": {"version": 257}},
    }
    for pattern in ("roles/*/defaults/main.yml", "roles/*/vars/main.yml", "roles/*/vars/Debian.yml"):
        for path in sorted(ROOT.glob(pattern)):
            merged |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    for path in sorted((ROOT / "inventories/example/group_vars/all").glob("*.yml")):
        merged |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    merged["jupyterhub_pam_radius_servers"] = [
        {"host": host, "secret": f"secret-{number}"}
        for number, host in enumerate(("radius1.example.org", "radius2.example.org:1645", "[2001:db8::4]"), 1)
    ]
    init_plugin_loader()
    for path in sorted(ROOT.glob("roles/*/filter_plugins")):
        filter_loader.add_directory(str(path))
    return merged


def render(role: str, template: str, variables: dict[str, Any]) -> str:
    text = (ROOT / "roles" / role / "templates" / template).read_text()
    templar = Templar(DataLoader(), variables=variables)
    templar.environment.trim_blocks = True
    return str(templar.template(trust_as_template(text), preserve_trailing_newlines=True))


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_is_what_was_reviewed(name: str, variables: dict[str, Any]) -> None:
    text = render(*FILES[name], variables)
    golden = GOLDEN / f"{name}.golden"
    if "UPDATE_GOLDEN" in os.environ:
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text)

    assert text == golden.read_text(), "\n".join(
        difflib.unified_diff(golden.read_text().splitlines(), text.splitlines(), "reviewed", "now", lineterm="")
    )


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("family", ["Debian", "RedHat"])
def test_a_stack_lets_nobody_in_unless_every_module_of_it_says_success(
    stack: str, family: str, variables: dict[str, Any]
) -> None:
    differs = DataLoader().load_from_file(str(ROOT / f"roles/jupyterhub/vars/{family}.yml"), trusted_as_template=True)
    text = render("jupyterhub", f"pam_{stack}.j2", variables | differs)
    first, *factors = [line.split() for line in text.splitlines() if line.startswith("auth")]

    assert first == ["auth", "requisite", "pam_nologin.so"]
    assert [line[1:3] for line in factors] == [["[success=ok", "default=die]"]] * len(factors)
    modules = [Path(line[3]).stem for line in factors]
    wanted = variables["__jupyterhub_pam_modules"][stack]
    assert modules == [str(Templar(DataLoader(), variables=variables).template(module)) for module in wanted]
    assert all("use_first_pass" in line or index == 0 or line[3] == "pam_duo.so" for index, line in enumerate(factors))
    assert not re.search(
        r"nullok|localifdown|alwaysok|skip_passwd|sufficient|optional|common-auth|pam_faillock", rules(text)
    )
    assert rules(text).splitlines()[-1].split() in (
        ["@include", "common-account"],
        ["account", "include", "password-auth"],
    )


def rules(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize(("major", "insists"), [("12", False), ("13", True)])
def test_radius_answers_without_message_authenticator_are_refused_where_the_module_can(
    major: str, insists: bool, variables: dict[str, Any]
) -> None:
    facts = {"ansible_facts": variables["ansible_facts"] | {"distribution_major_version": major}}

    assert ("require_message_authenticator" in render("jupyterhub", "pam_radius.j2", variables | facts)) == insists


@pytest.mark.parametrize("stack", [*STACKS, "own"])
def test_the_login_helper_may_write_where_the_chosen_stack_keeps_state_and_nowhere_else(
    stack: str, variables: dict[str, Any]
) -> None:
    chosen = {"jupyterhub_pam_stack": stack, "jupyterhub_pam_state_directories": ["/run/faillock", "/etc/tokens"]}
    unit = render("jupyterhub", "hpchub-login@.service.j2", variables | chosen)
    wanted = {
        "oath_unix": ["/etc/oath/users"],
        "oath_sss": ["/etc/oath/users"],
        "own": ["/run/faillock", "/etc/tokens"],
    }

    assert re.findall("^ReadWritePaths=-(.*)", unit, re.MULTILINE) == wanted.get(stack, [])


def test_the_socket_has_room_for_all_that_the_hub_opens_at_once(variables: dict[str, Any]) -> None:
    socket = render("jupyterhub", "hpchub-login.socket.j2", variables)

    (most,) = re.findall("^MaxConnections=(.*)", socket, re.MULTILINE)
    assert int(most) > base.ATTEMPTS_AT_ONCE + base.CHECKS_AT_ONCE


def test_the_hub_accepts_the_site_file_of_the_example(variables: dict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "site.yml"
    written.write_text(render("jupyterhub", "site.yml.j2", variables))

    site = settings.load(written)

    assert site.hub.public_url == "https://hub.example.org/"
    assert [queue.name for queue in site.cluster.queues] == ["interactive", "regular"]


def dask(variables: dict[str, Any], **changed: object) -> dict[str, Any]:
    """The sections of jobqueue for an inventory with these changes."""
    loaded: dict[str, Any] = yaml.safe_load(render("dask_site", "site.yaml.j2", variables | changed))
    sections: dict[str, Any] = loaded["jobqueue"]
    return sections


def lifetime(section: dict[str, Any]) -> tuple[float, float]:
    """After how many minutes the first and the last worker retires that began with its job."""
    arguments = section["worker-extra-args"]
    mean, stagger = (int(arguments[arguments.index(f"--lifetime{end}") + 1][:-1]) / 60 for end in ("", "-stagger"))
    return mean - stagger, mean + stagger


@pytest.mark.parametrize(
    ("minutes", "wait", "first", "last"),
    [(60, 0, 42, 54), (60, 3, 42, 54), (60, 5, 34, 54), (240, 30, 96, 216), (60, 60, 18, 54), (10, 3, 3, 9)],
)
def test_workers_retire_below_their_wall_time_and_further_apart_where_jobs_wait_for_longer(
    minutes: int, wait: int, first: float, last: float, variables: dict[str, Any]
) -> None:
    sections = dask(variables, dask_site_walltime_minutes=minutes, dask_site_queue_wait_minutes=wait)
    assert lifetime(sections["slurm"]) == (first, last)


def test_what_differs_in_a_queue_is_in_its_section_alone_and_within_its_limits(variables: dict[str, Any]) -> None:
    differs = {
        "cores": 3, "memory_gib": 99, "walltime_minutes": 120, "queue_wait_minutes": 15, "death_timeout_seconds": 900,
        "local_directory": "/local", "log_directory": "/scratch/{user}/logs", "interface": "ib1",
    }  # fmt: skip
    sections = dask(variables, dask_site_queues=[{"name": "interactive", **differs}])
    mine, others = sections["interactive"], sections["regular"]
    assert (mine["cores"], mine["memory"], mine["walltime"], mine["death-timeout"]) == (3, "16GiB", "02:00:00", 900)
    assert (mine["log-directory"], mine["interface"]) == ("/scratch/{user}/logs", "ib1")
    assert lifetime(mine) == (48, 108)
    assert others == {**sections["slurm"], "queue": "regular"}
    assert "/local" not in str(others)


def test_scratch_is_a_jobs_own_and_a_job_without_any_ends_with_the_reason(
    variables: dict[str, Any], tmp_path: Path
) -> None:
    section = dask(variables)["slurm"]
    begin = "\n".join(section["job-script-prologue"])

    def job(lines: str, directory: Path) -> subprocess.CompletedProcess[str]:
        worker = f'set -- {section["local-directory"]}; stat --format="%a %n" "$1"'
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory)}
        return subprocess.run(
            ["bash", "-c", f"{lines}\n{worker}"], env=environment, capture_output=True, text=True, check=False
        )

    assert job(begin, tmp_path).stdout.startswith(f"700 {tmp_path}/dask-")
    assert list(tmp_path.iterdir()) == []
    # A user's own job_script_prologue takes the place of the site's.
    assert job("module() { :; }; module load x", tmp_path).stdout.startswith(f"700 {tmp_path}/dask-")
    none = job(begin, tmp_path / "none")
    assert (none.returncode, none.stdout) == (1, "")
    assert f"{tmp_path}/none/dask-XXXXXXXX" in none.stderr


def test_every_variable_of_dask_is_named_where_its_value_stands(variables: dict[str, Any]) -> None:
    specs = yaml.safe_load((ROOT / "roles/dask_site/meta/argument_specs.yml").read_text())
    named = re.findall("(?m)^ *# (dask_site_\\w+): ", render("dask_site", "site.yaml.j2", variables))
    assert {*named, "dask_site_queues"} == set(specs["argument_specs"]["main"]["options"])


def test_the_one_sudo_rule_allows_one_program_without_arguments_as_enrolled_users_only(
    variables: dict[str, Any], tmp_path: Path
) -> None:
    written = tmp_path / "hpchub"
    written.write_text(render("jupyterhub_spawner", "sudoers.j2", variables))
    rules = [line for line in written.read_text().splitlines() if not line.startswith("#")]

    assert rules == ['hpchub-jobs ALL=(%hpcusers) NOPASSWD: /usr/local/libexec/hpchub-jobs ""']


def test_every_role_documents_itself_to_ansible() -> None:
    roles = sorted(path.name for path in (ROOT / "roles").iterdir())
    command = ["ansible-doc", "--type", "role", "--roles-path", "roles", "--json", *roles]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    documented = json.loads(done.stdout)
    assert sorted(documented) == roles, done.stderr
    assert all(documented[role]["entry_points"]["main"]["description"] for role in roles)
