"""A user's server as a batch job: batchspawner's base class, with nothing left of its shells and templates.

Submitting and cancelling go through the job program, as the user; everything known about a job comes from the shared
watcher; the port comes from the callback. The job's id is in the database before anything waits for it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar
from urllib.parse import urlparse

from aiohttp import ClientError, ClientTimeout
from batchspawner import BatchSpawnerBase  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.httpclient import fetch  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.spawner import SpawnException  # type: ignore[import-untyped]  # upstream has no types
from prometheus_client import Histogram
from sqlalchemy.orm import object_session
from traitlets import Unicode, default

from hpchub import settings as site_settings
from hpchub.hub import credentials
from hpchub.hub.database import CannotWrite, until_writable, until_written
from hpchub.hub.internal_tls import Labs, Pair
from hpchub.hub.job_client import AsUser, as_user
from hpchub.hub.orphans import end_dask, new_tag
from hpchub.hub.spawn_page import context
from hpchub.request import JobRequest, check
from hpchub.scheduler import JobState, Phase, Scheduler, SchedulerUnavailable
from hpchub.scheduler.commands import asker
from hpchub.scheduler.messages import logged, refusal
from hpchub.scheduler.offers import Live
from hpchub.scheduler.pbs import Pbs
from hpchub.scheduler.slurm import Slurm
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Site

SUBMIT_TIMEOUT = 90.0
PARALLEL_SUBMISSIONS = 4
"""So many submissions run at once; a class that starts together must not storm the scheduler."""
NEVER = 10 * 365 * 24 * 3600
"""JupyterHub's own time-out, which would count the time in the queue."""
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
EAGER_SECONDS = 20.0
"""So long after its submission a job is looked at eagerly: on an idle cluster it starts at once."""
LINGER_SECONDS = 60.0
"""So long a job may be ending before it counts as dead: one that is requeued comes back from there."""
STEP_SECONDS = 15.0
"""The longest sleep of whoever waits; news wake them sooner."""
LOOK_SECONDS = 0.3
"""Between two looks at a server that has reported its port."""

