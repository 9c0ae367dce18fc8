"""The site's Dask configuration as one mapping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

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
    "log-directory": None,
}
_OF_SCHEDULER: dict[str, dict[str, Any]] = {
    "slurm": {"job-cpu": None, "job-mem": None},
    "pbs": {"resource-spec": None},
}
_CLUSTER = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}
_LOOPBACK = "127.0.0.1:0"


_OF_QUEUE = ("cores", "memory_gib", "walltime_minutes", "interface", "death_timeout_seconds")


def _for_queue(job: Mapping[str, Any], queue: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What one queue's jobs are: the site's values, then the queue's own, within what the queue allows."""
    wrong = sorted(set(own) - set(_OF_QUEUE))
    if wrong:
        raise AnsibleFilterError(
            f"dask_site_queues: {queue['name']} has {', '.join(wrong)}; a queue may have {', '.join(_OF_QUEUE)}."
        )
    mine = {**job, **own}
    for name in ("cores", "memory_gib", "walltime_minutes"):
        mine[name] = min(mine[name], queue.get(f"max_{name}") or mine[name])
    return mine


def _section(scheduler: str, job: Mapping[str, Any], queue: str | None) -> dict[str, Any]:
    """One section of dask-jobqueue."""
    minutes = job["walltime_minutes"]
    # A worker retires before the scheduler kills it, and not all at once, so that its results move to others.
    lifetime = ["--lifetime", f"{minutes * 48}s", "--lifetime-stagger", f"{minutes * 6}s"]
    return {
        "cores": job["cores"],
        "memory": f"{job['memory_gib']}GiB",
        # With more than one process a job, scaling down by single workers never empties a job.
        "processes": 1,
        "walltime": f"{minutes // 60:02}:{minutes % 60:02}:00",
        "queue": queue,
        "interface": job["interface"],
        # A directory of the job's own: dask's would be shared by all users of the node.
        "local-directory": "$HPCHUB_SCRATCH",
        "job-script-prologue": [
            f'export HPCHUB_SCRATCH=$(mktemp --directory "{job["local_directory"]}/dask-XXXXXXXX")',
            "trap 'rm --recursive --force \"$HPCHUB_SCRATCH\"' EXIT",
        ],
        "death-timeout": job["death_timeout_seconds"],
        "worker-extra-args": [*lifetime, "--dashboard-address", _LOOPBACK],
        "scheduler-options": {"protocol": "tls://", "dashboard_address": _LOOPBACK},
        **copy.deepcopy(_UNCHANGED),
        **_OF_SCHEDULER[scheduler],
    }


def dask_site_settings(queues: Sequence[Mapping[str, Any]], scheduler: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every session starts from: the scheduler's own section, and one named after each queue.

    `job` holds what __dask_site_job in vars/main.yml does; interface may be None.
    """
    unknown = sorted(set(job["queues"]) - {queue["name"] for queue in queues})
    if unknown:
        raise AnsibleFilterError(f"dask_site_queues: {', '.join(unknown)} is not in hpc_queues; write a queue's name.")
    sections = {scheduler: _section(scheduler, job, None)}
    for queue in queues:
        own = job["queues"].get(queue["name"], {})
        sections[queue["name"]] = _section(scheduler, _for_queue(job, queue, own), queue["name"])
    return {
        "distributed": {
            # Plain tcp is refused: whoever reaches a scheduler's or a worker's port runs code as its user.
            "comm": {"default-scheme": "tls", "require-encryption": True},
            # dask counts intervals: so many in a row without work.
            "adaptive": {"interval": "1s", "wait-count": job["idle_seconds"]},
            "scheduler": {
                "allowed-failures": job["allowed_failures"],
                # The cluster closes with it; 0 is for ever.
                "idle-timeout": f"{job['scheduler_idle_minutes']} minutes" if job["scheduler_idle_minutes"] else None,
                "http": {
                    # As shipped, without the proxy: its WebSocket opens any port of any host to anybody.
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
        # Read by hpchub itself, in Labs and by `hpchub dask`.
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


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"dask_site_settings": dask_site_settings}
