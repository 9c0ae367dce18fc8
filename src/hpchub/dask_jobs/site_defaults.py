"""The site's Dask defaults as one file, with what each value is for: etc/dask/site.yaml of the shared prefix.

Runs on the controller, in an Ansible filter: it has the standard library and what else is as light.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hpchub.dask_jobs import retirement
from hpchub.scheduler.dialect import Dialect
from hpchub.scheduler.registry import dialect

WIDTH = 120

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


def _section(here: Dialect, job: Mapping[str, Any], queue: str | None) -> dict[str, Any]:
    """One section of dask-jobqueue."""
    minutes = int(job["walltime_minutes"])
    leaves, varies = retirement.of_wall_time(minutes, int(job["queue_wait_minutes"]))
    make = f'mktemp --directory "{job["local_directory"]}/dask-XXXXXXXX"'
    return {
        "cores": int(job["cores"]),
        "memory": f"{job['memory_gib']}GiB",
        "processes": 1,
        "walltime": here.dask.wall_time(minutes),
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
            "--lifetime",
            f"{leaves}s",
            "--lifetime-stagger",
            f"{varies}s",
            "--dashboard-address",
            _LOOPBACK,
        ],
        "scheduler-options": {"protocol": "tls://", "dashboard_address": _LOOPBACK},
        **copy.deepcopy(_UNCHANGED),
        **dict.fromkeys(here.dask.keys),
    }


def settings(queues: Sequence[Mapping[str, Any]], scheduler: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every session starts from: the scheduler's own section, and one named after each queue.

    `queues` are hpc_queues, `job` holds what __dask_site_job in the role's vars does; interface and log_directory may
    be None. Raises ValueError about a batch system or queue that there is not.
    """
    here = dialect(scheduler)
    differs = {own["name"]: own for own in job["queues"]}
    unknown = sorted(differs.keys() - {queue["name"] for queue in queues})
    if unknown:
        raise ValueError(f"dask_site_queues: {', '.join(unknown)} is not in hpc_queues; write a queue's name.")
    sections = {here.dask.section: _section(here, job, None)}
    for queue in queues:
        name = queue["name"]
        sections[name] = _section(here, _for_queue(job, queue, differs.get(name, {})), name)
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
            "factory": {"module": "dask_jobqueue", "class": here.dask.cluster_class, "args": [], "kwargs": {}}
        },
    }


def documented(
    settings: Mapping[str, Any], descriptions: Mapping[str, str], dump: Callable[[Mapping[str, Any]], str]
) -> str:
    """Return the settings as YAML, with a comment above what deserves one.

    `descriptions` are those of the role's variables, by name; `dump` writes a mapping as YAML, at most `WIDTH` wide.
    """
    first, *_ = settings["jobqueue"]

    def about(name: str) -> Iterator[str]:
        for words in _ABOUT.get(name.removeprefix(f"jobqueue.{first}."), []):
            text = f"{words}: {descriptions[words]}" if words in descriptions else words
            yield from textwrap.wrap(text, WIDTH - 8, break_long_words=False)

    def lines(tree: Mapping[str, Any], above: str) -> Iterator[str]:
        for key, value in tree.items():
            name = f"{above}{key}"
            yield from (f"# {line}" for line in about(name))
            if isinstance(value, Mapping) and value:
                yield dump({key: {}}).removesuffix(" {}")
                yield from (f"  {line}" for line in lines(value, f"{name}."))
            else:
                yield from dump({key: value}).split("\n")

    return "\n".join(lines(settings, ""))
