"""hpchub.dask_jobs.site_defaults as filters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.yaml.dumper import AnsibleDumper

sys.path.insert(0, str(Path(__file__).parents[3] / "src"))
from hpchub.dask_jobs import site_defaults

SPECS = Path(__file__).parents[1] / "meta/argument_specs.yml"


def _dump(tree: Mapping[str, Any]) -> str:
    options = {"default_flow_style": False, "width": site_defaults.WIDTH, "sort_keys": False}
    text: str = yaml.dump(dict(tree), Dumper=AnsibleDumper, **options)
    return text.rstrip("\n")


def dask_site_settings(queues: Sequence[Mapping[str, Any]], scheduler: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every session starts from."""
    try:
        return site_defaults.settings(queues, scheduler, job)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def dask_site_documented(settings: Mapping[str, Any]) -> str:
    """Return the settings as YAML, with what each value is for."""
    variables = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    descriptions = {name: spec["description"] for name, spec in variables.items()}
    return site_defaults.documented(settings, descriptions, _dump)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"dask_site_settings": dask_site_settings, "dask_site_documented": dask_site_documented}
