"""The site's Dask configuration as one file, with what each value is for."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.yaml.dumper import AnsibleDumper

WIDTH = 120
_SPECS = Path(__file__).parents[1] / "meta/argument_specs.yml"

# Every key that dask-jobqueue looks up in a section and that we leave as it is: a section of our own has no fallback.
_UNCHANGED: dict[str, Any] = {
    "name": "dask-worker",
    "python": None,
    "shared-temp-directory": None,
    "extra": None,
    "worker-command": "distributed.cli.dask_worker",
    "shebang": "#!/usr/bin/env bash",
    "account": None,
    "env-extra": None,
    "job-extra": None,
    "job-extra-directives": [],
    "job-directives-skip": [],
}
_OF_SCHEDULER: dict[str, dict[str, Any]] = {
    "slurm": {"job-cpu": None, "job-mem": None},
    "pbs": {"resource-spec": None},
}
_CLUSTER = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}
_LOOPBACK = "127.0.0.1:0"

# What stands above a key in the file: a sentence, or a variable, whose description is one. Only the scheduler's own
# section, the first, has them.
_ABOUT: dict[str, Sequence[str]] = {
    "distributed.comm": [
        "Plain tcp is refused: whoever reaches a scheduler's or a worker's port runs code as its user."
    ],
    "distributed.adaptive": ["Looks at the work once an interval, and acts on so many looks in a row without any."],
    "distributed.adaptive.wait-count": ["dask_site_idle_seconds"],
    "distributed.scheduler.allowed-failures": ["dask_site_allowed_failures"],
    "distributed.scheduler.idle-timeout": ["dask_site_scheduler_idle_minutes"],
    "distributed.scheduler.http": [
        "As Dask ships it, without the proxy, whose WebSocket opens any port of any host to anybody."
    ],
    "jobqueue": [
        "A session knows more: its own project, queue and reservation. Of the queue's own section below it takes what"
        " differs from the first."
    ],
    "cores": ["dask_site_cores"],
    "memory": ["dask_site_memory_gib"],
    "processes": ["With more than one process a job, scaling down by single workers never empties a job."],
    "walltime": ["dask_site_walltime_minutes"],
    "queue": ["None here: the queue of the notebook's own job."],
    "interface": ["dask_site_interface"],
    "local-directory": [
        "A directory of the job's own, as Dask's is one for all users, also where a user's own prologue made none."
    ],
    "job-script-prologue": ["dask_site_local_directory"],
    "log-directory": ["dask_site_log_directory"],
    "death-timeout": ["dask_site_death_timeout_seconds"],
    "worker-extra-args": [
        "A worker retires before the scheduler kills it, so that its results move to others, and not all at once. Its"
        " dashboard is for its owner, on its node.",
        "dask_site_queue_wait_minutes",
    ],
    "scheduler-options": ["The dashboard is reached through the Lab alone."],
    "name": ["From here on as dask-jobqueue has it, which takes no default for a key that a section leaves out."],
    "hpchub": ["Read by hpchub itself, in Labs and by `hpchub dask`."],
    "hpchub.max-jobs": ["dask_site_max_jobs"],
    "labextension": ["What the NEW button of the Lab's Dask panel makes."],
}


def _for_queue(job: Mapping[str, Any], queue: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What one queue's jobs are: the site's values, then the queue's own, within what the queue allows."""
    mine = {**job, **own}
    for name in ("cores", "memory_gib", "walltime_minutes"):
        mine[name] = min(int(mine[name]), int(queue.get(f"max_{name}") or mine[name]))
    return mine


def _lifetime(minutes: int, wait: int) -> list[str]:
    """A worker's arguments, for a wall time and a queue's wait in minutes.

    Workers retire over four times the wait, the last at nine tenths of the wall time: so new ones are there before all
    old ones are gone. That is at least a fifth of the wall time, and at most three fifths.
    """
    stagger = min(max(wait * 120, minutes * 6), minutes * 18)
    return ["--lifetime", f"{minutes * 54 - stagger}s", "--lifetime-stagger", f"{stagger}s"]


