"""Live facts about the cluster, asked when a person needs them and shared for a minute."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hpchub.scheduler import Ask, Project, Queue, Reservation, Scheduler
from hpchub.scheduler.commands import asker
from hpchub.settings import Cluster

T = TypeVar("T")

FRESH_SECONDS = 60.0
PROJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
"""A project's name, as the job program takes it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A queue of the site as one user may use it; limits are the tighter of the site's and the scheduler's."""

    name: str
    description: str
    default: bool
    projects: tuple[str, ...]
    max_walltime_minutes: int | None
    max_cores: int | None
    max_memory_mib: int | None
    max_gpus: int


@dataclass(frozen=True, slots=True)
class OfferedReservation:
    """A reservation, with those of the user's projects that may use it."""

    name: str
    projects: tuple[str, ...]
    queue: str | None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one user may ask for, now."""

    user: str
    projects: tuple[str, ...]
    offers: tuple[Offer, ...]
    reservations: tuple[OfferedReservation, ...] = ()
    maintenance: tuple[float, float] | None = None
    """The next one, or the one that is on: beginning and end, in seconds since the epoch."""


class Cached(Generic[T]):
    """One answer for all who ask within `FRESH_SECONDS`; a failure is not kept."""

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is asked yet."""
        self._ask, self._clock = ask, clock
        self._lock = asyncio.Lock()
        self._answer: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer; raises what asking raises."""
        async with self._lock:
            if self._answer is None or self._clock() - self._answer[0] > FRESH_SECONDS:
                self._answer = (self._clock(), await self._ask())
            return self._answer[1]

    @property
    def stale(self) -> bool:
        """Whether the next `get` has to ask."""
        return self._answer is None or self._clock() - self._answer[0] > FRESH_SECONDS


class Live:
    """The facts of one cluster."""

    def __init__(self, scheduler: Scheduler, cluster: Cluster, ask: Ask | None = None) -> None:
        """Nothing is asked until somebody wants to know. `ask` runs the site's own program, if there is one."""
        self._cluster, self._scheduler, self._ask = cluster, scheduler, ask or asker()
        self._queues = Cached(scheduler.queues)
        self._reservations = Cached(scheduler.reservations)
        self._projects: dict[str, Cached[tuple[frozenset[str], tuple[Project, ...]]]] = {}

    async def facts(self, user: str) -> Facts:
        """What this user may ask for; raises SchedulerUnavailable."""
        self._projects = {name: kept for name, kept in self._projects.items() if name == user or not kept.stale}
        mine = self._projects.setdefault(user, Cached(lambda: self._user(user)))
        (groups, projects), queues, reservations = await asyncio.gather(
            mine.get(), self._queues.get(), self._reservations.get()
        )
        return combine(self._cluster, user, groups, projects, tuple(queues.values()), tuple(reservations))

    async def _user(self, user: str) -> tuple[frozenset[str], tuple[Project, ...]]:
        groups = await asyncio.to_thread(groups_of, user)  # a directory service may be slow
        return groups, tuple(await self._own_projects(user, groups))

    async def _own_projects(self, user: str, groups: frozenset[str]) -> Sequence[Project]:
        """The user's projects, from where the site says they stand."""
        source = self._cluster.projects
        if source.members:
            return [Project(name) for name, users in sorted(source.members.items()) if user in users]
        if source.group_pattern:
            found = (re.fullmatch(source.group_pattern, group) for group in sorted(groups))
            return [Project(match[1] if match.re.groups else match[0]) for match in found if match]
        if source.command:
            lines = (await self._ask((*source.command, user))).splitlines()
            return [Project(line.strip()) for line in lines if PROJECT.fullmatch(line.strip())]
        return await self._scheduler.projects(user, groups)


def groups_of(user: str) -> frozenset[str]:
    """The names of the user's groups; none for a user that the system does not know."""
    try:
        ids = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return frozenset()
    names = set()
    for gid in ids:
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return frozenset(names)


def combine(
    cluster: Cluster,
    user: str,
    groups: frozenset[str],
    projects: tuple[Project, ...],
    queues: tuple[Queue, ...],
    reservations: tuple[Reservation, ...],
) -> Facts:
    """The site's queues that are live and open to the user, with the tighter limits."""
    live = {queue.name: queue for queue in queues}
    offers = []
    for wanted in cluster.queues:
        queue = live.get(wanted.name)
        if queue is None:
            continue
        admitted = tuple(project.name for project in projects if queue.admits(user, groups, project))
        if not admitted:
            continue
        memory = None if wanted.max_memory_gib is None else int(wanted.max_memory_gib * 1024)
        offers.append(
            Offer(
                name=queue.name,
                description=wanted.description,
                default=wanted == cluster.default_queue,
                projects=admitted,
                max_walltime_minutes=_tighter(wanted.max_walltime_minutes, queue.max_walltime_minutes),
                max_cores=_tighter(wanted.max_cores, queue.max_cores),
                max_memory_mib=_tighter(memory, queue.max_memory_mib),
                max_gpus=queue.max_gpus,
            )
        )
    offered = (
        OfferedReservation(
            reservation.name,
            tuple(project.name for project in projects if reservation.admits(user, groups, project.name)),
            reservation.queue,
            reservation.title,
        )
        for reservation in reservations
    )
    return Facts(
        user=user,
        projects=tuple(project.name for project in projects),
        offers=tuple(offers),
        reservations=tuple(reservation for reservation in offered if reservation.projects),
        maintenance=_next_maintenance(reservations, time.time()),
    )


def _next_maintenance(reservations: tuple[Reservation, ...], now: float) -> tuple[float, float] | None:
    windows = [(one.start, one.end) for one in reservations if one.maintenance and one.start and one.end]
    return min(((start, end) for start, end in windows if end > now), default=None)


def _tighter(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
