"""Orders to LSF: `man bsub`, `man bkill`."""

from __future__ import annotations

import os
import re

from hpchub.privileged.batch_systems import Job, Orders


def _lab_options(job: Job, home: str, log: str) -> list[str]:
    options = [
        "-Jhpchub",
        f"-Jd{job.tag}",
        f"-P{job.project}",
        f"-q{job.queue}",
        f"-W{job.walltime_minutes}",
        f"-n{job.cores}",
        "-Rspan[hosts=1]",
        f"-M{job.memory_mib}MB",
        "-envnone",
        f"-cwd{home}",
        f"-o{log if log == os.devnull else log + '/lab-%J.log'}",
        "-rn",
    ]
    if job.gpus:
        options.append(f"-gpunum={job.gpus}")
    if job.reservation is not None:
        options.append(f"-U{job.reservation}")
    return options


ORDERS = Orders(
    submit_command=("bsub",),
    cancel_command="bkill",
    job_id=re.compile(r"[0-9]{1,18}(\[[0-9]{1,9}\])?"),
    gone=re.compile(r"No matching job found|Job has already finished"),
    submitted=lambda said: said.partition("<")[2].partition(">")[0],  # Job <12> is submitted to queue <regular>.
    lab_options=_lab_options,
    lab_log="lab-{}.log",
)
