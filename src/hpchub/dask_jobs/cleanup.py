"""Ends the Dask jobs that a process of this Lab left behind: a kernel that was killed cancels nothing itself.

Processes with clusters keep a file each (see hpchub.dask_jobs.session). One whose process is gone costs the scheduler
two questions and, if it has left jobs, an order to cancel them. What a Lab itself leaves behind, the hub ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import time
from pathlib import Path
from threading import Thread

from hpchub.dask_jobs import session
from hpchub.privileged.batch_systems import orders
from hpchub.scheduler import SchedulerUnavailable, of_session
from hpchub.scheduler.commands import run

log = logging.getLogger("hpchub")

LOOK_SECONDS = 3.0
"""Between two looks at this node's processes; that asks nobody."""
AGAIN_SECONDS = 20.0
"""After the first question, for a submission that was under way."""
CANCEL_SECONDS = 60.0


async def end(tag: str) -> bool:
    """Cancel all own jobs with this tag; whether there was none. Raises SchedulerUnavailable."""
    scheduler = session.batch_system()
    if scheduler is None:
        return True
    left = of_session(await scheduler.own(pwd.getpwuid(os.getuid()).pw_name), tag)
    if left:
        command = orders(session.setting("scheduler")).cancel(session.setting("scheduler-prefix", "/usr/bin"), left)
        log.warning("Cancelling Dask jobs that nobody waits for any more: %s", " ".join(left))
        try:
            await run(command, timeout=CANCEL_SECONDS)
        except (OSError, TimeoutError) as error:
            raise SchedulerUnavailable(f"{command[0]}: {error}") from error
    return not left


async def watch() -> None:
    """Look after this Lab's processes for ever."""
    due: dict[Path, float] = {}
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for path in list(session.directory().glob("[0-9]*")):
            if session.alive(path.name) or due.get(path, 0.0) > time.monotonic():
                continue
            first = path not in due
            due[path] = time.monotonic() + AGAIN_SECONDS
            try:
                if await end(f"{session.tag()}:{path.name}") and not first:
                    path.unlink(missing_ok=True)
                    del due[path]
            except SchedulerUnavailable as error:
                log.warning("Dask jobs of process %s are not cancelled yet: %s", path.name, error)


def start() -> None:
    """Watch in a thread of its own, whatever the Lab is busy with."""
    if session.tag():
        Thread(target=lambda: asyncio.run(watch()), name="hpchub-leftovers", daemon=True).start()


def finish() -> None:
    """At the end of the Lab: its clusters, and those of its kernels and terminals, go with it."""
    try:
        if session.tag() and any(session.directory().glob("[0-9]*")):
            asyncio.run(end(session.tag()))
    except SchedulerUnavailable as error:
        log.warning("Dask jobs of this Lab are not cancelled, the hub will do it: %s", error)
