"""Which names are taken for ours: misspelt ones, and none of other roles."""

import re
from pathlib import Path

import ansible
import pytest
import yaml

from hpchub.preflight import types

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
OURS = yaml.safe_load((ROLES / "preflight/vars/main.yml").read_text())["__preflight_of_site"]
KNOWN = [name for name in types.specs_of(ROLES) if name not in OURS]
COLLECTIONS = Path(ansible.__file__).parents[1] / "ansible_collections"


def told(*names: str) -> list[str]:
    return list(types.unknown(names, KNOWN, types.prefixes_of(ROLES), OURS))


def test_no_variable_of_the_roles_that_come_with_ansible_is_taken_for_ours() -> None:
    files = [
        *COLLECTIONS.glob("*/*/roles/*/defaults/*.y*ml"),
        *COLLECTIONS.glob("*/*/roles/*/meta/argument_specs.y*ml"),
    ]
    names = {name for path in files for name in re.findall(r"(?m)^ *([A-Za-z_]\w+):", path.read_text())}

    assert len(names) > 500
    assert told(*sorted(names)) == []


@pytest.mark.parametrize(
    "name",
    [
        *("admins", "cluster_name", "contact", "group", "http_port", "ldap_servers", "login_banner", "pam_service"),
        *("openhpc_queues", "ohpc_queues", "openhpc_python", "pbs_prefix", "php_python", "proxy_port", "queues"),
        *("jupyter_port", "jupyterlab_port", "jhub_version", "jupyter_hub", "dask_gateway_port", "site_url"),
        *("python_version", "user_group", "users_group", "spawner", "conda_env_keep", "shared_prefix", "slurm_queues"),
    ],
)
def test_no_common_name_of_a_sites_own_is_taken_for_ours(name: str) -> None:
    assert told(name) == []


@pytest.mark.parametrize("name", [name for name in KNOWN if len(name) > 9])
def test_a_letter_too_few_in_any_name_of_ours_is_noticed(name: str) -> None:
    middle = len(name) // 2
    for misspelt in (name[:1] + name[2:], name[:middle] + name[middle + 1 :], name.upper(), name + "s", name[:-1]):
        if misspelt not in KNOWN:
            (sentence,) = told(misspelt)
            assert sentence.startswith(f"Unknown variable '{misspelt}'.")


def test_swapped_letters_count_once_and_a_far_name_is_not_measured_out() -> None:
    assert types.distance("hcp", "hpc", 2) == 1
    assert types.distance("kitten", "sitting", 3) == 3
    assert types.distance("abcdefgh", "zyxwvuts", 2) == 3
    assert types.distance("a", "abcdef", 2) == 3