def _section(scheduler: str, job: Mapping[str, Any], queue: str | None) -> dict[str, Any]:
    """One section of dask-jobqueue."""
    minutes = int(job["walltime_minutes"])
    make = f'mktemp --directory "{job["local_directory"]}/dask-XXXXXXXX"'
    return {
        "cores": int(job["cores"]),
        "memory": f"{job['memory_gib']}GiB",
        "processes": 1,
        "walltime": f"{minutes // 60:02}:{minutes % 60:02}:00",
        "queue": queue,
        "interface": job["interface"],
        "local-directory": f"${{HPCHUB_SCRATCH:-$({make})}}",
        "job-script-prologue": [
            f"HPCHUB_SCRATCH=$({make}) || exit 1",
            "export HPCHUB_SCRATCH",
            "trap 'rm --recursive --force \"$HPCHUB_SCRATCH\"' EXIT",
        ],
        "log-directory": job["log_directory"],
        "death-timeout": int(job["death_timeout_seconds"]),
        "worker-extra-args": [
            *_lifetime(minutes, int(job["queue_wait_minutes"])),
            "--dashboard-address",
            _LOOPBACK,
        ],
        "scheduler-options": {"protocol": "tls://", "dashboard_address": _LOOPBACK},
        **copy.deepcopy(_UNCHANGED),
        **_OF_SCHEDULER[scheduler],
    }


def dask_site_settings(queues: Sequence[Mapping[str, Any]], scheduler: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every session starts from: the scheduler's own section, and one named after each queue.

    `job` holds what __dask_site_job in vars/main.yml does; interface and log_directory may be None.
    """
    differs = {own["name"]: own for own in job["queues"]}
    unknown = sorted(differs.keys() - {queue["name"] for queue in queues})
    if unknown:
        raise AnsibleFilterError(f"dask_site_queues: {', '.join(unknown)} is not in hpc_queues; write a queue's name.")
    sections = {scheduler: _section(scheduler, job, None)}
    for queue in queues:
        name = queue["name"]
        sections[name] = _section(scheduler, _for_queue(job, queue, differs.get(name, {})), name)
    return {
        "distributed": {
            "comm": {"default-scheme": "tls", "require-encryption": True},
            "adaptive": {"interval": "1s", "wait-count": job["idle_seconds"]},
            "scheduler": {
                "allowed-failures": job["allowed_failures"],
                "idle-timeout": f"{job['scheduler_idle_minutes']} minutes" if job["scheduler_idle_minutes"] else None,
                "http": {
                    "routes": [
                        "distributed.http.scheduler.prometheus",
                        "distributed.http.scheduler.info",
                        "distributed.http.scheduler.json",
                        "distributed.http.health",
                        "distributed.http.statics",
                    ]
                },
            },
        },
        "jobqueue": sections,
        "hpchub": {
            "scheduler": scheduler,
            "scheduler-prefix": job["scheduler_prefix"],
            "support-contact": job["support_contact"],
            "max-jobs": job["max_jobs"],
        },
        "labextension": {
            "factory": {"module": "dask_jobqueue", "class": _CLUSTER[scheduler], "args": [], "kwargs": {}}
        },
    }


def dask_site_documented(settings: Mapping[str, Any]) -> str:
    """Return the settings as YAML, with a comment above what deserves one."""
    variables = yaml.safe_load(_SPECS.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    first, *_ = settings["jobqueue"]

    def about(name: str) -> Iterator[str]:
        for words in _ABOUT.get(name.removeprefix(f"jobqueue.{first}."), []):
            text = f"{words}: {variables[words]['description']}" if words in variables else words
            yield from textwrap.wrap(text, WIDTH - 8, break_long_words=False)

    def lines(tree: Mapping[str, Any], above: str) -> Iterator[str]:
        for key, value in tree.items():
            name = f"{above}{key}"
            yield from (f"# {line}" for line in about(name))
            if isinstance(value, Mapping) and value:
                yield _dump({key: {}}).removesuffix(" {}")
                yield from (f"  {line}" for line in lines(value, f"{name}."))
            else:
                yield from _dump({key: value}).split("\n")

    return "\n".join(lines(settings, ""))


def _dump(tree: Mapping[str, Any]) -> str:
    text: str = yaml.dump(dict(tree), Dumper=AnsibleDumper, default_flow_style=False, width=WIDTH, sort_keys=False)
    return text.rstrip("\n")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"dask_site_settings": dask_site_settings, "dask_site_documented": dask_site_documented}
