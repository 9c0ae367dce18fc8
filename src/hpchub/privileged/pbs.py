"""Orders to PBS (OpenPBS 20 and later, PBS Professional): `man qsub`, `man qdel`."""

from __future__ import annotations

import os
import re

from hpchub.privileged import durations
from hpchub.privileged.batch_systems import Job, Orders


def _lab_options(job: Job, home: str, log: str) -> list[str]:
    del home  # a job begins there anyway
    gpus = f":ngpus={job.gpus}" if job.gpus else ""
    return [
        "-Nhpchub",
        f"-vHPCHUB_TAG={job.tag}",  # a user's job has no comment of its own
        f"-A{job.project}",
        f"-q{job.queue if job.reservation is None else job.reservation}",  # a reservation is a queue
        f"-lselect=1:ncpus={job.cores}:mem={job.memory_mib}mb{gpus}",
        f"-lwalltime={durations.hours(job.walltime_minutes)}",
        "-joe",
        # Written while the job runs. PBS cannot copy a log to /dev/null and tries for half a minute: it shall not try.
        *(["-o/dev/null", "-Roe"] if log == os.devnull else [f"-o{log}/", "-koed"]),
        "-rn",
        "-mn",
    ]


ORDERS = Orders(
    submit_command=("qsub",),
    cancel_command="qdel",
    job_id=re.compile(r"[0-9]{1,18}(\.[A-Za-z0-9][A-Za-z0-9.-]{0,100})?"),
    gone=re.compile(r"Unknown Job I[dD]|Job has finished|Job already in terminal state"),
    submitted=str.strip,
    lab_options=_lab_options,
    lab_log="{}.OU",
)
