from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from jupyterhub import orm

from hpchub.hub import database
from hpchub.hub.database import CannotWrite, HubSession


@pytest.fixture
def session(tmp_path: Path) -> Iterator[HubSession]:
    """The hub's session with alice in a file."""
    engine = orm.new_session_factory(f"sqlite:///{tmp_path / 'hub.sqlite'}", connect_args=database.CONNECT).kw["bind"]
    with database.factory(engine)() as opened:
        opened.add(orm.User(name="alice"))
        opened.commit()
        yield opened
    engine.dispose()


@pytest.fixture
def other(tmp_path: Path, session: HubSession) -> Iterator[sqlite3.Connection]:
    """Another program at the same file."""
    with closing(sqlite3.connect(tmp_path / "hub.sqlite", timeout=0, isolation_level=None)) as connection:
        yield connection


def names(session: HubSession) -> list[str]:
    return [user.name for user in session.query(orm.User)]


def test_a_write_that_meets_a_lock_is_undone_and_told_in_a_sentence_and_the_next_one_works(
    session: HubSession, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN EXCLUSIVE")
    session.add(orm.User(name="bob"))
    with pytest.raises(CannotWrite, match="cannot write to its database at the moment, so nothing was changed"):
        session.commit()
    assert names(session) == ["alice"], "pages that only read go on"
    other.execute("ROLLBACK")
    session.rests_until = 0
    session.add(orm.User(name="bob"))
    session.commit()
    assert names(session) == ["alice", "bob"]


def test_only_the_first_of_many_writes_waits_for_the_lock(session: HubSession, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for number in range(100):
        session.add(orm.User(name=f"user{number}"))
        with pytest.raises(CannotWrite):
            session.commit()
    assert time.monotonic() - began < 2 * database.BUSY_SECONDS


def test_a_write_before_a_question_fails_as_a_commit_does(session: HubSession, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    session.add(orm.User(name="bob"))
    with pytest.raises(CannotWrite):
        names(session)
    assert names(session) == ["alice"]


def test_when_somebody_was_last_seen_is_not_worth_an_error(session: HubSession, other: sqlite3.Connection) -> None:
    alice = session.query(orm.User).one()
    other.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        alice.last_activity = orm.utcnow(with_tz=False)
        session.commit()
    alice.last_activity = orm.utcnow(with_tz=False)
    alice.admin = True
    with pytest.raises(CannotWrite):
        session.commit()
    assert not alice.admin


def test_a_full_disk_is_met_like_a_lock(session: HubSession) -> None:
    pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
    session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    session.commit()
    session.add(orm.User(name="x" * 100_000))
    with pytest.raises(CannotWrite):
        session.commit()
    assert names(session) == ["alice"]


def test_who_reads_the_file_keeps_nobody_from_writing_it(session: HubSession, other: sqlite3.Connection) -> None:
    other.execute("BEGIN")
    assert other.execute("SELECT name FROM users").fetchall() == [("alice",)]
    session.add(orm.User(name="bob"))
    session.commit()
    assert names(session) == ["alice", "bob"]


async def test_a_database_without_room_beside_it_counts_as_one_that_cannot_be_written(
    session: HubSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await database.writable(session)
    monkeypatch.setattr(database, "ROOM_BYTES", 1 << 60)
    assert not await database.writable(session)


class Stock:
    """What JupyterHub's User is to `patient`: writes a row when a server starts, and one when it ends."""

    def __init__(self, db: HubSession) -> None:
        self.db, self.name, self.calls = db, "alice", []

    async def spawn(self, name: str = "") -> None:
        self.calls.append("spawn")

    async def stop(self, name: str = "") -> None:
        self.calls.append("stop")
        self.db.add(orm.Server(base_url=f"/{len(self.calls)}/"))
        self.db.commit()


async def test_a_server_does_not_start_and_the_hub_answers_others_while_the_database_is_locked(
    session: HubSession, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 1.5)
    patient = type("Patient", (Stock,), {})
    database.patient(patient)
    user = patient(session)
    other.execute("BEGIN IMMEDIATE")
    starting = asyncio.ensure_future(user.spawn())
    turns = 0
    while not starting.done():
        await asyncio.sleep(0.05)
        turns += 1
    assert turns > 10, "nobody else was answered"
    with pytest.raises(CannotWrite):
        await starting
    assert user.calls == []
    other.execute("ROLLBACK")
    await user.spawn()
    assert user.calls == ["spawn"]


async def test_a_servers_end_is_written_down_when_the_lock_is_gone(
    session: HubSession, other: sqlite3.Connection
) -> None:
    patient = type("Patient", (Stock,), {})
    database.patient(patient)
    user = patient(session)
    other.execute("BEGIN IMMEDIATE")
    stopping = asyncio.ensure_future(user.stop())
    await asyncio.sleep(1.5)
    assert not stopping.done()
    other.execute("ROLLBACK")
    await asyncio.wait_for(stopping, 5)
    assert session.query(orm.Server).count() == 1
