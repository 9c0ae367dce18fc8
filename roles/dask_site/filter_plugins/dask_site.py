"""The site's Dask configuration as one mapping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def _section(scheduler: str, job: Mapping[str, Any], queue: str | None, limit: int | None) -> dict[str, Any]:
    """One section of dask-jobqueue: sizes of the site, wall time within the queue's limit."""
    minutes = min(job["walltime_minutes"], limit or job["walltime_minutes"])
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

    `job` holds cores, memory_gib, walltime_minutes, death_timeout_seconds, idle_seconds, local_directory and interface
    (or None).
    """
    sections = {scheduler: _section(scheduler, job, None, None)}
    for queue in queues:
        sections[queue["name"]] = _section(scheduler, job, queue["name"], queue.get("max_walltime_minutes"))
    return {
        "distributed": {
            # Plain tcp is refused: whoever reaches a scheduler's or a worker's port runs code as its user.
            "comm": {"default-scheme": "tls", "require-encryption": True},
            # dask counts intervals: so many in a row without work.
            "adaptive": {"interval": "1s", "wait-count": job["idle_seconds"]},
            "scheduler": {
                "http": {
                    # As shipped, without the proxy: its WebSocket opens any port of any host to anybody.
                    "routes": [
                        "distributed.http.scheduler.prometheus",
                        "distributed.http.scheduler.info",
                        "distributed.http.scheduler.json",
                        "distributed.http.health",
                        "distributed.http.statics",
                    ]
                }
            },
        },
        "jobqueue": sections,
        "labextension": {
            "factory": {"module": "dask_jobqueue", "class": _CLUSTER[scheduler], "args": [], "kwargs": {}}
        },
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"dask_site_settings": dask_site_settings}
