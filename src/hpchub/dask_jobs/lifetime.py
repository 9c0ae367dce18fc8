"""A worker leaves in time before its job's wall time is over, whatever wall time its user asks for.

The site's configuration says when a worker of the site's own wall time leaves. For a job of another wall time that may
be after its end, or hours too soon. So each job gets what fits its own directives, in the site's proportions.

As shipped a worker that leaves drops results that no other worker can take. Here it keeps them, works on and tries
again, for as long as its job lasts.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.config
from dask.utils import parse_timedelta

from hpchub.dask_jobs.retirement import Pair, fitting, last_of
from hpchub.privileged import batch_systems, durations
from hpchub.scheduler.registry import dialect, dialects

WORKER = "distributed.cli.dask_worker"
LAST = "HPCHUB_LEAVE_BY"
"""Names the moment in seconds since 1970 at which a worker leaves whatever it still has."""
AGAIN_SECONDS = 5.0


def wall_time(script: str) -> float | None:
    """Seconds that the directives of a job script ask for, of several the last; None if they do not say."""
    for one in dialects():
        if found := one.wall_time.findall(script):
            return one.seconds(found[-1])
    return None


def pair_of(arguments: Sequence[object]) -> Pair | None:
    """What these arguments of a worker say; None if they say nothing. Raises ValueError if it cannot be read."""
    said: dict[str, str] = {}
    for argument, following in pairwise([*map(str, arguments), ""]):
        name, given, value = argument.partition("=")
        said[name] = value if given else following
    if "--lifetime" not in said:
        return None
    try:
        leaves, varies = (parse_timedelta(said.get(name, "0")) for name in ("--lifetime", "--lifetime-stagger"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no time: {error}") from error
    return float(leaves), float(varies)


@functools.cache
def of_site(directory: str) -> Mapping[Pair, float]:
    """What the site's files in this directory say, and for which wall time in seconds."""
    from hpchub.dask_jobs import configuration as own  # a worker has no use for it, and it imports much

    site = own.site_settings(own.read_site(Path(directory)))
    name = own.mapping(site, "hpchub").get("scheduler")
    read = dialect(str(name)).seconds if name in batch_systems.NAMES else durations.of_hours
    found: dict[Pair, float] = {}
    for section in own.sections(site).values():
        arguments, text = section.get("worker-extra-args"), str(section.get("walltime"))
        seconds = read(text) if ":" in text else durations.of_hours(text)  # YAML reads an unquoted one as seconds
        pair = pair_of(arguments) if isinstance(arguments, list) else None
        if pair and seconds:
            found.setdefault(pair, seconds)
    return found


def fit(header: str, command: str, site: Mapping[Pair, float] | None = None) -> str:
    """A worker's command line in a job with these directives, so that it leaves in time.

    A user's own lifetime within the wall time stays. Done once; what cannot be understood stays as it is.
    """
    site = of_site(dask.config.paths[0]) if site is None else site
    limit = wall_time(header)
    if not site or not limit or WORKER not in command or LAST in command:
        return command
    try:
        asked = pair_of(shlex.split(command))
    except ValueError:  # only the job's shell understands it
        return command
    if asked is None or asked in site or sum(asked) >= limit:
        known = asked if asked and asked in site else next(iter(site))
        leaves, varies = fitting(limit, known, site[known])
        command = re.sub(r"\s--lifetime(?:-stagger)?[=\s]\S+", "", command)
        command = f"{command} --lifetime {leaves:.0f}s --lifetime-stagger {varies:.0f}s"
    return f"{LAST}=$(($(date +%s) + {last_of(limit):.0f})) {command}"


async def handed_over(worker: Any) -> bool:  # noqa: ANN401 - a Worker
    """Wait until others have this worker's results, and it gets no more work; False if its time is over."""
    while worker.data and worker.status.name == "running" and time.time() < float(os.environ.get(LAST, 0)):
        stimulus = f"hand-over-{time.time()}"
        me = {"workers": [worker.address], "close_workers": False, "remove": True}  # as upstream
        if await worker.scheduler.retire_workers(**me, stimulus_id=stimulus):
            return True
        await asyncio.sleep(AGAIN_SECONDS)
    return False


def patient(worker: ModuleType) -> None:
    """Change distributed.worker: one whose lifetime is over keeps results that nobody can take."""
    original: Callable[..., Awaitable[None]] = worker.Worker.close_gracefully

    @functools.wraps(original)
    async def close_gracefully(self: Any, restart: bool | None = None, reason: str = "worker-close-gracefully") -> None:  # noqa: ANN401 - as upstream
        if reason == "worker-lifetime-reached" and await handed_over(self):
            await self.close(nanny=not (self.lifetime_restart if restart is None else restart), reason=reason)
        else:
            await original(self, restart=restart, reason=reason)

    worker.Worker.close_gracefully = close_gracefully
