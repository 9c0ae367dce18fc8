"""The texts of the pages: pure functions from facts and job states to sentences, and to the form's HTML."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hpchub.request import FIELDS, JobRequest, clock, gib, no_project, no_queue
from hpchub.scheduler import JobState, Phase, Place
from hpchub.scheduler.offers import Facts
from hpchub.settings import Cluster

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
STATIC = HERE / "static"

UNAVAILABLE = "The cluster's scheduler does not answer at the moment. Please try again in a few minutes."

LABELS = {
    "project": "Project",
    "queue": "Queue",
    "walltime": "Wall time",
    "cores": "Cores",
    "memory": "Memory",
    "gpus": "GPUs",
    "reservation": "Reservation",
}


class Explains(Protocol):
    """The part of a Scheduler that has words."""

    def explain(self, job: JobState) -> str:
        """Why the job waits, or how it ended."""


@cache
def _form() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["pairs"] = lambda names: [(name, name) for name in names]
    return environment.get_template("form.html")


def render(cluster: Cluster, facts: Facts | None, chosen: Mapping[str, object], wrong: Mapping[str, str]) -> str:
    """The form's HTML. `chosen` is what stands in the fields, `wrong` the message at each; facts None: no answer."""
    return _form().render(view(cluster, facts, chosen, wrong))


def view(
    cluster: Cluster, facts: Facts | None, chosen: Mapping[str, object], wrong: Mapping[str, str]
) -> dict[str, Any]:
    """The variables of the template form.html, by name."""
    if facts is None:
        return {"notice": UNAVAILABLE}
    if not facts.projects:
        return {"notice": no_project(facts.user, cluster)}
    if not facts.offers:
        return {"notice": no_queue(cluster)}
    default = next((offer for offer in facts.offers if offer.default), facts.offers[0])
    standard = {
        "project": facts.projects[0] if len(facts.projects) == 1 else "",
        "queue": default.name,
        "walltime": clock(min(cluster.form.default_walltime_minutes, default.max_walltime_minutes or 10**9)),
        "cores": str(min(cluster.form.default_cores, default.max_cores or 10**9)),
        "memory": gib(min(round(cluster.form.default_memory_gib * 1024), default.max_memory_mib or 10**9), down=True),
        "gpus": "0",
        "reservation": "",
    }
    typed = {key: str(chosen[key])[:200] for key in FIELDS if isinstance(chosen.get(key), str | int | float)}
    values = standard | typed
    if not wrong:  # a stored choice may have gone; one that was just typed is shown with its message
        values |= {
            key: standard[key]
            for key, known in (
                ("project", facts.projects),
                ("queue", [offer.name for offer in facts.offers]),
                ("reservation", ["", *(one.name for one in facts.reservations)]),
            )
            if values[key] not in known
        }
    queues = [
        {
            "name": offer.name,
            "projects": offer.projects,
            "walltime": clock(offer.max_walltime_minutes) if offer.max_walltime_minutes else "",
            "cores": offer.max_cores or "",
            "memory": gib(offer.max_memory_mib, down=True) if offer.max_memory_mib else "",
            "gpus": offer.max_gpus,
        }
        for offer in facts.offers
    ]
    names = [offer.name for offer in facts.offers]
    return {
        "notice": "",
        "maintenance": _maintenance(facts.maintenance),
        "labels": LABELS,
        "projects": facts.projects,
        "queues": queues,
        "queue_options": [
            (offer.name, f"{offer.name}: {offer.description}" if offer.description else offer.name)
            for offer in facts.offers
        ],
        "reservations": [(one.name, f"{one.name} {one.title}".strip()) for one in facts.reservations],
        "has_gpus": any(offer.max_gpus for offer in facts.offers),
        "chosen": queues[names.index(values["queue"] if values["queue"] in names else default.name)],
        "values": values,
        "wrong": wrong,
        "first_wrong": next((key for key in FIELDS if key in wrong), ""),
    }


def _maintenance(window: tuple[float, float] | None) -> str:
    if window is None:
        return ""
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) for moment in window)
    if window[0] <= time.time():
        return f"Nodes are in maintenance until {end}. Your job may have to wait until then."
    return f"A maintenance begins {begin} and ends {end}. A job that would not end before then starts after it."


def status(
    request: JobRequest | None,
    job_id: str,
    job: JobState | None,
    submitted_at: float,
    scheduler: Explains,
    place: Place | None = None,
) -> dict[str, str]:
    """A waiting server in words: state, sentence, percent, job, project, queue, waited, place, expected, running."""
    state, sentence, percent, expected = "Submitting", "Submitting your job to the scheduler ...", "5", ""
    if job_id and job is None:
        state, sentence, percent = "Submitted", "The scheduler has your job.", "10"
    elif job is not None and job.phase is Phase.WAITING:
        state, percent = "Waiting in the queue", "20"
        sentence = scheduler.explain(job) or "Waiting in the queue."
        if job.start and job.start > time.time():
            expected = f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(job.start))} ({_within(job.start)})"
    elif job is not None and job.phase is Phase.RUNNING:
        state, percent = "Starting", "60"
        sentence = scheduler.explain(job) or f"Your job runs on {job.node or 'its node'}; JupyterLab is starting."
    elif job is not None:
        state, sentence, percent = "Ending", scheduler.explain(job) or "The job is ending.", "100"
    waited = max(0.0, time.time() - submitted_at)
    return {
        "state": state,
        "sentence": sentence,
        "percent": percent,
        "job": job_id,
        "project": request.project if request else "",
        "queue": request.queue if request else "",
        "expected": expected,
        "place": f"{place.number} of {place.total}" if place and percent == "20" else "",
        "running": "yes" if percent == "60" else "",
        "waited": duration(waited) if submitted_at else "",
        "seconds": str(int(waited)),
    }


def _within(moment: float) -> str:
    return f"in {duration(moment - time.time())}"


def duration(seconds: float) -> str:
    """Seconds as `40 s`, `5 min` or `2 h 5 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
