"""What a user asks for becomes a checked JobRequest, or messages that a person can act on, field by field.

Form, URL and REST all come through `check`. Nothing else makes a JobRequest for the scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from hpchub.scheduler.offers import Facts, Offer
from hpchub.settings import Cluster

FIELDS = ("project", "queue", "walltime", "cores", "memory", "gpus", "reservation")
"""What a user may choose; memory is in GiB, walltime is HH:MM[:SS], D-HH:MM:SS or minutes."""

SMALLEST_MEMORY_MIB = 512
LONGEST_INPUT = 64


class JobRequest(BaseModel):
    """What is submitted; every value has been checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    project: str
    queue: str
    walltime_minutes: int = Field(ge=1)
    cores: int = Field(ge=1)
    memory_mib: int = Field(ge=SMALLEST_MEMORY_MIB)
    gpus: int = Field(ge=0)
    reservation: str | None

    def user_options(self) -> dict[str, str]:
        """The same request as the form's fields, to be stored and offered again."""
        return {
            "project": self.project,
            "queue": self.queue,
            "walltime": clock(self.walltime_minutes),
            "cores": str(self.cores),
            "memory": gib(self.memory_mib),
            "gpus": str(self.gpus),
            "reservation": self.reservation or "",
        }


def check(user_options: Mapping[str, object], facts: Facts, cluster: Cluster) -> JobRequest | dict[str, str]:
    """The request, or {field: what is wrong and what to write}. The key "" is for what concerns no single field."""
    return _Check(user_options, facts, cluster).result()


