"""What each scheduler learns of its workers through Dask's own plugin: which died with tasks, which have a page.

A comfort: where it does not fit, schedulers are as shipped.

The plugin is given to each scheduler when that is made. Dask's setting for it, `distributed.scheduler.preload`, would
be the shorter way, but settings travel: to schedulers of a user's own environment, and to those that a cluster class
starts on other machines. One that cannot import what the setting names does not start.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from hpchub.dask_jobs.patches import worker_loss, worker_pages


class Workers(SchedulerPlugin):
    """Warns of workers that died with tasks, and links to no page of a worker on another node."""

    name = "hpchub-workers"

    def __init__(self) -> None:
        """No worker is known yet."""
        self._known: dict[str, tuple[object, Mapping[str, Any]]] = {}

    def add_worker(self, scheduler: Any, worker: str) -> None:  # noqa: ANN401 - a Scheduler
        """Note what a new worker told of itself: when it is removed, it is gone before any plugin is asked."""
        state = scheduler.workers[worker]
        told = state.extra or {}
        self._known[worker] = state.name, told
        if (told.get("hpchub") or {}).get("node") != os.uname().nodename:
            state.services.clear()

    def log_event(self, topic: str, msg: Any) -> None:  # noqa: ANN401 - as upstream
        """Warn of a worker that was lost; `remove_worker` of plugins comes when it has no tasks any more."""
        if topic != "all" or not isinstance(msg, Mapping) or msg.get("action") != "remove-worker":
            return
        name, told = self._known.pop(msg["worker"], (msg["worker"], {}))
        if not msg["expected"] and msg["processing-tasks"]:
            worker_loss.warn(name, msg["worker"], told, len(msg["processing-tasks"]))


def attach(scheduler: ModuleType) -> None:
    """Change distributed.scheduler: each scheduler has the plugin, and the addresses of `worker_pages`."""
    original: Callable[..., None] = scheduler.Scheduler.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as upstream
        original(self, *args, **kwargs)
        self.add_plugin(Workers())
        self.http_application.add_handlers(".*", worker_pages.routes(self, kwargs.get("http_prefix")))

    scheduler.Scheduler.__init__ = __init__
