"""A user's server as a batch job: what JupyterHub asks of a spawner, in JupyterHub's order.

Submitting and cancelling go through the job relay, as the user (`job_client`); everything known about a job comes from
the shared watcher (`followed_job`); the port comes from the callback (`port_callback`). The job's id is in the database
before anything waits for it (`job_record`). Starts that are taken up again are in `resumable`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

from aiohttp import ClientError, ClientTimeout
from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.httpclient import fetch  # type: ignore[import-untyped]  # upstream has no types
from sqlalchemy.orm import object_session
from traitlets import Unicode, default

from hpchub import settings as site_settings
from hpchub.hub import options, submission
from hpchub.hub.dask_cleanup import cancel_dask_jobs, ended_tags, forget_ended
from hpchub.hub.database import CannotWrite, until_writable, until_written
from hpchub.hub.followed_job import STEP_SECONDS, FollowedJob, NeverReady
from hpchub.hub.internal_tls import Pair
from hpchub.hub.job_client import USER_NAME
from hpchub.hub.job_record import JobRecord, new_tag
from hpchub.hub.refused import Refused
from hpchub.hub.resumable import ResumableSpawner
from hpchub.hub.runtime import RunningCluster, Runtime, runtime
from hpchub.hub.spawn_page import context
from hpchub.request import JobRequest
from hpchub.scheduler import JobState, Phase


class HpcSpawner(ResumableSpawner):
    """One server of one user, in one job."""

    site_file = Unicode(str(site_settings.SITE_FILE), help="The site's settings.").tag(config=True)
    failed_log = ""
    """The end of the log of a job that was no server; the page that shows it comes after the state was cleared."""
    _submission: asyncio.Task[None] | None = None
    _ending: ClassVar[set[asyncio.Task[None]]] = set()

    @property
    def shared(self) -> Runtime:
        """What all spawners share."""
        return runtime(self.site_file)

    @property
    def cluster(self) -> RunningCluster:
        """Where the job runs."""
        return self.shared.cluster

    # -- the job: its record, and the following of it

    @cached_property
    def job(self) -> FollowedJob:
        """The job of this server, if there is one; else with an empty record."""
        cluster = self.cluster
        return FollowedJob(cluster.watcher, self._answers, cluster.settings.jobs.start_timeout_seconds)

    @property
    def record(self) -> JobRecord:
        """What is known about the job."""
        return self.job.record

    @property
    def job_id(self) -> str:
        """The record's, under the name that batchspawner has for it."""
        return self.job.record.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self.job.change(job_id=job_id)

    @property
    def token_id(self) -> int:
        """Of the server's own API token; who ends a user's sign-ins spares it."""
        return self.job.record.token_id

    def job_state(self) -> JobState | None:
        """The job as the watcher last saw it."""
        return self.job.state()

    # -- state that survives a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """The job's record, and former jobs whose Dask jobs may still live; no secret."""
        state: dict[str, Any] = super().get_state()
        state.pop("job_status", None)  # batchspawner's, stale at once
        return state | self.record.save() | ({"ended": ended} if (ended := self._ended()) else {})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the record, and watch the job again."""
        super().load_state(state)
        self._begin(JobRecord.load(state))
        self.job.watch(self.user.name)

    def clear_state(self) -> None:
        """Forget the job, which is over; what Dask jobs it has left are ended too."""
        left = self.record.tag if self.record.job_id else ""
        self._revoke_token()
        self.job.reset()
        self._submission = None
        super().clear_state()
        if left:
            self.orm_spawner.state = {"ended": [*self._ended(), left]}  # a hub that is restarted now goes on
            self._ending.add(task := asyncio.ensure_future(self._end_dask_jobs(left)))
            task.add_done_callback(self._ending.discard)

    async def keep(self, change: Callable[[], None] = lambda: None) -> None:
        """Make a change and write the state, as soon as the database can be written: a job is not given up for that."""

        def both() -> None:
            change()
            self.orm_spawner.state = self.get_state()

        await until_written(object_session(self.orm_spawner), both, self._log_name)

    def _commit(self) -> None:
        """Write the state to the database now; raises CannotWrite."""
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session is not None:
            session.commit()

    def _begin(self, record: JobRecord) -> None:
        """This is the job from now on."""
        self.job.record, self._submission = record, None

    def _revoke_token(self) -> None:
        """After a restart the hub does not know the server's token any more and would leave it valid."""
        session = object_session(self.orm_spawner)
        token = session.get(orm.APIToken, self.token_id) if session is not None and self.token_id else None
        if session is not None and token is not None and token.user_id == self.orm_spawner.user_id:
            session.delete(token)
            session.commit()

    def _ended(self) -> list[str]:
        """Tags of former jobs whose Dask jobs have not all been seen to be gone."""
        return ended_tags(self.orm_spawner.state) if self.orm_spawner else []

    async def _end_dask_jobs(self, tag: str) -> None:
        await cancel_dask_jobs(self.cluster, self.user.name, tag)
        row = self.orm_spawner
        await until_written(object_session(row), lambda: forget_ended(row, tag), self._log_name)

    # -- the user's options

    @default("options_form")
    def _options_form(self) -> Callable[[HpcSpawner], Any]:
        return type(self)._render_form

    @default("apply_user_options")
    def _apply_user_options(self) -> Callable[..., None]:
        return lambda _spawner, _options: None  # start() checks them, whatever way they came

    async def _render_form(self) -> str:
        """The form, or what it says instead."""
        # JupyterHub renders the default server's form, whichever server was asked for
        default_spawner = self.user.spawner
        rejected = getattr(default_spawner, "rejected", None)
        default_spawner.rejected = None  # what was typed comes back once
        stored = self.orm_spawner.user_options if self.orm_spawner else None
        return await options.render_form(self.cluster, self.user.name, stored, rejected)

    async def options_from_form(self, formdata: Mapping[str, list[str]]) -> dict[str, str]:
        """The checked options of a posted form; wrong ones return to the form, with what was typed."""
        typed = options.typed(formdata)
        try:
            return (await options.checked(self.cluster, self.user.name, typed)).user_options()
        except Refused as error:
            self.user.spawner.rejected = (typed, error.errors)
            if any(error.errors):  # the fields say it
                raise Refused("Please correct what is marked below.", error.reason, errors=error.errors) from error
            raise

    def options_from_query(self, query_data: Mapping[str, list[str]]) -> dict[str, Any]:
        """Nothing may be started by a link: whoever made it would choose what runs as you."""
        raise Refused("A link cannot start a server for you. Please choose here and press Start.", "link")

    # -- start

    async def start(self) -> str:
        """Submit, wait as long as the queue takes, then for the server; returns its URL, or raises Refused."""
        if not USER_NAME.fullmatch(self.user.name):
            raise Refused("Your user name cannot be used on this cluster.", "user")
        request = await options.checked(self.cluster, self.user.name, self.user_options)
        token = orm.APIToken.find(object_session(self.orm_spawner), self.api_token)
        tag = new_tag(self.cluster.identity, self.user.name, self.name, secrets.token_hex(8))
        pair = self.shared.labs.caller(tag)
        self.failed_log = ""
        self._remember_end("")
        self._begin(
            JobRecord(
                tag=tag, certificate=pair.certificate, token_id=token.id if token else 0, submitted_at=time.time(),
                request=request,
            )
        )  # fmt: skip
        try:
            self._commit()  # a hub that dies now finds the job by its tag
        except CannotWrite:
            self._begin(JobRecord())
            raise
        self._submission = asyncio.ensure_future(self._submit(request, pair))
        await asyncio.shield(self._submission)  # if the user gives up now, stop() still learns the job's id
        return await self.follow()

    async def create_certs(self) -> dict[str, str]:
        """Nothing: a job's certificate is made when it is submitted, and lies in no file of the hub."""
        return {}

    async def _submit(self, request: JobRequest, pair: Pair) -> None:
        """Submit the job and commit its id. The private key goes into its script and is forgotten here."""
        job = {"tag": self.record.tag, **request.model_dump()}
        environment = {key: str(value) for key, value in self.get_env().items() if key.startswith("JUPYTERHUB_")}
        tls = {**asdict(pair), "authority": self.shared.labs.services}
        try:
            job_id = await submission.submit(self.cluster, self.user.name, job, environment, tls)
        except Refused as refusal:
            if refusal.reason == "refused":
                self.job.change(tag="")  # there is no such job
            raise
        await self._submitted(job_id)
        self.log.info("Submitted job %s for %s: %s", job_id, self._log_name, request.model_dump())

    async def _submitted(self, job_id: str) -> None:
        """The job has this id: write it down, then watch it."""
        self.job.change(job_id=job_id)
        await self.keep()
        self.job.watch(self.user.name)

    async def follow(self) -> str:
        """From a submitted job to an answering server; returns its URL, or raises Refused."""
        if not self.job_id:  # the hub died while it submitted
            job_id = await self.cluster.find_job(self.user.name, self.record.tag)
            if job_id is None:
                raise Refused("The hub was restarted before your job was submitted. Please start again.", "lost", 500)
            await self._submitted(job_id)
        try:
            await self.job.until_ready()
        except NeverReady as failure:
            refused, self.failed_log = await submission.refusal_of(failure, self.cluster, self.user.name, self.job_id)
            raise refused from failure
        await until_writable(object_session(self.orm_spawner))  # or JupyterHub, which writes next, gives the job up
        self.log.info("%s answers in job %s at %s", self._log_name, self.job_id, self.job.url)
        return self.job.url

    async def url_if_ready(self) -> str | None:
        """The URL of the server if its job runs and it answers now, else None."""
        return self.job.url if await self.job.ready() else None

    async def _answers(self, url: str) -> bool:
        """Whether the server answers HTTP; what it says does not matter."""
        path = self.server.base_url if self.server else "/"
        try:
            response = await fetch(
                f"{url}{path}api", raise_for_status=False, allow_redirects=False, timeout=ClientTimeout(5)
            )
        except (ClientError, OSError):  # refused, unresolved, time-out: not yet
            return False
        response.close()
        return True

    # -- what the job tells the hub (port_callback)

    def report_port(self, port: int) -> None:
        """What the callback has checked: the server of this job will listen there. `keep` has to follow."""
        self.job.report_port(port)

    def sign(self) -> str:
        """The certificate with which this job's server may serve on its node, as PEM."""
        record = self.record
        if record.request is None:
            raise ValueError("no job was asked for")
        walltime = timedelta(minutes=record.request.walltime_minutes)
        return self.shared.labs.server(record.certificate, record.node, walltime)

    # -- poll

    async def poll(self) -> int | None:
        """None while the job may be alive, 0 when it is surely gone. Reads what the watcher knows, asks nothing."""
        if self._submission is not None:
            if not self._submission.done():
                return None
            if not self.job_id:
                return 0
        if not self.job_id:  # a hub that died while it submitted left a tag
            return None if self.record.tag else 0
        job = self.job_state()
        if job is not None and job.phase is Phase.ENDED:
            if self.ready:
                why = self.cluster.scheduler.explain(job)
                self._remember_end(f"Your last session (job {self.job_id}) has ended. {why}".strip())
                self.log.info("%s: job %s has ended: %s %s", self._log_name, self.job_id, job.state, job.reason)
            return 0
        if job is not None and self.ready and not self.record.port:
            self.log.warning("Job %s of %s was requeued", self.job_id, self._log_name)
            self._resume_after_requeue()
        return None

    def _remember_end(self, sentence: str) -> None:
        """Keep how the last session ended with the user, for JupyterHub forgets a spawner that has stopped."""
        self.user.last_ends = getattr(self.user, "last_ends", {}) | {self.name: sentence}

    # -- stop

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and wait until it is over. It is tried again for as long as the job may be alive:
        giving up would lose the job."""
        if self._submission is not None and not self._submission.done():
            await asyncio.wait([self._submission])
        if not self.job_id and self.record.tag and self._submission is None:
            self.job.change(job_id=await self.cluster.find_job(self.user.name, self.record.tag) or "")
        if not self.job_id:
            return
        self.job.watch(self.user.name)
        await self.job.cancel(lambda: self.cluster.client.cancel(self.user.name, [self.job_id]), once=now)

    # -- progress

    def status(self) -> dict[str, str]:
        """The waiting server in words, for the pending page."""
        record, job, cluster = self.record, self.job_state(), self.cluster
        place = cluster.watcher.place(record.job_id)
        return context.status(record.request, record.job_id, job, record.submitted_at, cluster.scheduler, place)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Events for the pending page, one for each change."""
        last = None
        while True:
            status = self.status()
            shown = {key: value for key, value in status.items() if key not in ("waited", "seconds")}
            if shown != last:
                last = shown
                yield {"progress": int(status["percent"]), "message": status["sentence"], "hpchub": status}
            await self.cluster.watcher.changed(STEP_SECONDS)
