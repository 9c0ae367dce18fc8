"""Submitting a job, and what its user is told when it does not become a server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hpchub.hub.followed_job import NeverReady
from hpchub.hub.job_client import Outcome
from hpchub.hub.refused import Refused
from hpchub.hub.runtime import RunningCluster
from hpchub.hub.spawn_page import context
from hpchub.scheduler.messages import logged, refusal

log = logging.getLogger("JupyterHub.hpchub")


async def submit(
    cluster: RunningCluster, user: str, job: Mapping[str, Any], environment: Mapping[str, str], tls: Mapping[str, str]
) -> str:
    """The id of a job that is submitted as this user, when it is its turn; raises Refused.

    A submission without an answer may have been done all the same: then the job is looked for by its tag.
    """
    async with cluster.turns.of(user):
        answer = await cluster.client.submit(user, job, environment, tls)
        job_id = answer.job_id
        if answer.outcome is Outcome.NO_ANSWER:
            job_id = await cluster.find_job(user, str(job["tag"])) or ""
    support = cluster.settings.support_contact
    if answer.outcome is Outcome.FAILED:
        raise Refused(f"The job could not be submitted. Please ask {support}.", "submit", 503)
    if answer.outcome is Outcome.REFUSED:
        log.warning("Refused a job of %s, tag %s: %s", user, job["tag"], answer.message)
        raise Refused(refusal(answer.message, support), "refused")
    if not job_id:
        raise Refused(f"{context.UNAVAILABLE} No job was started.", "submit", 503)
    return job_id


async def refusal_of(failure: NeverReady, cluster: RunningCluster, user: str, job_id: str) -> tuple[Refused, str]:
    """What is told about a job that runs or ran, but is no server: why and what to do; and the end of its log."""
    support = cluster.settings.support_contact
    job_log = await cluster.client.read_log(user, job_id)
    why = (cluster.scheduler.explain(failure.ended) or "The job ended.") if failure.ended else ""
    words = f"{failure} {logged(job_log.text, support) or why}".strip()
    hint = f"Its log is {job_log.path} on the cluster; if it" if job_log.path else "If this"
    return Refused(f"{words} {hint} does not help, please ask {support}.", failure.reason, 500), job_log.text
