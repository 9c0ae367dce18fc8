"""For tests of preflight: Ansible's own templates, in this process, and the programs that read what the roles write."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

from hpchub import settings
from hpchub.batch_runs.submit import read_site
from hpchub.preflight.files import Engine
from hpchub.privileged import jobs, login

ROOT = Path(__file__).resolve().parents[2]
MAGIC: dict[str, Any] = {
    "inventory_hostname": "login1.example.org",
    "ansible_facts": {"os_family": "Debian", "distribution_major_version": "13", "systemd": {"version": 257}},
}
OUTCOMES = pytest.StashKey[Counter[tuple[str, str]]]()

Values = dict[str, Any]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """As the role has it."""
    init_plugin_loader()
    path = ROOT / "roles/preflight/lookup_plugins/preflight_inventory.py"
    spec = importlib.util.spec_from_file_location("preflight_inventory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Engine = module.Engine()
    return made


@pytest.fixture(scope="session")
def example(engine: Engine) -> Values:
    """The example inventory on a Debian 13 host."""
    merged = dict(MAGIC)
    for path in sorted((ROOT / "inventories/example/group_vars/all").glob("*.yml")):
        merged |= engine.load(path)
    return merged


@pytest.fixture(scope="session")
def written(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Any]], Values]:
    """Writes the files of an inventory as the roles do, has each read by the program that reads it; gives site.yml."""
    filter_loader.add_directory(str(ROOT / "roles/dask_site/filter_plugins"))
    base: Values = {}
    for pattern in ("roles/*/defaults/main.yml", "roles/*/vars/main.yml", "roles/*/vars/Debian.yml"):
        for path in sorted(ROOT.glob(pattern)):
            base |= engine.load(path)
    directory = tmp_path_factory.mktemp("written")

    def render(text: str, variables: Values, name: str) -> Path:
        templar = Templar(DataLoader(), variables=variables)
        templar.environment.trim_blocks = True
        rendered = templar.template(trust_as_template(text), preserve_trailing_newlines=True)
        file = directory / name
        file.write_text(rendered if isinstance(rendered, str) else json.dumps(rendered))
        return file

    def template(role: str, name: str, variables: Values) -> Path:
        return render((ROOT / "roles" / role / "templates" / f"{name}.j2").read_text(), variables, name)

    def read(inventory: Mapping[str, Any]) -> Values:
        variables = base | dict(inventory)
        site = template("jupyterhub", "site.yml", variables)
        settings.load(site)
        config = login.read_config(render("{{ __jupyterhub_login | to_nice_json }}\n", variables, "login.json"))
        re.compile(config.username_pattern)
        jobs.read_config(render("{{ __jupyterhub_spawner_jobs | to_nice_json }}\n", variables, "jobs.json"))
        read_site(render("{{ __singleuser_batch | to_nice_json }}\n", variables, "batch.json"))
        dask = yaml.safe_load(template("dask_site", "site.yaml", variables).read_text())
        assert all(section["cores"] >= 1 for section in dask["jobqueue"].values())
        stack = config.service if config.service != "hpchub" else None
        if stack is None:
            chosen = Templar(DataLoader(), variables=variables).template(variables["jupyterhub_pam_stack"])
            text = template("jupyterhub", f"pam_{chosen}", variables).read_text()
            assert re.search("^auth .*success=ok default=die", text, re.MULTILINE)
        for role, name in [("jupyterhub_proxy", "hpchub-proxy.service"), ("jupyterhub", "hpchub-login@.service")]:
            unit = template(role, name, variables).read_text()
            assert re.findall(r"^(?!#|\[\w+\]$|\w+=|    \S|$).*", unit, re.MULTILINE) == []
        rule = template("jupyterhub_spawner", "sudoers", variables).read_text().splitlines()[-1]
        assert re.fullmatch(r'hpchub-jobs ALL=\(%[\w.-]+\) NOPASSWD: /\S+ ""', rule)
        loaded: Values = yaml.safe_load(site.read_text())
        return loaded

    return read


@pytest.fixture
def outcomes(request: pytest.FixtureRequest) -> Counter[tuple[str, str]]:
    """How many rows of a group came out how; printed at the end of the run."""
    return request.config.stash.setdefault(OUTCOMES, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of the changed inventories."""
    counted = config.stash.get(OUTCOMES, Counter())
    if not counted:
        return
    ends = sorted({end for _, end in counted})
    terminalreporter.section("changed inventories")
    terminalreporter.line(f"{'group':<24}" + "".join(f"{end:>24}" for end in ends))
    for group in sorted({group for group, _ in counted}):
        terminalreporter.line(f"{group:<24}" + "".join(f"{counted[group, end]:>24}" for end in ends))
    totals = {end: sum(number for (_, other), number in counted.items() if other == end) for end in ends}
    terminalreporter.line(f"{'all ' + str(sum(totals.values())):<24}" + "".join(f"{totals[end]:>24}" for end in ends))