class _Check:
    """One check; collects a message for each field rather than stopping at the first."""

    def __init__(self, user_options: Mapping[str, object], facts: Facts, cluster: Cluster) -> None:
        self.user_options, self.facts, self.cluster = user_options, facts, cluster
        self.wrong: dict[str, str] = {}

    def result(self) -> JobRequest | dict[str, str]:
        unknown = sorted(str(key)[:LONGEST_INPUT] for key in self.user_options if key not in FIELDS)
        if unknown:
            return {"": f"{unknown[0]!r} cannot be chosen here. Choose from {', '.join(FIELDS)}."}
        if not self.facts.projects:
            return {"": no_project(self.facts.user, self.cluster)}
        if not self.facts.offers:
            return {"": no_queue(self.cluster)}
        project = self._project()
        offer = self._queue(project)
        reservation = self._reservation(project, offer)
        form = self.cluster.form
        walltime = self._walltime(offer, form.default_walltime_minutes)
        cores = self._amount("cores", form.default_cores, 1, offer.max_cores if offer else None, "core", "cores")
        memory = self._memory(offer, round(form.default_memory_gib * 1024))
        gpus = self._gpus(offer)
        if self.wrong or not project or not offer:
            return self.wrong
        return JobRequest(
            project=project, queue=offer.name, walltime_minutes=walltime, cores=cores, memory_mib=memory, gpus=gpus,
            reservation=reservation,
        )  # fmt: skip

    def _text(self, field: str) -> str:
        """What was written, as text; the API may also bring a number, but nothing else."""
        value = self.user_options.get(field)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > LONGEST_INPUT:
            self.wrong[field] = "This is not a value for this field. Write one short value."
            return ""
        return str(value).strip()

    def _project(self) -> str | None:
        written, mine = self._text("project"), self.facts.projects
        if written in mine:
            return written
        if not written and len(mine) == 1:
            return mine[0]
        self.wrong.setdefault(
            "project",
            f"{written!r} is not one of your projects. Choose {_either(mine)}."
            if written
            else f"Choose a project: {_either(mine)}.",
        )
        return None

    def _queue(self, project: str | None) -> Offer | None:
        written = self._text("queue")
        offers = self.facts.offers
        if not written and "queue" not in self.wrong:
            usable = [offer for offer in offers if project is None or project in offer.projects]
            default = next((offer for offer in usable if offer.default), usable[0] if usable else None)
            if default:
                return default
            self.wrong["queue"] = f"Project {project} may not use any queue here. Choose another project."
            return None
        offer = next((offer for offer in offers if offer.name == written), None)
        if offer is None:
            names = _either([offer.name for offer in offers])
            self.wrong.setdefault("queue", f"{written!r} is not a queue that you can use here. Choose {names}.")
            return None
        if project is not None and project not in offer.projects:
            self.wrong["queue"] = (
                f"Project {project} may not use the queue {offer.name}. "
                f"Choose another queue, or the project {_either(offer.projects)}."
            )
        return offer

    def _reservation(self, project: str | None, offer: Offer | None) -> str | None:
        written = self._text("reservation")
        if not written:
            return None
        found = next((one for one in self.facts.reservations if one.name == written), None)
        if found is None:
            mine = [one.name for one in self.facts.reservations]
            remedy = f"Choose {_either(mine)}, or none." if mine else "Leave it empty."
            self.wrong["reservation"] = f"{written!r} is not a reservation that you may use now. {remedy}"
        elif project is not None and project not in found.projects:
            self.wrong["reservation"] = (
                f"Project {project} may not use the reservation {written}. "
                f"Choose the project {_either(found.projects)}."
            )
        elif offer is not None and found.queue not in (None, offer.name):
            self.wrong["reservation"] = f"The reservation {written} is for the queue {found.queue}. Choose that queue."
        return written

    def _walltime(self, offer: Offer | None, default: int) -> int:
        written = self._text("walltime")
        limit = offer.max_walltime_minutes if offer else None
        if not written:
            return default if limit is None else min(default, limit)
        minutes = parse_walltime(written)
        if minutes is None:
            self.wrong.setdefault(
                "walltime", f"{written!r} is not a duration. Write hours and minutes, as 02:30, or minutes, as 150."
            )
        elif minutes < 1:
            self.wrong["walltime"] = "The wall time must be at least one minute."
        elif limit is not None and offer is not None and minutes > limit:
            self.wrong["walltime"] = (
                f"{written} is longer than the queue {offer.name} allows. Write {clock(limit)} or less."
            )
        return minutes or default

    def _amount(self, field: str, default: int, least: int, limit: int | None, one: str, many: str) -> int:
        written = self._text(field)
        if not written:
            return default if limit is None else min(default, limit)
        if not re.fullmatch(r"[0-9]{1,9}", written):
            self.wrong.setdefault(field, f"{written!r} is not a number of {many}. Write a whole number, as {default}.")
            return default
        number = int(written)
        if number < least:
            self.wrong[field] = f"Write at least {least}."
        elif limit is not None and number > limit:
            unit = one if limit == 1 else many
            self.wrong[field] = f"{number} is more than the {limit} {unit} that a node of this queue has. Write less."
        return number

    def _memory(self, offer: Offer | None, default: int) -> int:
        written = self._text("memory")
        limit = offer.max_memory_mib if offer else None
        if not written:
            return default if limit is None else min(default, limit)
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", written):
            self.wrong.setdefault("memory", f"{written!r} is not an amount of memory. Write it in GiB, as 4 or 0.5.")
            return default
        mebibytes = round(float(written) * 1024)
        if mebibytes < SMALLEST_MEMORY_MIB:
            self.wrong["memory"] = f"JupyterLab needs at least {gib(SMALLEST_MEMORY_MIB)} GiB."
        elif limit is not None and mebibytes > limit:
            self.wrong["memory"] = (
                f"{written} GiB is more than a node of this queue has. Write {gib(limit, down=True)} or less."
            )
        return mebibytes

    def _gpus(self, offer: Offer | None) -> int:
        if offer is not None and not offer.max_gpus:
            if self._text("gpus") not in ("", "0"):
                self.wrong["gpus"] = f"The queue {offer.name} has no GPUs. Write 0, or choose another queue."
            return 0
        return self._amount("gpus", 0, 0, offer.max_gpus if offer else None, "GPU", "GPUs")


def no_project(user: str, cluster: Cluster) -> str:
    """What somebody without a project reads."""
    return (
        f"You have no project on {cluster.name}, {user}, so no job can be started. "
        f"Please ask {cluster.support_contact}."
    )


def no_queue(cluster: Cluster) -> str:
    """What somebody reads who has projects, but no queue that is open to them."""
    return f"No queue of {cluster.name} is open to your projects now. Please ask {cluster.support_contact}."


def parse_walltime(text: str) -> int | None:
    """HH:MM[:SS], D-HH:MM:SS, or minutes, as whole minutes, seconds rounded up; None if it is none of these."""
    if re.fullmatch(r"[0-9]{1,7}", text):
        return int(text)
    match = re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5]?[0-9])(?::([0-5]?[0-9]))?", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + (seconds > 0)


def clock(minutes: int) -> str:
    """Minutes as HH:MM, with D- before it from a day on."""
    days, rest = divmod(minutes, 1440)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00" if days else f"{rest // 60:02}:{rest % 60:02}"


def gib(mebibytes: int, *, down: bool = False) -> str:
    """MiB as GiB, without needless zeros; `down` rounds to a value that is surely not above."""
    value = mebibytes / 1024
    if down:
        value = int(value * 100) / 100
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
