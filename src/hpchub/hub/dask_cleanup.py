"""Cancels the Dask jobs that a Lab has left when it ended; until all are gone, the database keeps the Lab's tag.

Jobs that a Lab submits bear its tag (hpchub.dask_jobs.session). Cancelling acts as the user, so the most that a forged
tag can do is to end a job of whoever forged it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types

from hpchub.hub.runtime import RunningCluster
from hpchub.scheduler import SchedulerUnavailable, of_session

log = logging.getLogger("JupyterHub.hpchub")

CLEAN_POLLS = 2
"""Answers in a row without a Dask job of a Lab until all of them count as gone."""
POLL_SECONDS = 15.0
MOST_POLLS = 60
"""Answers and silences until it is given up."""


def ended_tags(state: object) -> list[str]:
    """Of a server's state the tags of former jobs whose Dask jobs have not all been seen to be gone."""
    return list(state.get("ended", [])) if isinstance(state, dict) else []


def forget_ended(row: orm.Spawner, tag: str) -> None:
    """Take a tag out of that list."""
    tags = ended_tags(row.state)
    if tag in tags:
        row.state = {**row.state, "ended": [one for one in tags if one != tag]}


async def cancel_dask_jobs(
    cluster: RunningCluster, user: str, tag: str, wait: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Cancel what Dask jobs the Lab with this tag has left, also those that wait. The Lab must be over."""
    clean = 0
    for _ in range(MOST_POLLS):
        try:
            left = of_session(await cluster.scheduler.own(user), tag)
            clean = 0 if left else clean + 1
            if clean == CLEAN_POLLS:
                return
            if left:
                log.info("Cancelling Dask jobs of %s, whose session has ended: %s", user, " ".join(left))
                await cluster.client.cancel(user, left)
        except SchedulerUnavailable as error:
            log.warning("No look for Dask jobs of %s: %s", user, error)
        await wait(POLL_SECONDS)
    log.error("Dask jobs of %s, whose session has ended, could not be cancelled: tag %s", user, tag)
