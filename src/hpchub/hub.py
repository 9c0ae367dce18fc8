"""JupyterHub as we run it: with what looks after jobs that nobody waits for."""

from __future__ import annotations

import asyncio
import json

from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.app import JupyterHub  # type: ignore[import-untyped]  # upstream has no types

from hpchub.reconcile import Known, Reconciler, known_to
from hpchub.spawner import SUBMIT_TIMEOUT, SUDO, USER_NAME, runtime


class Hub(JupyterHub):  # type: ignore[misc]  # upstream has no types
    """JupyterHub and the reconciler in one process, so that they share the watcher."""

    _reconciling: asyncio.Task[None]

    async def start(self) -> None:
        """As upstream; then look for lost jobs for as long as the hub runs."""
        await super().start()
        shared = runtime(self.config.HpcSpawner.site_file)
        if shared.site.jobs.orphan_minutes:
            reconciler = Reconciler(shared.site, shared.scheduler, shared.watcher, self.known_jobs, self.cancel_job)
            self._reconciling = asyncio.ensure_future(reconciler.run())

    def known_jobs(self) -> Known:
        """What the database says, read in a session of its own: what is not committed does not count."""
        with self.session_factory() as session:
            return known_to({row.id: row.state for row in session.query(orm.Spawner)})

    async def cancel_job(self, user: str, job_id: str) -> bool:
        """Cancel a job as its owner; whether it was done."""
        shared = runtime(self.config.HpcSpawner.site_file)
        if not USER_NAME.fullmatch(user):
            return False
        argv = (SUDO, "-n", "-u", user, shared.site.jobs.program)
        message = {"verb": "cancel", "job_id": job_id}
        try:
            finished = await shared.run(argv, stdin=json.dumps(message), timeout=SUBMIT_TIMEOUT)
            return bool(json.loads(finished.stdout).get("ok"))
        except (OSError, ValueError, AttributeError) as error:
            self.log.error("Job %s of %s: %s", job_id, user, error)
            return False
