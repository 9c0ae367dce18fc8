"""What our hub asks the proxy and makes of the answer, and what it goes on with after a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from jupyterhub import orm
from jupyterhub.user import UserDict
from sqlalchemy import event

from hpchub.hub import app
from hpchub.hub.app import CONFIG_FILE, JupyterHub
from hpchub.hub.internal_tls import Labs
from hpchub.hub.job_client import JobClient
from hpchub.hub.runtime import RunningCluster, Runtime
from hpchub.scheduler import Phase
from hpchub.scheduler.offers import Live
from hpchub.scheduler.watcher import Watcher
from hpchub.settings import Site

if TYPE_CHECKING:
    from conftest import FakeScheduler

EARLY, LATE = "2026-01-01T10:00:00.000Z", "2026-01-01T13:00:00.000+01:00"


class Proxy:
    """Knows alice's server and one that the hub does not know."""

    def __init__(self) -> None:
        self.told = LATE
        self.checked: list[Any] = []

    async def get_all_routes(self) -> dict[str, Any]:
        server = {"user": "alice", "server_name": "", "last_activity": self.told}
        return {"/": {"data": {"hub": True}}, "/a": {"data": server}, "/b": {"data": {**server, "user": "bob"}}}

    async def check_routes(self, users: object, services: object, routes: object) -> None:
        self.checked.append(routes)


@pytest.fixture
def hub(tmp_path: Path) -> JupyterHub:
    """A hub with alice's server, which was active at eleven."""
    hub = JupyterHub(db_url=f"sqlite:///{tmp_path / 'hub.sqlite'}")
    hub.init_db()
    eleven = datetime(2026, 1, 1, 11)
    alice = orm.User(name="alice", last_activity=eleven)
    spawner = orm.Spawner(name="", user=alice, last_activity=eleven)
    hub.db.add_all([alice, spawner])
    hub.db.commit()
    wrapper = SimpleNamespace(name="alice", orm_user=alice, spawners={"": SimpleNamespace(orm_spawner=spawner)})
    hub.users = UserDict(lambda: hub.db, {})
    dict.__setitem__(hub.users, alice.id, wrapper)
    hub.proxy, hub._service_map = Proxy(), {}
    return hub


async def test_activity_that_the_proxy_saw_moves_forward_alone(hub: JupyterHub) -> None:
    (alice,) = hub.users.values()
    await hub.update_last_activity()
    assert alice.orm_user.last_activity == alice.spawners[""].orm_spawner.last_activity == datetime(2026, 1, 1, 12)
    hub.proxy.told, hub._activity_due = EARLY, 0.0
    await hub.update_last_activity()
    assert alice.orm_user.last_activity == datetime(2026, 1, 1, 12)


async def test_routes_are_checked_each_time_and_the_database_is_asked_nothing_for_it(hub: JupyterHub) -> None:
    await hub.update_last_activity()
    asked: list[str] = []
    event.listen(hub.db.get_bind(), "before_cursor_execute", lambda *told: asked.append(told[2]))
    for _ in range(3):
        await hub.update_last_activity()
    assert len(hub.proxy.checked) == 4
    assert asked == []


def test_the_configuration_that_the_hub_is_started_with_is_there() -> None:
    assert "configure(" in CONFIG_FILE.read_text()


async def test_dask_jobs_of_a_lab_that_ended_under_the_release_before_are_cancelled_by_this_one(
    hub: JupyterHub, site: Site, scheduler: FakeScheduler, labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data" / "hub_states.json").read_text())["ended"]
    (tag,) = recorded["ended"]
    cancelled: list[tuple[str, object]] = []

    async def program(path: str, user: str, message: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        cancelled.append((user, message["job_ids"]))
        for job_id in message["job_ids"]:
            scheduler.put(job_id, Phase.ENDED)
        return {"ok": True}

    cluster = RunningCluster(
        site.cluster, "demo:00", scheduler, Watcher(scheduler, 10), Live(scheduler, site.cluster),
        JobClient(site.cluster.jobs.socket, program),
    )  # fmt: skip
    monkeypatch.setattr(app, "runtime", lambda _: Runtime(site, labs, (cluster,)))
    monkeypatch.setattr("hpchub.hub.dask_cleanup.POLL_SECONDS", 0.01)
    for job_id, mark in {"80": f"{tag}:7.8:dask", "81": "of somebody's batch job"}.items():
        scheduler.put(job_id, Phase.WAITING)
        scheduler.tagged[job_id] = mark
    row = hub.db.query(orm.Spawner).one()
    row.state = recorded
    hub.db.commit()
    await hub.end_dask_jobs()
    assert cancelled == [("alice", ["80"])]
    assert row.state == {"ended": []}
