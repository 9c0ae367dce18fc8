"""What our hub asks the proxy, and what it makes of the answer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.user import UserDict
from sqlalchemy import event

from hpchub.hub.app import CONFIG_FILE, JupyterHub

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
