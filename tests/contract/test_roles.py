"""Every role says the same about itself everywhere, and has the shape of all the others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpchub import settings
from hpchub.privileged import jobs, login

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PHASES = ["install", "configure", "service"]
# What is in its nature no deployment of something: it has phases of its own.
OTHER_PHASES = {"preflight": ["inventory", "live", "report"], "python_env": ["install", "activate"]}


def load(role: str, path: str) -> Any:
    return yaml.safe_load((ROOT / "roles" / role / path).read_text()) or {}


def options(role: str) -> dict[str, Any]:
    entries = load(role, "meta/argument_specs.yml")["argument_specs"].values()
    return {name: spec for entry in entries for name, spec in entry["options"].items()}


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified_with_the_same_value_and_the_other_way_round(role: str) -> None:
    specified = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}

    assert load(role, "defaults/main.yml") == specified


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_bears_its_name(role: str) -> None:
    prefix = "hpc_" if role == "preflight" else f"{role}_"

    assert [name for name in options(role) if not name.startswith(prefix)] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described_by_a_sentence(role: str) -> None:
    def sentences(specs: dict[str, Any]) -> list[str]:
        nested = [text for spec in specs.values() for text in sentences(spec.get("options", {}))]
        return [spec["description"].strip() for spec in specs.values()] + nested

    assert [text for text in sentences(options(role)) if not re.match(r"[A-Z$p].*\.$", text, re.DOTALL)] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_a_table_of_contents_of_the_same_phases(role: str) -> None:
    imported = [task["ansible.builtin.import_tasks"].removesuffix(".yml") for task in load(role, "tasks/main.yml")]

    known = OTHER_PHASES.get(role, PHASES)
    assert imported == [phase for phase in known if phase in imported]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_explains_itself_on_one_screen(role: str) -> None:
    lines = (ROOT / "roles" / role / "README.md").read_text().splitlines()

    assert lines[0] == f"# {role}"
    assert 10 <= len(lines) <= 16
    assert load(role, "meta/main.yml")["galaxy_info"]["role_name"] == role


def test_no_role_knows_a_group_of_hosts_or_the_variables_of_another_host() -> None:
    files = [path for path in (ROOT / "roles").rglob("*") if path.suffix in (".yml", ".j2")]

    assert [str(path) for path in files if re.search(r"\b(groups|hostvars)\b *\[", path.read_text())] == []


def test_what_differs_between_families_is_said_for_each() -> None:
    for path in (ROOT / "roles").glob("*/vars/Debian.yml"):
        role = path.parts[-3]
        assert load(role, "vars/Debian.yml").keys() == load(role, "vars/RedHat.yml").keys()


def test_the_site_file_has_exactly_the_keys_that_the_hub_knows() -> None:
    mapping = load("jupyterhub", "vars/main.yml")["__jupyterhub_site"]

    assert mapping.keys() == settings.Site.model_fields.keys()
    cluster = load("jupyterhub", "vars/main.yml")["__jupyterhub_cluster"]
    assert cluster.keys() == settings.Cluster.model_fields.keys()
    for part, model in [
        ("hub", settings.Hub),
        ("proxy", settings.Proxy),
        ("login", settings.Login),
        ("jobs", settings.Jobs),
        ("form", settings.Form),
    ]:
        assert (mapping | cluster)[part].keys() == model.model_fields.keys(), part


def test_a_queue_of_the_inventory_is_a_queue_of_the_hub() -> None:
    assert options("preflight")["hpc_queues"]["options"].keys() == settings.Queue.model_fields.keys()


def test_the_privileged_programs_get_exactly_the_keys_that_they_know() -> None:
    assert load("jupyterhub", "vars/main.yml")["__jupyterhub_login"].keys() == login.Config.__annotations__.keys()
    assert (
        load("jupyterhub_spawner", "vars/main.yml")["__jupyterhub_spawner_jobs"].keys()
        == jobs.Config.__annotations__.keys()
    )


def test_the_example_inventory_names_only_variables_that_exist() -> None:
    known = {name for role in ROLES for name in options(role)}
    for path in (ROOT / "inventories/example/group_vars/all").glob("*.yml"):
        named = re.findall(r"^(?:# )?([a-z_]+):(?: |$)", path.read_text(), re.MULTILINE)
        assert [name for name in named if name not in known] == [], path.name


def test_the_proxy_is_locked_to_what_its_package_says() -> None:
    wanted = json.loads((ROOT / "files/proxy/package.json").read_text())
    locked = json.loads((ROOT / "files/proxy/package-lock.json").read_text())

    assert locked["packages"][""]["dependencies"] == wanted["dependencies"]
