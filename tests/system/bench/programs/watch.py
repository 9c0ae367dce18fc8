"""The hub's real watcher over many simulated jobs, with somebody in a poll_soon at every moment.

`watch.py COMMANDS JOBS SECONDS`: COMMANDS is the directory of the scheduler's commands.
"""

from __future__ import annotations

import asyncio
import sys

from hpchub.scheduler.commands import asker
from hpchub.scheduler.slurm import Slurm
from hpchub.scheduler.watcher import Watcher


async def main(commands: str, jobs: int, seconds: float) -> None:
    """Watch; fail unless all jobs are seen."""
    watcher = Watcher(Slurm(commands, asker()), 10)
    for number in range(1, jobs + 1):
        watcher.watch(str(number), "somebody")
    async with asyncio.timeout(2 * seconds):
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            watcher.poll_soon(urgent=True)
            await watcher.locate()
            await watcher.changed(1)
    assert all(watcher.look(str(number)) for number in range(1, jobs + 1))
    await watcher.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
