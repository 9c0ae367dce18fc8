"""What is written to the login node, word for word. A change that is meant: UPDATE_GOLDEN=1 pytest tests/contract."""

import difflib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

from hpchub import settings

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"

FILES = {
    "hpchub.service": ("jupyterhub", "hpchub.service.j2"),
    "hpchub-login.socket": ("jupyterhub", "hpchub-login.socket.j2"),
    "hpchub-login@.service": ("jupyterhub", "hpchub-login@.service.j2"),
    "hpchub-culler.service": ("jupyterhub", "hpchub-culler.service.j2"),
    "pam": ("jupyterhub", "pam_oath.j2"),
    "site.yml": ("jupyterhub", "site.yml.j2"),
    "hpchub-proxy.service": ("jupyterhub_proxy", "hpchub-proxy.service.j2"),
    "sudoers": ("jupyterhub_spawner", "sudoers.j2"),
    "dask.yaml": ("dask_site", "site.yaml.j2"),
}


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """The example inventory on a Debian 13 host, as the roles see it."""
    loader = DataLoader()
    merged: dict[str, Any] = {
        "inventory_hostname": "login1.example.org",
        "ansible_facts": {"os_family": "Debian", "systemd": {"version": 257}},
    }
    for pattern in ("roles/*/defaults/main.yml", "roles/*/vars/main.yml", "roles/*/vars/Debian.yml"):
        for path in sorted(ROOT.glob(pattern)):
            merged |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    for path in sorted((ROOT / "inventories/example/group_vars/all").glob("*.yml")):
        merged |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    init_plugin_loader()
    filter_loader.add_directory(str(ROOT / "roles/dask_site/filter_plugins"))
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


def test_the_hub_accepts_the_site_file_of_the_example(variables: dict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "site.yml"
    written.write_text(render("jupyterhub", "site.yml.j2", variables))

    site = settings.load(written)

    assert site.hub.public_url == "https://hub.example.org/"
    assert [queue.name for queue in site.queues] == ["interactive", "regular"]


def test_the_one_sudo_rule_allows_one_program_without_arguments_as_enrolled_users_only(
    variables: dict[str, Any], tmp_path: Path
) -> None:
    written = tmp_path / "hpchub"
    written.write_text(render("jupyterhub_spawner", "sudoers.j2", variables))
    rules = [line for line in written.read_text().splitlines() if not line.startswith("#")]

    assert rules == ['hpchub ALL=(%hpcusers) NOPASSWD: /usr/local/libexec/hpchub-jobs ""']


def test_every_role_documents_itself_to_ansible() -> None:
    for role in sorted(path.name for path in (ROOT / "roles").iterdir()):
        subprocess.run(
            ["ansible-doc", "--type", "role", "--roles-path", "roles", role], cwd=ROOT, check=True, capture_output=True
        )
