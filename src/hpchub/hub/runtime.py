"""What all spawners of this process share: the site, the authority of the Labs, and each cluster with what asks it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cache

from hpchub import settings as site_settings
from hpchub.hub import credentials
from hpchub.hub.internal_tls import Labs
from hpchub.hub.job_client import JobClient
from hpchub.hub.job_record import hub_identity
from hpchub.hub.turns import Turns
from hpchub.scheduler import Scheduler, SchedulerUnavailable
from hpchub.scheduler.offers import Live
from hpchub.scheduler.registry import questions
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Cluster, Site

log = logging.getLogger("JupyterHub.hpchub")

RETRY_SECONDS = 15.0
"""Between two questions to a scheduler that does not answer."""


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """One cluster as this process uses it: its settings, and everything that asks it or gives it orders."""

    settings: Cluster
    identity: str
    """The beginning of the tags of this hub's jobs here: `job_record.hub_identity`."""
    scheduler: Scheduler
    watcher: Watcher
    offers: Live
    client: JobClient
    turns: Turns = field(default_factory=Turns)

    async def find_job(self, user: str, tag: str) -> str | None:
        """The id of the user's job with this tag, however long the scheduler takes; None if there is no such job."""
        while True:
            try:
                tags = await self.scheduler.tags(user)
                return next((job_id for job_id, known in tags.items() if known == tag), None)
            except SchedulerUnavailable as error:
                log.warning("Cannot look for the job %s yet: %s", tag, error)
                await asyncio.sleep(RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all spawners of this process share."""

    site: Site
    labs: Labs
    clusters: tuple[RunningCluster, ...]

    @property
    def cluster(self) -> RunningCluster:
        """The cluster on which jobs run: today there is one."""
        return self.clusters[0]


def running(cluster: Cluster, public_url: str) -> RunningCluster:
    """A cluster, for the hub at this address. Nothing is asked yet."""
    scheduler = questions(cluster.scheduler, cluster.scheduler_prefix)
    return RunningCluster(
        settings=cluster,
        identity=hub_identity(cluster.name, public_url),
        scheduler=scheduler,
        watcher=Watcher(scheduler, cluster.jobs.poll_seconds),
        offers=Live(scheduler, cluster),
        client=JobClient(cluster.jobs.socket),
    )


@cache
def runtime(site_file: str) -> Runtime:
    """What is shared by all spawners of the site in this file, made once. Raises SettingsError."""
    site = site_settings.load(site_file)
    labs = Labs(*(credentials.text(name) for name in ("labs-ca.key", "labs-ca.pem", "services-ca.pem")))
    return Runtime(site, labs, tuple(running(cluster, site.hub.public_url) for cluster in site.clusters))
