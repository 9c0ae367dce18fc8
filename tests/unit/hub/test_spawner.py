from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from batchspawner import BatchSpawnerBase
from cryptography import x509
from jupyterhub import orm
from jupyterhub.objects import Hub
from sqlalchemy.orm import Session

from hpchub.hub import followed_job
from hpchub.hub import spawner as spawner_module
from hpchub.hub.database import CannotWrite
from hpchub.hub.internal_tls import Labs
from hpchub.hub.job_client import JobClient
from hpchub.hub.job_record import hub_identity
from hpchub.hub.port_callback import addresses_of, plain, port_of
from hpchub.hub.refused import Refused
from hpchub.hub.resumable import give_up_start
from hpchub.hub.runtime import RunningCluster, Runtime
from hpchub.hub.spawner import HpcSpawner
from hpchub.scheduler import Phase
from hpchub.scheduler.offers import Live
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Site

WISH = {"project": "climate", "queue": "regular", "walltime": "02:00", "cores": "2", "memory": "4"}

if TYPE_CHECKING:
    from conftest import FakeScheduler


class Program:
    """The job program: remembers what it was given, answers what a test decides."""

    def __init__(self, scheduler: FakeScheduler) -> None:
        self.scheduler, self.calls, self.refuse, self.slow = scheduler, [], "", 0.0
        self.hang = False
        self.logged = {"ok": True, "path": "/home/alice/lab-77.log", "text": "<b>the end</b>"}

    async def __call__(self, path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        self.calls.append(((path, user), message))
        await asyncio.sleep(self.slow)
        if message["verb"] == "log":
            return dict(self.logged)
        if message["verb"] == "cancel":
            for job_id in message["job_ids"]:
                self.scheduler.put(job_id, Phase.ENDED)
            return {"ok": True}
        if self.hang:
            self.scheduler.tagged["78"] = message["job"]["tag"]
            self.scheduler.put("78", Phase.WAITING)
            raise TimeoutError
        if self.refuse:
            return {"ok": False, "message": self.refuse}
        self.scheduler.tagged["77"] = message["job"]["tag"]
        self.scheduler.put("77", Phase.WAITING, reason="Priority")
        return {"ok": True, "job_id": "77"}

    @property
    def verbs(self) -> list[str]:
        return [message["verb"] for _, message in self.calls]


@pytest.fixture
async def hub(
    scheduler: FakeScheduler, site: Site, site_file: Path, labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SimpleNamespace]:
    """A database with alice, and a runtime with the fake scheduler that polls quickly."""
    monkeypatch.setattr("hpchub.scheduler.watcher.SOONEST", 0.01)
    monkeypatch.setattr("hpchub.scheduler.watcher.COMMANDS_PER_MINUTE", 60_000)
    program = Program(scheduler)
    watchers = []
    routed: list[str] = []
    unrouted: list[str] = []

    class Proxy:
        async def add_user(self, user: object, server_name: str) -> None:
            routed.append(server_name)

        async def delete_user(self, user: object, server_name: str) -> None:
            unrouted.append(server_name)

    def give(**jobs: object) -> None:
        """What a fresh process of the hub has."""
        cluster = site.cluster.model_copy(update={"jobs": site.cluster.jobs.model_copy(update=jobs)})
        changed = site.model_copy(update={"clusters": (cluster,)})
        watchers.append(Watcher(scheduler, 0.02))
        offers, client = Live(scheduler, cluster), JobClient(cluster.jobs.socket, program)
        identity = hub_identity(cluster.name, site.hub.public_url)
        running = RunningCluster(cluster, identity, scheduler, watchers[-1], offers, client)
        runtime = Runtime(changed, labs, (running,))
        monkeypatch.setattr(spawner_module, "runtime", lambda path: runtime)

    give()
    answering: set[str] = set()

    async def answers(_spawner: HpcSpawner, url: str) -> bool:
        return url in answering

    monkeypatch.setattr(HpcSpawner, "_answers", answers)
    session = orm.new_session_factory("sqlite:///:memory:")()
    user = orm.User(name="alice")
    session.add(user)
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.commit()

    def make(state: dict[str, Any] | None = None) -> HpcSpawner:
        row = session.query(orm.Spawner).first() or orm.Spawner(name="", user=user)
        session.add(row)
        row.server = row.server or orm.Server(base_url="/user/alice/")
        session.commit()
        token = user.new_api_token(note="Server at /user/alice/")
        wrapped = SimpleNamespace(
            name="alice", url="/user/alice/", escaped_name="alice", settings={"proxy": Proxy()},
            progress_url=lambda name: "/progress",
        )  # fmt: skip
        spawner = HpcSpawner(
            orm_spawner=row, user=wrapped, hub=Hub(ip="127.0.0.1", port=8081, base_url="/hub/"),
            oauth_client_id="jupyterhub-user-alice",
        )  # fmt: skip
        wrapped.spawner = spawner
        if state is not None:
            spawner.load_state(state)
        spawner.api_token = "" if state else token
        spawner.user_options = dict(WISH)
        return spawner

    yield SimpleNamespace(
        make=make,
        give=give,
        site=site,
        program=program,
        scheduler=scheduler,
        answering=answering,
        session=session,
        routed=routed,
        unrouted=unrouted,
    )
    for watcher in watchers:
        await watcher.close()
    session.close()


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def saved(hub: SimpleNamespace) -> dict[str, Any]:
    session: Session = hub.session
    session.expire_all()
    return session.query(orm.Spawner).one().state


async def start(hub: SimpleNamespace) -> tuple[HpcSpawner, asyncio.Task[str]]:
    spawner = hub.make()
    starting = asyncio.ensure_future(spawner.start())
    await until(lambda: spawner.job_id or starting.done())
    return spawner, starting


def run_job(hub: SimpleNamespace, spawner: HpcSpawner, port: int = 40001, job_id: str = "77") -> None:
    hub.scheduler.put(job_id, Phase.RUNNING, node="c1")
    spawner.report_port(port)
    hub.answering.add(f"https://c1:{port}")


async def test_a_start_submits_waits_for_node_and_port_and_returns_the_url(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    assert await asyncio.wait_for(starting, 30) == "https://c1:40001"
    where, message = hub.program.calls[0]
    assert where == ("/run/hpchub-jobs.sock", "alice")
    assert message["job"] == {
        "tag": spawner.record.tag, "project": "climate", "queue": "regular", "walltime_minutes": 120, "cores": 2,
        "memory_mib": 4096, "gpus": 0, "reservation": None,
    }  # fmt: skip
    assert spawner.record.tag.startswith(f"{hub_identity('demo', hub.site.hub.public_url)}:alice::")
    assert all(name.startswith("JUPYTERHUB_") for name in message["environment"])
    assert message["tls"].keys() == {"key", "certificate", "authority"}


async def test_the_tag_is_saved_before_and_the_job_id_right_after_the_submission(hub: SimpleNamespace) -> None:
    hub.program.slow = 0.2
    spawner = hub.make()
    starting = asyncio.ensure_future(spawner.start())
    await until(lambda: hub.program.calls)
    assert saved(hub)["tag"] == hub.program.calls[0][1]["job"]["tag"]
    assert "job_id" not in saved(hub)
    await until(lambda: saved(hub).get("job_id") == "77")
    assert not starting.done()
    starting.cancel()


async def test_a_server_that_answers_while_the_database_is_locked_waits_for_it(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()

    async def until_writable(session: Session) -> None:
        await released.wait()

    monkeypatch.setattr(spawner_module, "until_writable", until_writable)
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.sleep(0.3)
    assert not starting.done(), "JupyterHub would give the job up when it cannot write its address"
    released.set()
    assert await asyncio.wait_for(starting, 30) == "https://c1:40001"


async def test_what_cannot_be_written_about_a_submitted_job_is_written_later(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, fail = hub.session.commit, [True]

    def failing() -> None:
        if hub.program.calls and fail:
            hub.session.rollback()
            raise CannotWrite
        commit()

    monkeypatch.setattr(hub.session, "commit", failing)
    _, starting = await start(hub)
    assert "job_id" not in saved(hub)
    fail.clear()
    await until(lambda: saved(hub).get("job_id") == "77")
    starting.cancel()


async def test_without_a_database_nothing_is_submitted(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = hub.make()

    def failing() -> None:
        hub.session.rollback()
        raise CannotWrite

    monkeypatch.setattr(hub.session, "commit", failing)
    with pytest.raises(CannotWrite):
        await spawner.start()
    assert hub.program.calls == []
    assert await spawner.poll() == 0


async def test_no_secret_is_in_the_saved_state(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    assert spawner.api_token
    assert spawner.api_token not in json.dumps(saved(hub))
    assert "PRIVATE KEY" in hub.program.calls[0][1]["tls"]["key"]
    assert "PRIVATE KEY" not in json.dumps(saved(hub))
    starting.cancel()


async def test_the_time_out_counts_from_the_moment_that_the_job_runs(hub: SimpleNamespace) -> None:
    hub.give(start_timeout_seconds=0.3)
    _, starting = await start(hub)
    await asyncio.sleep(0.6)
    assert not starting.done()
    hub.scheduler.put("77", Phase.RUNNING, node="c1")
    with pytest.raises(Refused, match=r"Job 77 runs on c1, but JupyterLab did not answer within 0.3 s"):
        await asyncio.wait_for(starting, 30)


async def test_a_job_that_dies_before_it_calls_back_fails_at_once_with_a_sentence(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    hub.scheduler.put("77", Phase.RUNNING, node="c1")
    await asyncio.sleep(0.1)
    hub.scheduler.put("77", Phase.ENDED, reason="OutOfMemory")
    with pytest.raises(Refused, match=r"Job 77 ended before JupyterLab answered\. words for OutOfMemory") as caught:
        await asyncio.wait_for(starting, 30)
    assert "Its log is /home/alice/lab-77.log on the cluster" in str(caught.value)
    assert hub.program.calls[-1][1] == {"verb": "log", "job_id": "77"}
    assert spawner.failed_log == "<b>the end</b>"
    spawner.clear_state()
    assert spawner.failed_log, "the page that says so comes after JupyterHub has cleaned up"


async def test_the_log_of_a_dead_job_says_more_than_the_scheduler(hub: SimpleNamespace) -> None:
    hub.program.logged = {"ok": True, "path": "/l", "text": "OSError: [Errno 28] No space left on device"}
    _, starting = await start(hub)
    hub.scheduler.put("77", Phase.ENDED, reason="NonZeroExitCode")
    with pytest.raises(Refused, match=r"Your home directory is full\. Delete files there and start again"):
        await asyncio.wait_for(starting, 30)


async def test_without_a_log_the_failure_is_told_all_the_same(hub: SimpleNamespace) -> None:
    hub.program.logged = {"ok": False, "message": "no such file"}
    _, starting = await start(hub)
    hub.scheduler.put("77", Phase.ENDED, reason="OutOfMemory")
    with pytest.raises(Refused, match=r"words for OutOfMemory If this does not help, please ask help@example\.org"):
        await asyncio.wait_for(starting, 30)


async def test_a_job_that_is_requeued_before_it_answers_is_followed_to_its_next_node(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    hub.scheduler.put("77", Phase.RUNNING, node="c1", start=100.0)
    await until(lambda: getattr(spawner.job_state(), "phase", None) is Phase.RUNNING)
    hub.scheduler.put("77", Phase.ENDING)
    await asyncio.sleep(0.1)
    hub.scheduler.put("77", Phase.WAITING, reason="BeginTime")
    await until(lambda: spawner.job_state().phase is Phase.WAITING)
    assert not starting.done(), "a job that is on its way back is not dead"
    hub.scheduler.put("77", Phase.RUNNING, node="c2", start=200.0)
    spawner.report_port(40002)
    hub.answering.add("https://c2:40002")
    assert await asyncio.wait_for(starting, 30) == "https://c2:40002"


async def test_a_running_server_whose_job_is_requeued_comes_back_by_itself(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    spawner._start_pending = spawner._spawn_pending = False
    assert spawner.ready
    hub.scheduler.put("77", Phase.WAITING, reason="BeginTime")
    await until(lambda: spawner.job_state().phase is Phase.WAITING)
    assert await spawner.poll() is None
    assert spawner.pending == "spawn"
    await asyncio.sleep(0.1)
    assert hub.unrouted == [""], "until it is back, its address shows the pending page"
    hub.scheduler.put("77", Phase.RUNNING, node="c2")
    spawner.report_port(40002)
    hub.answering.add("https://c2:40002")
    await until(lambda: hub.routed == [""])
    await until(lambda: spawner.ready)
    assert (spawner.server.ip, spawner.server.port) == ("c2", 40002)
    assert hub.program.verbs == ["submit"]


async def test_a_session_that_ends_says_how(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    hub.scheduler.put("77", Phase.ENDED, reason="TimeLimit")
    await until(lambda: spawner.job_state().phase is Phase.ENDED)
    assert await spawner.poll() == 0
    assert spawner.user.last_ends == {"": "Your last session (job 77) has ended. words for TimeLimit"}


async def test_who_waits_sees_the_place_in_the_queue(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_job, "EAGER_SECONDS", 0.0)
    spawner, starting = await start(hub)
    await until(lambda: spawner.status()["place"] == "3 of 12")
    assert hub.scheduler.asked.count("places") == 1
    hub.scheduler.put("77", Phase.RUNNING, node="c1")
    await until(lambda: spawner.status()["running"])
    assert spawner.status()["place"] == ""
    starting.cancel()


async def test_a_job_that_starts_while_nobody_may_ask_for_places_is_seen_to_start(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_watcher: Watcher) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(followed_job, "EAGER_SECONDS", 0.0)
    monkeypatch.setattr(Watcher, "acquire", never)
    spawner, starting = await start(hub)
    await until(lambda: getattr(spawner.job_state(), "phase", None) is Phase.WAITING)
    await asyncio.sleep(0.1)
    run_job(hub, spawner)
    assert await asyncio.wait_for(starting, 10) == "https://c1:40001"


async def test_what_the_scheduler_refuses_is_told_in_its_words_and_leaves_nothing(hub: SimpleNamespace) -> None:
    hub.program.refuse = "Invalid account"
    spawner = hub.make()
    with pytest.raises(Refused, match=r"Choose another project or queue\. The scheduler said: Invalid account\."):
        await spawner.start()
    assert await spawner.poll() == 0
    await spawner.stop()
    assert hub.program.verbs == ["submit"]


async def test_a_submission_without_an_answer_is_found_by_its_tag(hub: SimpleNamespace) -> None:
    hub.program.hang = True
    spawner, starting = await start(hub)
    assert spawner.job_id == "78"
    starting.cancel()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "nowhere"}, "is not a queue that you can use here"),
        ({"walltime": "13:00"}, "longer than the queue regular allows"),
        ({"cmd": "x"}, "'cmd' cannot be chosen here"),
        ({"project": "ice"}, "is not one of your projects"),
    ],
)
async def test_options_by_rest_are_checked_and_nothing_is_submitted(
    hub: SimpleNamespace, options: dict[str, str], words: str
) -> None:
    spawner = hub.make()
    spawner.user_options = WISH | options
    with pytest.raises(Refused, match=words) as caught:
        await spawner.start()
    assert caught.value.status_code == 400
    assert hub.program.calls == []


async def test_without_facts_nothing_is_submitted(hub: SimpleNamespace) -> None:
    hub.scheduler.down = True
    with pytest.raises(Refused) as caught:
        await hub.make().start()
    assert caught.value.status_code == 503
    assert hub.program.calls == []


@pytest.mark.parametrize("name", ["root;x", "-alice", "Alice", "a b", ""])
async def test_an_odd_user_name_reaches_no_program(hub: SimpleNamespace, name: str) -> None:
    spawner = hub.make()
    spawner.user.name = name
    with pytest.raises(Refused):
        await spawner.start()
    assert hub.program.calls == []


async def test_a_link_starts_nothing(hub: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="A link cannot start a server"):
        hub.make().options_from_query({"queue": ["regular"]})


async def test_a_wrong_form_comes_back_once_with_what_was_typed(hub: SimpleNamespace) -> None:
    spawner = hub.make()
    with pytest.raises(Refused, match="Please correct what is marked below"):
        await spawner.options_from_form({"_xsrf": ["x"], "project": ["climate"], "cores": ["2x"]})
    assert 'value="2x"' in await spawner.get_options_form()
    assert 'value="2x"' not in await spawner.get_options_form()


async def test_a_stored_wish_that_was_refused_is_not_offered_again(hub: SimpleNamespace) -> None:
    spawner = hub.make()
    spawner.orm_spawner.user_options = WISH | {"cores": "1; touch /tmp/evil"}
    form = await spawner.get_options_form()
    assert "evil" not in form
    assert 'value="02:00"' in form
    spawner.orm_spawner.user_options = WISH | {"cmd": "x"}
    assert 'value="02:00"' not in await spawner.get_options_form()


async def test_a_good_form_becomes_a_wish_that_json_can_hold(hub: SimpleNamespace) -> None:
    options = await hub.make().options_from_form({key: [value] for key, value in WISH.items()})
    assert json.loads(json.dumps(options)) == options
    assert options["walltime"] == "02:00"


async def test_a_doubled_field_is_refused(hub: SimpleNamespace) -> None:
    with pytest.raises(Refused):
        await hub.make().options_from_form({"project": ["climate", "ocean"]})


async def test_poll_never_takes_silence_for_death(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    hub.scheduler.down = True
    await asyncio.sleep(0.3)
    assert await spawner.poll() is None
    hub.scheduler.down = False
    hub.scheduler.put("77", Phase.ENDED)
    await asyncio.sleep(0.3)
    await until(lambda: spawner.job_state().phase is Phase.ENDED)
    assert await spawner.poll() == 0


async def test_stop_cancels_and_waits_until_the_job_is_over(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    await asyncio.wait_for(spawner.stop(), 3)
    assert hub.program.calls[-1][1] == {"verb": "cancel", "job_ids": ["77"]}
    assert spawner.job_state().phase is Phase.ENDED


async def test_giving_up_during_the_submission_still_cancels_the_job(hub: SimpleNamespace) -> None:
    hub.program.slow = 0.2
    spawner = hub.make()
    starting = asyncio.ensure_future(spawner.start())
    await until(lambda: hub.program.calls)
    starting.cancel()
    await asyncio.sleep(0)
    assert await spawner.poll() is None
    await asyncio.wait_for(spawner.stop(), 3)
    assert hub.program.verbs == ["submit", "cancel"]


async def test_a_restarted_hub_follows_the_same_job(hub: SimpleNamespace) -> None:
    first, starting = await start(hub)
    starting.cancel()
    hub.give()
    again = hub.make(saved(hub))
    assert await again.poll() is None
    adopting = asyncio.ensure_future(again.get_url())
    await asyncio.sleep(0.1)
    assert again.pending == "spawn"
    run_job(hub, again)
    assert await asyncio.wait_for(adopting, 30) == "https://c1:40001/user/alice/"
    await until(lambda: hub.routed == [""])
    assert again.token_id == first.token_id
    assert hub.program.verbs == ["submit"]


async def test_a_hub_that_died_while_submitting_finds_its_job_by_the_tag(hub: SimpleNamespace) -> None:
    hub.program.slow = 0.2
    first = hub.make()
    starting = asyncio.ensure_future(first.start())
    await until(lambda: hub.program.calls)
    state = saved(hub)
    assert "job_id" not in state
    await until(lambda: first.job_id)
    starting.cancel()
    hub.give()
    again = hub.make(state)
    assert await again.poll() is None
    adopting = asyncio.ensure_future(again.get_url())
    await until(lambda: again.job_id == "77")
    run_job(hub, again)
    assert await asyncio.wait_for(adopting, 30) == "https://c1:40001/user/alice/"
    assert again.server.proto == "https"


async def test_a_running_server_is_routed_after_a_restart_only_if_its_job_still_runs(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    state = saved(hub)
    hub.scheduler.put("77", Phase.ENDED)  # another process answers on its port now
    hub.give()
    again = hub.make(state)
    url = await asyncio.wait_for(again.get_url(), 3)
    assert url == "http://127.0.0.1:1/"


async def test_the_servers_token_is_revoked_even_after_a_restart(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    starting.cancel()
    again = hub.make(saved(hub))
    again.clear_state()
    assert hub.session.get(orm.APIToken, spawner.token_id) is None


async def test_nothing_of_batchspawners_shells_and_templates_is_left(hub: SimpleNamespace) -> None:
    inherited = {
        "run_command", "submit_batch_script", "query_job_status", "cancel_batch_job", "_get_batch_script",
        "cmd_formatted_for_batch", "get_req_subvars",
    }  # fmt: skip

    def explode(*args: object, **kwargs: object) -> None:
        raise AssertionError("batchspawner's own code runs")

    patch = pytest.MonkeyPatch()
    for name in inherited:
        patch.setattr(BatchSpawnerBase, name, explode)
    try:
        spawner, starting = await start(hub)
        run_job(hub, spawner)
        await asyncio.wait_for(starting, 30)
        await spawner.poll()
        await asyncio.wait_for(spawner.stop(), 3)
    finally:
        patch.undo()


async def test_progress_tells_each_change_once(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    events: list[dict[str, Any]] = []

    async def listen() -> None:
        async for event in spawner.progress():
            events.append(event)

    listening = asyncio.ensure_future(listen())
    await until(lambda: any("words for Priority" in event["message"] for event in events))
    run_job(hub, spawner)
    await until(lambda: any("Your job runs on c1" in event["message"] for event in events))
    listening.cancel()
    starting.cancel()
    assert len(events) < 6
    assert all(event["hpchub"]["job"] in ("", "77") for event in events)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"\xff", b'{"port": "8888"}', b'{"port": 80}', b'{"port": 65536}', b'{"port": true}',
        b'{"port": 8888.0}', b'{"port": null}', b'{"port": 8888}' + b" " * 100,
        b'{"port": 8888, "batch_query_cmd": "x"}',
    ],
)  # fmt: skip
def test_a_callback_with_anything_but_a_port_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json and ours alike
        port_of(body)


async def test_the_job_gets_a_certificate_for_its_own_key_and_the_node_that_it_landed_on(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    spawner._commit()
    sent = x509.load_pem_x509_certificate(hub.program.calls[0][1]["tls"]["certificate"].encode())
    for current in (spawner, hub.make(saved(hub))):  # the second is of a hub that was restarted
        signed = x509.load_pem_x509_certificate(current.sign().encode())
        assert signed.public_key() == sent.public_key()
        names = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["c1"]


def test_a_callback_with_a_port_is_read() -> None:
    assert port_of(b'{"port": 40001}') == 40001


async def test_addresses_are_compared_in_one_form() -> None:
    assert plain("::ffff:192.0.2.7") == plain("192.0.2.7")
    assert plain("2001:DB8::0:1") == "2001:db8::1"
    assert "127.0.0.1" in await addresses_of("localhost")
    assert await addresses_of("no-such-node.invalid") == frozenset()


async def test_a_session_that_ends_is_remembered_until_its_dask_jobs_have_ended(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.hub.dask_cleanup.POLL_SECONDS", 0.05)
    spawner, starting = await start(hub)
    run_job(hub, spawner)
    await asyncio.wait_for(starting, 30)
    tag = spawner.record.tag
    for job_id, mark in {"80": f"{tag}:7.8:dask", "81": f"{tag}:7.8:dask", "82": "of somebody's batch job"}.items():
        hub.scheduler.put(job_id, Phase.WAITING)
        hub.scheduler.tagged[job_id] = mark
    await asyncio.wait_for(spawner.stop(), 3)
    hub.scheduler.down = True
    spawner.clear_state()
    hub.session.commit()
    assert saved(hub)["ended"] == [tag]  # what JupyterHub writes next still has it
    assert spawner.get_state() == {"ended": [tag]}
    hub.scheduler.down = False
    await until(lambda: not saved(hub)["ended"])
    assert hub.program.calls[-1] == (
        (hub.site.cluster.jobs.socket, "alice"),
        {"verb": "cancel", "job_ids": ["80", "81"]},
    )
    assert hub.scheduler.listed["82"].phase is Phase.WAITING


RECORDED = json.loads((Path(__file__).parents[1] / "data" / "hub_states.json").read_text())
"""What the release before records had a version wrote about such a server: see test_job_record.py."""


@pytest.mark.parametrize("name", ["submitting", "waiting", "running"])
async def test_a_job_of_the_release_before_survives_the_upgrade(hub: SimpleNamespace, name: str) -> None:
    state = RECORDED[name]
    hub.scheduler.tagged["77"] = state["tag"]
    if name == "running":
        hub.scheduler.put("77", Phase.RUNNING, node="c1", start=state["began"])
        hub.answering.add("https://c1:40001")
    else:
        hub.scheduler.put("77", Phase.WAITING, reason="Priority")
    again = hub.make(state)
    assert await again.poll() is None
    coming = asyncio.ensure_future(again.get_url())
    if name != "running":
        await until(lambda: again.job_state())
        assert again.pending == "spawn"
        run_job(hub, again)
    assert await asyncio.wait_for(coming, 30) == "https://c1:40001/user/alice/"
    assert hub.program.calls == [], "nothing is submitted again"
    await again.keep()
    assert {key: saved(hub)[key] for key in ("tag", "certificate", "job_id", "node", "port", "request")} == {
        "tag": state["tag"], "certificate": state["certificate"], "job_id": "77", "node": "c1", "port": 40001,
        "request": state["request"],
    }  # fmt: skip


async def test_batchspawners_base_class_finds_the_job_in_what_is_saved(hub: SimpleNamespace) -> None:
    spawner, starting = await start(hub)
    starting.cancel()

    class Stock(BatchSpawnerBase):
        """The base class alone."""

    stock = Stock()
    stock.load_state(saved(hub))
    assert stock.job_id == spawner.job_id == "77"


async def test_a_start_that_was_taken_up_again_can_be_given_up(hub: SimpleNamespace) -> None:
    hub.scheduler.put("77", Phase.WAITING, reason="Priority")
    again = hub.make(RECORDED["waiting"])
    coming = asyncio.ensure_future(again.get_url())
    await until(lambda: again.pending == "spawn" and again.job_state())
    await give_up_start(again)
    await until(coming.done, 3)
    assert coming.result() == "http://127.0.0.1:1/"
    assert again.pending is None
    await asyncio.wait_for(again.stop(), 5)
    assert hub.program.calls[-1][1] == {"verb": "cancel", "job_ids": ["77"]}