WAITED = Histogram(
    "hpchub_queue_wait_seconds",
    "From the submission of a server's job until it ran",
    buckets=(2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)


class Refused(SpawnException):  # type: ignore[misc]  # SpawnException has no types
    """A start that did not happen, or failed, with a sentence for its user."""

    def __init__(
        self, message: str, reason: str, status_code: int = 400, wrong: Mapping[str, str] | None = None
    ) -> None:
        """`reason` is one word for the metrics; `wrong` says it field by field."""
        super().__init__(message, reason=reason, status_code=status_code)
        self.jupyterhub_message = message
        self.wrong = wrong or {}

    def __str__(self) -> str:
        """The sentence alone, for wherever JupyterHub shows `str(exception)`."""
        return str(self.jupyterhub_message)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all spawners of this process share."""

    site: Site
    scheduler: Scheduler
    watcher: Watcher
    live: Live
    labs: Labs
    as_user: AsUser = as_user
    submissions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL_SUBMISSIONS))


@cache
def runtime(site_file: str) -> Runtime:
    """The shared things of the site in this file, made once."""
    site = site_settings.load(site_file)
    kind: type[Slurm] | type[Pbs] = Slurm if site.scheduler == "slurm" else Pbs
    scheduler = kind(site.scheduler_prefix, asker())
    labs = Labs(*(credentials.text(name) for name in ("labs-ca.key", "labs-ca.pem", "services-ca.pem")))
    return Runtime(site, scheduler, Watcher(scheduler, site.jobs.poll_seconds), Live(scheduler, site), labs)


class HpcSpawner(BatchSpawnerBase):  # type: ignore[misc]  # upstream has no types
    """One server of one user, in one job."""

    site_file = Unicode(str(site_settings.SITE_FILE), help="The site's settings.").tag(config=True)

    @property
    def shared(self) -> Runtime:
        """What all spawners share."""
        return runtime(self.site_file)

    @default("options_form")
    def _options_form(self) -> Callable[[HpcSpawner], Any]:
        return type(self)._render_form

    @default("apply_user_options")
    def _apply_user_options(self) -> Callable[..., None]:
        return lambda _spawner, _options: None  # start() checks them, whatever way they came

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as upstream
        """As JupyterHub makes it."""
        self._reset()
        self.failed_log = ""
        super().__init__(**kwargs)
        self.start_timeout = NEVER

    _spawn_future: asyncio.Future[str] | None

    def _reset(self) -> None:
        self.tag = ""
        self.certificate = ""
        self.token_id = 0
        self.node = ""
        self.reported_port = 0
        self.submitted_at = 0.0
        self.began = 0.0
        self.request: JobRequest | None = None
        self._submission: asyncio.Task[None] | None = None

    # -- state that survives a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """All that is needed to find the job again; no secret."""
        state: dict[str, Any] = super().get_state()
        state.pop("job_status", None)
        if self.tag:
            state |= {
                "tag": self.tag, "certificate": self.certificate, "token_id": self.token_id,
                "node": self.node, "port": self.reported_port,
                "submitted_at": self.submitted_at, "began": self.began,
                "request": self.request.model_dump() if self.request else None,
            }  # fmt: skip
        return state | ({"ended": ended} if (ended := self._ended()) else {})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore, and watch the job again."""
        super().load_state(state)
        self._reset()
        self.tag = state.get("tag", "")
        self.certificate = state.get("certificate", "")
        self.token_id = state.get("token_id", 0)
        self.node = state.get("node", "")
        self.reported_port = state.get("port", 0)
        self.submitted_at = state.get("submitted_at", 0.0)
        self.began = state.get("began", 0.0)
        request = state.get("request")
        self.request = JobRequest(**request) if request else None
        if self.job_id:
            self.shared.watcher.watch(self.job_id, self.user.name)

    def clear_state(self) -> None:
        """Forget the job, which is over; what Dask jobs it has left are ended too."""
        left = self.tag if self.job_id else ""
        if self.job_id:
            self.shared.watcher.forget(self.job_id)
        self._revoke_token()
        super().clear_state()
        self._reset()
        if left:
            self.orm_spawner.state = {"ended": [*self._ended(), left]}  # a hub that is restarted now goes on
            self._ending.add(task := asyncio.ensure_future(self._end_dask(left)))
            task.add_done_callback(self._ending.discard)

    _ending: ClassVar[set[asyncio.Task[None]]] = set()

    def _ended(self) -> list[str]:
        """Tags of former jobs whose Dask jobs have not all been seen to be gone."""
        state = self.orm_spawner.state if self.orm_spawner else None
        return list(state.get("ended", [])) if isinstance(state, dict) else []

    async def _end_dask(self, tag: str) -> None:
        async def cancel(user: str, job_ids: list[str]) -> bool:
            message = {"verb": "cancel", "job_ids": job_ids}
            try:
                return bool((await self._as_user(message)).get("ok"))
            except (TimeoutError, Refused):
                return False

        await end_dask(self.shared.scheduler, cancel, self.user.name, tag)

        row = self.orm_spawner
        await until_written(object_session(row), lambda: forget_ended(row, tag), self._log_name)

    def _commit(self) -> None:
        """Write the state to the database now; raises CannotWrite."""
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session is not None:
            session.commit()

    async def keep(self, change: Callable[[], None] = lambda: None) -> None:
        """Make a change and write the state, as soon as the database can be written: a job is not given up for that."""

        def both() -> None:
            change()
            self.orm_spawner.state = self.get_state()

        await until_written(object_session(self.orm_spawner), both, self._log_name)

    # -- wishes

    async def _render_form(self) -> str:
        """The form, or what it says instead."""
        default_spawner = self.user.spawner
        rejected = getattr(default_spawner, "rejected", None)
        default_spawner.rejected = None  # what was typed comes back once
        try:
            facts = await self.shared.live.facts(self.user.name)
        except SchedulerUnavailable as error:
            self.log.error("No facts for the form of %s: %s", self.user.name, error)
            facts = None
        stored = self.orm_spawner.user_options if self.orm_spawner else None
        wish, wrong = rejected or (stored if isinstance(stored, dict) else {}, {})
        if facts is not None and not rejected:  # what the API was given, or a limit that has changed since
            doubts = check(wish, facts, self.shared.site)
            if not isinstance(doubts, JobRequest):
                wish = {} if "" in doubts else {key: value for key, value in wish.items() if key not in doubts}
        return context.render(self.shared.site, facts, wish, wrong)

    async def options_from_form(self, formdata: Mapping[str, list[str]]) -> dict[str, str]:
        """The checked wish of a posted form; a wrong one returns to the form, with what was typed."""
        wish: dict[str, object] = {
            key: values[0] if len(values) == 1 else values for key, values in formdata.items() if key != "_xsrf"
        }
        try:
            return (await self._checked(wish)).wish()
        except Refused as error:
            # JupyterHub renders the default server's form, whichever server was asked for
            self.user.spawner.rejected = (wish, error.wrong)
            if any(error.wrong):  # the fields say it
                raise Refused("Please correct what is marked below.", error.reason, wrong=error.wrong) from error
            raise

    def options_from_query(self, query_data: Mapping[str, list[str]]) -> dict[str, Any]:
        """Nothing may be started by a link: whoever made it would choose what runs as you."""
        raise Refused("A link cannot start a server for you. Please choose here and press Start.", "link")

    async def _checked(self, wish: object) -> JobRequest:
        """The request of a wish; raises Refused."""
        if not isinstance(wish, Mapping):
            raise Refused("The options must be a mapping.", "options")
        try:
            facts = await self.shared.live.facts(self.user.name)
        except SchedulerUnavailable as error:
            self.log.error("No facts to check the wish of %s: %s", self.user.name, error)
            raise Refused(context.UNAVAILABLE, "scheduler", 503) from error
        result = check(wish, facts, self.shared.site)
        if isinstance(result, JobRequest):
            return result
        raise Refused(" ".join(_named(field, words) for field, words in result.items()), "options", wrong=result)

    # -- the job

    async def start(self) -> str:
        """Submit, wait as long as the queue takes, then for the server; returns its URL, or raises Refused."""
        if not USER_NAME.fullmatch(self.user.name):
            raise Refused("Your user name cannot be used on this cluster.", "user")
        request = await self._checked(self.user_options)
        token = orm.APIToken.find(object_session(self.orm_spawner), self.api_token)
        self._reset()
        self.failed_log = ""
        self._tell("")
        self.request = request
        self.token_id = token.id if token else 0
        self.tag = new_tag(self.shared.site, self.user.name, self.name, secrets.token_hex(8))
        self.submitted_at = time.time()
        pair = self.shared.labs.caller(self.tag)
        self.certificate = pair.certificate
        try:
            self._commit()  # a hub that dies now finds the job by its tag
        except CannotWrite:
            self._reset()
            raise
        self._submission = asyncio.ensure_future(self._submit(request, pair))
        await asyncio.shield(self._submission)  # if the user gives up now, stop() still learns the job's id
        return await self._follow()

    async def create_certs(self) -> dict[str, str]:
        """Nothing: a job's certificate is made when it is submitted, and lies in no file of the hub."""
        return {}

    def sign(self) -> str:
        """The certificate with which this job's server may serve on its node, as PEM."""
        if self.request is None:
            raise ValueError("no job was asked for")
        return self.shared.labs.server(self.certificate, self.node, timedelta(minutes=self.request.walltime_minutes))

    async def _submit(self, request: JobRequest, pair: Pair) -> None:
        """Submit the job and commit its id. The private key goes into its script and is forgotten here."""
        job = {"tag": self.tag, **request.model_dump()}
        environment = {key: str(value) for key, value in self.get_env().items() if key.startswith("JUPYTERHUB_")}
        tls = {**asdict(pair), "authority": self.shared.labs.services}
        async with self.shared.submissions:
            try:
                answer = await self._as_user({"verb": "submit", "job": job, "environment": environment, "tls": tls})
            except TimeoutError:  # it may have been submitted all the same
                answer = {"ok": True, "job_id": await self._find()}
        if not answer.get("ok"):
            self.tag = ""
            self.log.warning("Refused a job of %s: %s", self._log_name, answer.get("message"))
            raise Refused(refusal(str(answer.get("message") or ""), self.shared.site.support_contact), "refused")
        job_id = answer.get("job_id")
        if not isinstance(job_id, str) or not re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", job_id):
            raise Refused(f"{context.UNAVAILABLE} No job was started.", "submit", 503)
        self.job_id = job_id
        await self.keep()
        self.log.info("Submitted job %s for %s: %s", job_id, self._log_name, request.model_dump())
        self.shared.watcher.watch(job_id, self.user.name)

    async def _as_user(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """One request to the job program; raises TimeoutError, or Refused if there is no answer of the agreed form."""
        socket = self.shared.site.jobs.socket
        try:
            return await self.shared.as_user(socket, self.user.name, message, timeout=SUBMIT_TIMEOUT)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            self.log.error("%s for %s failed at %s: %s", message["verb"], self._log_name, socket, error)
            words = f"The job could not be handed to the scheduler. Please ask {self.shared.site.support_contact}."
            raise Refused(words, "submit", 503) from error

    async def _find(self) -> str | None:
        """The id of the job with this spawner's tag, however long the scheduler takes; None if there is no such job."""
        while True:
            try:
                tags = await self.shared.scheduler.tags(self.user.name)
                return next((job_id for job_id, tag in tags.items() if tag == self.tag), None)
            except SchedulerUnavailable as error:
                self.log.warning("Cannot look for the job %s yet: %s", self.tag, error)
                await asyncio.sleep(STEP_SECONDS)

    async def _adopt(self) -> None:
        """Find the job of a hub that died while it submitted; raises Refused if it never came to be."""
        job_id = await self._find()
        if job_id is None:
            raise Refused("The hub was restarted before your job was submitted. Please start again.", "lost", 500)
        self.job_id = job_id
        await self.keep()
        self.shared.watcher.watch(job_id, self.user.name)

    async def _follow(self) -> str:
        """From a submitted job to an answering server; returns its URL, or raises Refused."""
        if not self.job_id:
            await self._adopt()
        while not await self._comes_up():
            pass  # requeued
        await until_writable(object_session(self.orm_spawner))  # or JupyterHub, which writes next, gives the job up
        self.log.info("%s answers in job %s at %s", self._log_name, self.job_id, self._url())
        return self._url()

    async def _queued(self) -> None:
        """Wait as long as the queue takes."""
        while (job := self.view()) is None or job.phase is Phase.WAITING:
            if time.time() - self.submitted_at < EAGER_SECONDS:
                self.shared.watcher.hurry()
            elif job is not None:
                self.shared.watcher.locate_soon()
            await self.shared.watcher.changed(STEP_SECONDS)
        if not self.reported_port:
            WAITED.observe(max(0.0, (self.began or time.time()) - self.submitted_at))

    async def _comes_up(self) -> bool:
        """Wait for the queue, then for the server; False if the job went back into the queue. Raises Refused."""
        await self._queued()
        deadline = time.monotonic() + self.shared.site.jobs.start_timeout_seconds
        gone_at = float("inf")
        while not (self.reported_port and self.node and await self._answers()):
            job, now = self.view(), time.monotonic()
            if job is not None and job.phase is Phase.WAITING:
                return False
            if job is not None and job.phase is Phase.ENDING:
                gone_at = min(gone_at, now + LINGER_SECONDS)
            if job is not None and (job.phase is Phase.ENDED or now > gone_at):
                what = f"Job {self.job_id} ended before JupyterLab answered."
                raise await self._failure(what, self.shared.scheduler.explain(job) or "The job ended.", "died")
            if now > deadline:
                what = (
                    f"Job {self.job_id} runs on {self.node or 'its node'}, but JupyterLab did not answer within "
                    f"{self.shared.site.jobs.start_timeout_seconds} s."
                )
                raise await self._failure(what, "", "timeout")
            self.shared.watcher.hurry()  # a job that dies now shall be noticed now
            if self.reported_port:
                await asyncio.sleep(LOOK_SECONDS)  # news of others shall not make everybody look at once
            else:
                await self.shared.watcher.changed(STEP_SECONDS)
        return True

    async def _failure(self, what: str, why: str, reason: str) -> Refused:
        """What is told about a job that runs or ran, but is no server: why, what to do, and the end of its log."""
        support = self.shared.site.support_contact
        try:
            answer = await self._as_user({"verb": "log", "job_id": self.job_id})
        except (TimeoutError, Refused):
            answer = {}
        self.failed_log, where = str(answer.get("text") or ""), str(answer.get("path") or "")
        words = f"{what} {logged(self.failed_log, support) or why}".strip()
        hint = f"Its log is {where} on the cluster; if it" if where else "If this"
        return Refused(f"{words} {hint} does not help, please ask {support}.", reason, 500)

    def view(self) -> JobState | None:
        """The job as the watcher last saw it; takes over its node."""
        job = self.shared.watcher.look(self.job_id) if self.job_id else None
        if job is None or job.phase not in (Phase.WAITING, Phase.RUNNING):
            return job
        again = self.began and job.start and job.phase is Phase.RUNNING and job.start != self.began
        if self.node and (job.phase is Phase.WAITING or again or (job.node and job.node != self.node)):
            self.reported_port, self.node, self.began = 0, "", 0.0  # requeued: the old port means nothing any more
        if job.phase is Phase.RUNNING:
            self.node, self.began = job.node or self.node, job.start or self.began
        return job

    def report_port(self, port: int) -> None:
        """What the callback has checked: the server of this job will listen there. `keep` has to follow."""
        self.reported_port = port
        self.shared.watcher.notify()

    def _url(self) -> str:
        return f"https://{self.node}:{self.reported_port}"

    async def _answers(self) -> bool:
        """Whether the server answers HTTP; what it says does not matter."""
        path = self.server.base_url if self.server else "/"
        try:
            response = await fetch(
                f"{self._url()}{path}api", raise_for_status=False, allow_redirects=False, timeout=ClientTimeout(5)
            )
        except (ClientError, OSError):  # refused, unresolved, time-out: not yet
            return False
        response.close()
        return True

    async def poll(self) -> int | None:
        """None while the job may be alive, 0 when it is surely gone. Reads what the watcher knows, asks nothing."""
        if self._submission is not None:
            if not self._submission.done():
                return None
            if not self.job_id:
                return 0
        if not self.job_id:  # a hub that died while it submitted left a tag
            return None if self.tag else 0
        job = self.view()
        if job is not None and job.phase is Phase.ENDED:
            if self.ready:
                why = self.shared.scheduler.explain(job)
                self._tell(f"Your last session (job {self.job_id}) has ended. {why}".strip())
                self.log.info("%s: job %s has ended: %s %s", self._log_name, self.job_id, job.state, job.reason)
            return 0
        if job is not None and self.ready and not self.reported_port:
            self._return()
        return None

    def _tell(self, ended: str) -> None:
        """Keep how the last session ended with the user, for JupyterHub forgets a spawner that has stopped."""
        self.user.last_ends = getattr(self.user, "last_ends", {}) | {self.name: ended}

    def _return(self) -> None:
        """The job of a running server was requeued: wait for it as at the start, with a pending page meanwhile."""
        self.log.warning("Job %s of %s was requeued", self.job_id, self._log_name)

        async def come_back() -> str:
            proxy = self.user.settings["proxy"]
            await proxy.delete_user(self.user, self.name)  # the hub shows the pending page
            url = await self._follow()

            def move() -> None:
                self.server.ip, self.server.port = urlparse(url).hostname, urlparse(url).port

            await self.keep(move)
            await proxy.add_user(self.user, self.name)
            return url

        following = asyncio.ensure_future(come_back())
        self._spawn_pending, self._spawn_future = True, following
        following.add_done_callback(self._followed)

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and wait until it is over. It is tried again for as long as the job may be alive:
        giving up would lose the job."""
        if self._submission is not None and not self._submission.done():
            await asyncio.wait([self._submission])
        if not self.job_id and self.tag and self._submission is None:
            self.job_id = await self._find() or ""
        if not self.job_id:
            return
        self.shared.watcher.watch(self.job_id, self.user.name)
        pause = 1.0
        while not self._over():
            cancelled = await self._cancel()
            if now:
                return
            self.shared.watcher.hurry(urgent=True)
            deadline = time.monotonic() + (60 if cancelled else pause)
            while not self._over() and time.monotonic() < deadline:
                await self.shared.watcher.changed(max(0.1, deadline - time.monotonic()))
                self.shared.watcher.hurry()
            pause = min(pause * 2, 60)

    def _over(self) -> bool:
        job = self.view()
        return job is not None and job.phase in (Phase.ENDING, Phase.ENDED)

    async def _cancel(self) -> bool:
        """Whether the scheduler took the order."""
        try:
            answer = await self._as_user({"verb": "cancel", "job_ids": [self.job_id]})
        except (TimeoutError, Refused) as error:
            self.log.warning("Job %s of %s is not cancelled yet: %s", self.job_id, self._log_name, error)
            return False
        if not answer.get("ok"):
            self.log.warning("Job %s is not cancelled yet: %s", self.job_id, answer.get("message"))
        return bool(answer.get("ok"))

    def _revoke_token(self) -> None:
        """After a restart the hub does not know the server's token any more and would leave it valid."""
        session = object_session(self.orm_spawner)
        token = session.get(orm.APIToken, self.token_id) if session is not None and self.token_id else None
        if session is not None and token is not None and token.user_id == self.orm_spawner.user_id:
            session.delete(token)
            session.commit()

    async def get_url(self) -> str:
        """After a restart of the hub: wait for the server as `start` would have done, however long the queue takes.

        Meanwhile JupyterHub sees a pending start, with its page, its progress and its Stop button.
        """
        self.server.proto = "https"  # JupyterHub 6.1.1 takes over host and port of what comes back, and misspells this
        job = self.view()
        if job is not None and job.phase is Phase.RUNNING and self.reported_port and await self._answers():
            return f"{self._url()}{self.server.base_url}"
        following = asyncio.ensure_future(self._follow())
        self._spawn_pending, self._spawn_future = True, following
        following.add_done_callback(self._followed)
        try:
            url = await following
        except (Refused, asyncio.CancelledError) as error:
            self.log.error("%s did not come back: %s", self._log_name, error)
            self.http_timeout = 1  # JupyterHub now looks for the server in vain and cleans up
            return "http://127.0.0.1:1/"
        self._routing = asyncio.ensure_future(self._route())
        return f"{url}{self.server.base_url}"

    def _followed(self, following: asyncio.Future[str]) -> None:
        self._spawn_pending = False
        if not following.cancelled() and following.exception() is None:
            self._spawn_future = None

    async def _route(self) -> None:
        """JupyterHub adds missing routes only when it has looked at all servers; nobody shall wait for the others."""
        for _ in range(600):
            if self.ready:
                await self.user.settings["proxy"].add_user(self.user, self.name)
                return
            await asyncio.sleep(0.1)

    # -- what people see

    def status(self) -> dict[str, str]:
        """The waiting server in words, for the pending page."""
        shared, job = self.shared, self.view()
        place = shared.watcher.place(self.job_id)
        return context.status(self.request, self.job_id, job, self.submitted_at, shared.scheduler, place)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Events for the pending page, one for each change."""
        last = None
        while True:
            status = self.status()
            shown = {key: value for key, value in status.items() if key not in ("waited", "seconds")}
            if shown != last:
                last = shown
                yield {"progress": int(status["percent"]), "message": status["sentence"], "hpchub": status}
            await self.shared.watcher.changed(STEP_SECONDS)


def forget_ended(row: orm.Spawner, tag: str) -> None:
    """Take a tag out of a server's list of former jobs whose Dask jobs have not all been seen to be gone."""
    ended = row.state.get("ended", []) if isinstance(row.state, dict) else []
    if tag in ended:
        row.state = {**row.state, "ended": [one for one in ended if one != tag]}


def _named(field: str, words: str) -> str:
    return f"{context.LABELS[field]}: {words}" if field else words
