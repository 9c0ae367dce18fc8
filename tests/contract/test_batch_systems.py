"""What is said of one batch system stands in its own two files, and what is written for one follows from them."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

from hpchub.privileged import batch_systems

if TYPE_CHECKING:
    from tests.conftest import BatchSystem

ROOT = Path(__file__).resolve().parents[2]
SAID = re.compile(
    r"slurm|(?<![a-z])pbs|sbatch|srun|salloc|squeue|scancel|sacct|scontrol|sinfo|qsub|qdel|qstat|qmgr", re.IGNORECASE
)
OWN = {
    *(f"src/hpchub/{room}/{name}.py" for room in ("privileged", "scheduler") for name in batch_systems.NAMES),
    "src/hpchub/privileged/batch_systems.py",  # the names
    "src/hpchub/scheduler/messages.py",  # the words
    "roles/preflight/meta/argument_specs.yml",  # the choice
    "roles/preflight/defaults/main.yml",  # and its default
}


def code_of_python(text: str) -> str:
    """The program without comments and docstrings, those of attributes included."""
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = ["\n"] * ((node.end_lineno or 0) - node.lineno + 1)
    return "".join(lines)


def code_of_yaml(tree: Any) -> Iterator[str]:
    """All keys and values but what describes."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from () if key in ("description", "short_description") else code_of_yaml(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from code_of_yaml(value)
    else:
        yield str(tree)


def code(path: Path) -> str:
    """What of a file is not there for people."""
    text = path.read_text()
    if path.suffix == ".py":
        return code_of_python(text)
    if path.suffix == ".yml":
        return "\n".join(code_of_yaml(yaml.safe_load(text)))
    if path.suffix == ".j2":
        text = re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)
    if path.suffix in (".j2", ".pth", ""):
        return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return "" if path.suffix in (".md", ".ipynb") else text


def files() -> dict[str, Path]:
    """All of package and roles that is run or rendered, by its place in the tree."""
    found = [path for top in ("src", "roles") for path in (ROOT / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(ROOT)): path for path in found if "__pycache__" not in path.parts}


def test_no_other_file_names_a_batch_system_or_one_of_its_commands() -> None:
    named = {name: SAID.findall(code(path)) for name, path in files().items() if name not in OWN}
    assert {name: words for name, words in named.items() if words} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('x = "sbatch"  # of Slurm', ["sbatch"]),
        ('"""Slurm."""\nX = 1\n"""qsub"""\n', []),
        ("def slurm() -> None:\n    '''PBS.'''\n    return PBS_JOBID", ["slurm", "PBS"]),
        ("SLURMRunner", ["SLURM"]),
    ],
)
def test_only_comments_and_docstrings_may(text: str, found: list[str]) -> None:
    assert SAID.findall(code_of_python(text)) == found


def test_the_inventory_has_the_choice_of_all_that_there_are() -> None:
    spec = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())
    choice = spec["argument_specs"]["inventory"]["options"]["hpc_scheduler"]
    assert choice["choices"] == list(batch_systems.NAMES)
    assert choice["default"] in batch_systems.NAMES


# -- what roles write


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
    init_plugin_loader()
    for path in sorted(ROOT.glob("roles/*/filter_plugins")):
        filter_loader.add_directory(str(path))
    return merged


def render(text: str, variables: dict[str, Any]) -> str:
    templar = Templar(DataLoader(), variables=variables)
    templar.environment.trim_blocks = True
    return str(templar.template(trust_as_template(text), preserve_trailing_newlines=True))


REVIEWED = {"slurm": ".golden", "pbs": ".pbs.golden"}
TEMPLATES = {
    "hpchub.service": "roles/jupyterhub/templates/hpchub.service.j2",
    "hpchub-jobs@.service": "roles/jupyterhub_spawner/templates/hpchub-jobs@.service.j2",
    "dask.yaml": "roles/dask_site/templates/site.yaml.j2",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_role_writes_for_a_batch_system_is_what_was_reviewed(
    name: str, batch_system: BatchSystem, variables: dict[str, Any]
) -> None:
    text = render((ROOT / TEMPLATES[name]).read_text(), variables | {"hpc_scheduler": batch_system.name})
    here, sample = batch_system.dialect, batch_system.sample
    if name == "dask.yaml":
        settings = yaml.safe_load(text)
        assert settings["labextension"]["factory"]["class"] == sample["cluster_class"]
        assert settings["hpchub"]["scheduler"] == batch_system.name
        first, *queues = settings["jobqueue"].values()
        assert {name for name, section in settings["jobqueue"].items() if section is first} == {here.dask.section}
        assert all(here.seconds(section["walltime"]) for section in (first, *queues))
        assert first.keys() >= {*here.dask.keys, here.dask.project_key}
    else:
        assert ("CAP_NET_BIND_SERVICE" in text) == here.set_uid_client
    if batch_system.name in REVIEWED:
        assert text == (Path(__file__).parent / "golden" / f"{name}{REVIEWED[batch_system.name]}").read_text()


def test_a_batch_system_that_there_is_not_stops_a_role_with_a_sentence(variables: dict[str, Any]) -> None:
    for template in TEMPLATES.values():
        with pytest.raises(AnsibleFilterError, match="'lsf' is no batch system that hpchub knows; write slurm or pbs"):
            render((ROOT / template).read_text(), variables | {"hpc_scheduler": "lsf"})


@pytest.mark.parametrize(
    ("role", "name"), [("jupyterhub_spawner", "__jupyterhub_spawner_jobs"), ("singleuser", "__singleuser_batch")]
)
def test_the_programs_get_the_name_as_it_is(
    role: str, name: str, batch_system: BatchSystem, variables: dict[str, Any]
) -> None:
    text = render(f"{{{{ {name} | to_json }}}}", variables | {"hpc_scheduler": batch_system.name})
    assert json.loads(text)["scheduler"] == batch_system.name
