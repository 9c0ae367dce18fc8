"""Dask jobs that begin together are one array of jobs: one submission, and one order to cancel, whatever their number.

As shipped, dask-jobqueue calls the submit command once for every job, all at the same time.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from hpchub.scheduler.dialect import JobArrays

T = TypeVar("T")
R = TypeVar("R")

SHELLS = ("sh", "bash", "dash", "ksh", "zsh")
"""Shells that understand what an array adds to a job's script."""


class CallBatcher(Generic[T, R]):
    """What is asked for in the same turn of an event loop is done by one call, which gives an answer to each."""

    def __init__(self, do: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        """Nothing is asked for yet."""
        self._do = do
        self._asked: dict[asyncio.AbstractEventLoop, tuple[list[T], asyncio.Task[Sequence[R]]]] = {}

    async def ask(self, item: T) -> R:
        """The answer for one item; raises what the call raises."""
        loop = asyncio.get_running_loop()
        if loop not in self._asked:  # the task runs after all that is ready to run now
            self._asked[loop] = [], loop.create_task(self._call(loop))
        items, task = self._asked[loop]
        items.append(item)
        place = len(items) - 1
        return (await asyncio.shield(task))[place]

    async def _call(self, loop: asyncio.AbstractEventLoop) -> Sequence[R]:
        items, _ = self._asked.pop(loop)
        return await self._do(items)


def array_template(arrays: JobArrays, script: str, command: str, name: str) -> str | None:
    """A job's script as an array can have it, with $1 for its worker's name; None if it cannot be told.

    `command` is the line of the script that starts the worker.
    """
    shell = script.partition("\n")[0].removeprefix("#!").split()
    named = f" --name {name} "
    if not shell or shell[-1].rpartition("/")[2] not in SHELLS or script.count(command) != 1:
        return None
    if command.count(named) != 1:
        return None
    script = script.replace(command, "{names}\n" + command.replace(named, ' --name "$1" '))
    return arrays.log[0].sub(arrays.log[1], script)


def array_script(arrays: JobArrays, template: str, names: Sequence[str]) -> str:
    """The script of `array_template` for workers of these names, in the order of their places in the array."""
    return template.replace("{names}", f'set -- {shlex.join(names)}\nshift "${arrays.place}"', 1)
