"""What the hub's database keeps of a server's job, so that a restarted hub finds job and server again. No secret."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from hpchub.request import JobRequest

log = logging.getLogger("JupyterHub.hpchub")

VERSION = 1
"""Of the keys below. Jobs wait for days, so a release reads what the release before it wrote, and that one, if a site
goes back to it, ignores the keys that it does not know. So a key never changes its meaning: a new meaning is a new key.
Records that have no version, from before there was one, have the same keys."""


class JobRecord(BaseModel):
    """One job of one server. The empty record means: no job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = VERSION
    job_id: str = ""
    """As the batch system wrote it; empty until it has answered the submission. batchspawner knows the same key."""
    tag: str = ""
    """What the job bears in the batch system, written before it is submitted: `new_tag`."""
    certificate: str = ""
    """Of the job's own key, as PEM. Whoever holds the key may call the hub; the key is kept by nobody but the job."""
    token_id: int = 0
    """Of the server's API token, in the table of JupyterHub; 0 if there is none."""
    node: str = ""
    """On which the job runs or ran last; empty as long as the batch system has not said it."""
    port: int = 0
    """That the job has reported; 0 until then."""
    submitted_at: float = 0.0
    """Seconds since the epoch."""
    began: float = 0.0
    """When the job began on `node`, in seconds since the epoch; 0 if the batch system has not said it."""
    request: JobRequest | None = None

    @field_validator("request", mode="before")
    @classmethod
    def _known_keys(cls, request: object) -> object:
        """A later release may have written more about a request."""
        if isinstance(request, Mapping):
            return {key: request[key] for key in JobRequest.model_fields if key in request}
        return request

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> JobRecord:
        """The record in a spawner's state. A value that cannot be read is left out: the rest finds the job."""
        try:
            return cls.model_validate(dict(state))
        except ValidationError as error:
            unusable = {str(item["loc"][0]) for item in error.errors()}
            job = state.get("job_id") or state.get("tag")
            log.error("The record of job %s has values that cannot be read: %s", job, ", ".join(sorted(unusable)))
            return cls.model_validate({key: value for key, value in state.items() if key not in unusable})

    def save(self) -> dict[str, Any]:
        """For a spawner's state; nothing if there is no job."""
        if not self.tag:
            return {}
        return self.model_dump(exclude=set() if self.job_id else {"job_id"})


def hub_identity(cluster: str, public_url: str) -> str:
    """The beginning of the tags of a hub's jobs on a cluster of this name. Two hubs have different addresses."""
    return f"{cluster}:{hashlib.sha256(public_url.encode()).hexdigest()[:8]}"


def new_tag(identity: str, user: str, server: str, nonce: str) -> str:
    """The tag of a job: hub, user, server, nonce."""
    return f"{identity}:{user}:{server}:{nonce}"
