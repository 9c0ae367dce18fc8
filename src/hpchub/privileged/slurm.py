"""Orders to Slurm, 22.05 and later: `man sbatch`, `man scancel`."""

from __future__ import annotations

import os
import re

from hpchub.privileged.batch_systems import Job, Orders


def _lab_options(job: Job, home: str, log: str) -> list[str]:
    options = [
        "--job-name=hpchub",
        f"--comment={job.tag}",
        f"--account={job.project}",
        f"--partition={job.queue}",
        f"--time={job.walltime_minutes}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={job.cores}",
        f"--mem={job.memory_mib}M",
        "--export=NIL",
        f"--chdir={home}",
        f"--output={log if log == os.devnull else log + '/lab-%j.log'}",
        "--no-requeue",
    ]
    if job.gpus:
        options.append(f"--gres=gpu:{job.gpus}")
    if job.reservation is not None:
        options.append(f"--reservation={job.reservation}")
    return options


ORDERS = Orders(
    submit_command=("sbatch", "--parsable"),
    cancel_command="scancel",
    job_id=re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?"),
    gone=re.compile(r"Invalid job id|already completing or completed"),
    submitted=lambda said: said.strip().split(";")[0],  # a semicolon and the cluster's name may follow
    lab_options=_lab_options,
    lab_log="lab-{}.log",
)
