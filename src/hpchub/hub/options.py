"""The options of a server: the form that asks for them, and the request that they make."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hpchub.hub.refused import Refused
from hpchub.hub.runtime import RunningCluster
from hpchub.hub.spawn_page import context
from hpchub.request import JobRequest, check
from hpchub.scheduler import SchedulerUnavailable

log = logging.getLogger("JupyterHub.hpchub")

Rejected = tuple[Mapping[str, object], Mapping[str, str]]
"""Options as they were typed, and a sentence for each field that is wrong."""


def typed(formdata: Mapping[str, list[str]]) -> dict[str, object]:
    """The options in a posted form; a field that came twice stays a list, which no check takes."""
    return {key: values[0] if len(values) == 1 else values for key, values in formdata.items() if key != "_xsrf"}


async def render_form(cluster: RunningCluster, user: str, stored: object, rejected: Rejected | None) -> str:
    """The form's HTML, or what it says instead. It opens with what was rejected just now, else with what is stored."""
    try:
        facts = await cluster.offers.facts(user)
    except SchedulerUnavailable as error:
        log.error("No facts for the form of %s: %s", user, error)
        facts = None
    options, errors = rejected or (stored if isinstance(stored, dict) else {}, {})
    if facts is not None and not rejected:  # what the API was given, or a limit that has changed since
        stale = check(options, facts, cluster.settings)
        if not isinstance(stale, JobRequest):
            options = {} if "" in stale else {key: value for key, value in options.items() if key not in stale}
    return context.render(cluster.settings, facts, options, errors)


async def checked(cluster: RunningCluster, user: str, options: object) -> JobRequest:
    """The request that these options make; raises Refused."""
    if not isinstance(options, Mapping):
        raise Refused("The options must be a mapping.", "options")
    try:
        facts = await cluster.offers.facts(user)
    except SchedulerUnavailable as error:
        log.error("No facts to check the options of %s: %s", user, error)
        raise Refused(context.UNAVAILABLE, "scheduler", 503) from error
    result = check(options, facts, cluster.settings)
    if isinstance(result, JobRequest):
        return result
    raise Refused(" ".join(_labelled(field, words) for field, words in result.items()), "options", errors=result)


def _labelled(field: str, words: str) -> str:
    return f"{context.LABELS[field]}: {words}" if field else words
