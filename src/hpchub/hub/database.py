"""Surviving a locked or full SQLite database: another program holds the hub's database, or its disk is full.

JupyterHub writes to one SQLite file, in one session for everybody, in the thread that answers everybody. There a lock
makes the whole hub wait; a commit that failed leaves the session useless; and a server whose end could not be written
down counts as stopping until the hub restarts. Here a write that fails is undone at once and told in a sentence,
nobody waits for the next one to fail, and what has to be written down is tried until it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jupyterhub.spawner import SpawnException  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.user import User  # type: ignore[import-untyped]  # upstream has no types
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

log = logging.getLogger("JupyterHub.hpchub")

BUSY_SECONDS = 0.5
"""So long a write waits for another program's lock, and with it everybody; most locks are shorter."""
REST_SECONDS = 5.0
"""After a write that failed the next ones fail at once for so long, unless the database was found good meanwhile."""
PATIENCE_SECONDS = 7.0
"""So long a start waits for a database that cannot be written; after ten JupyterHub answers that it goes on."""
ROOM_BYTES = 1 << 20
"""What has to be free beside the database before a server starts: its end has to be written down as well."""
CONNECT = {"check_same_thread": False, "timeout": BUSY_SECONDS}
"""For sqlite3.connect; the first is JupyterHub's own."""


class CannotWrite(SpawnException, SQLAlchemyError):  # type: ignore[misc]  # SpawnException has no types
    """The database could not be written, and nothing of what was to be written is there."""

    def __init__(self) -> None:
        """A sentence for whoever wanted something."""
        words = (
            "The hub cannot write to its database at the moment, so nothing was changed and no job was started. "
            "Running sessions go on. Please try again in some minutes."
        )
        super().__init__(words, reason="database", status_code=503)
        self.jupyterhub_message = words

    def __str__(self) -> str:
        """The sentence alone."""
        return str(self.jupyterhub_message)


class HubSession(Session):
    """JupyterHub's session, never left in a failed state. Raises CannotWrite where SQLite's OperationalError was."""

    _inside = False
    rests_until = float("-inf")

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As upstream."""
        self._write(lambda: super(HubSession, self).flush(objects))

    def commit(self) -> None:
        """As upstream. When somebody was last seen is not worth an error: who only wanted to note that goes on."""
        self._write(super().commit)

    def _write(self, write: Callable[[], None]) -> None:
        if self._inside:  # a commit flushes
            write()
            return
        changed = bool(self.new or self.deleted or self.dirty)
        trifle = changed and self._only_activity()
        self._inside = True
        try:
            if changed and time.monotonic() < self.rests_until:
                self.rollback()
                if not trifle:
                    raise CannotWrite
                return
            write()
        except OperationalError as error:
            self.rollback()
            self.rests_until = time.monotonic() + REST_SECONDS
            log.error("The database cannot be written: %s", error.orig)
            if not trifle:
                raise CannotWrite from error
        except SQLAlchemyError:
            self.rollback()
            raise
        finally:
            self._inside = False

    def _only_activity(self) -> bool:
        if self.new or self.deleted:
            return False
        states = (inspect(row) for row in self.dirty)
        return {name.key for state in states for name in state.attrs if name.history.has_changes()} <= {"last_activity"}


def factory(engine: Engine) -> sessionmaker[HubSession]:
    """JupyterHub's kind of sessions, on its own engine.

    With a write-ahead log, who reads the file (a backup) and who writes it are not in each other's way.
    """
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return sessionmaker(bind=engine, class_=HubSession, expire_on_commit=False)


async def writable(session: Session, patience: float = 0.0) -> bool:
    """Whether the session's database can be written, and has room, within so many seconds. Nobody else waits."""
    bind = session.get_bind()
    path = Path(str(bind.engine.url.database))
    if not path.is_absolute():  # in memory
        return True
    deadline = time.monotonic() + patience
    while True:
        try:
            await asyncio.to_thread(_probe, path)
        except (OSError, sqlite3.Error) as error:
            if time.monotonic() >= deadline:
                log.error("The database %s cannot be written: %s", path, error)
                return False
            await asyncio.sleep(1)
        else:
            if isinstance(session, HubSession):
                session.rests_until = float("-inf")
            return True


async def until_writable(session: Session | None) -> None:
    """Wait until the session's database can be written."""
    while session is not None and not await writable(session, 60):
        pass


async def until_written(session: Session | None, change: Callable[[], None], what: str) -> None:
    """Make a change and commit it, again and again until the database takes it; `what` names it in the log."""
    while True:
        try:
            change()
            return session.commit() if session is not None else None
        except CannotWrite:
            log.warning("What is known about %s is not written down yet", what)
            await asyncio.sleep(1)
            await until_writable(session)


def _probe(path: Path) -> None:
    with tempfile.TemporaryFile(dir=path.parent) as file:
        os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def patient(user: type[User]) -> None:
    """Let the users' servers start only when that can be written down, and stop until it is."""
    spawn, stop = user.spawn, user.stop

    async def patient_spawn(self: User, *args: object, **more: object) -> None:
        if not await writable(self.db, PATIENCE_SECONDS):
            raise CannotWrite
        await spawn(self, *args, **more)

    async def patient_stop(self: User, server_name: str = "") -> None:
        while True:
            try:
                await stop(self, server_name)
                return
            except CannotWrite:
                log.warning("The end of %s:%s is not written down yet", self.name, server_name)
                await asyncio.sleep(1)
                await until_writable(self.db)

    user.spawn, user.stop = patient_spawn, patient_stop
