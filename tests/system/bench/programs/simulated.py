"""A cluster that is not there, for a hub that is: one process stands for batch system, sign-in and all servers.

`simulated.py DIRECTORY` opens DIRECTORY/jobs.sock, which answers as the job program does, and DIRECTORY/login.sock,
which lets everybody in. A submitted job runs after DISPATCH_SECONDS; then a server of `lab` answers for it. What squeue
would say is in DIRECTORY/jobs.txt.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lab

from hpchub.lab import start

SUBMIT_SECONDS = 0.3
DISPATCH_SECONDS = 1.0
START_SECONDS = 2.3
"""What sudo with sbatch, Slurm, and a Lab's own start take on the demo."""
HANDS = 16
"""Threads that talk to the hub."""


@dataclass
class Cluster:
    """All jobs, by id."""

    directory: Path
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    lines: dict[str, str] = field(default_factory=dict)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    changed: bool = True

    async def login(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As the login helper."""
        message = json.loads(await reader.readline())
        answer = {"result": "ok", "user": message.get("user") or message.get("account")}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def jobs(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As the job program behind its relay."""
        user = (await reader.readline()).decode().strip()
        answer = await self._do(user, json.loads(await reader.read()))
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def _do(self, user: str, message: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(SUBMIT_SECONDS)
        if message["verb"] == "submit":
            job = str(next(self.numbers))
            self._say(job, user, "PENDING", "", 0, "Priority")
            self.running[job] = asyncio.ensure_future(self._run(job, user, message))
            return {"ok": True, "job_id": job}
        if message["verb"] == "cancel":
            self.running.pop(message["job_id"]).cancel()
            self._say(message["job_id"], user, "CANCELLED", "", time.time(), "None")
            return {"ok": True}
        return {"ok": False, "message": "The simulated cluster keeps no logs."}

    async def _run(self, job: str, user: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(DISPATCH_SECONDS)
        node = socket.gethostname()
        self._say(job, user, "RUNNING", node, time.time(), "None")
        await asyncio.sleep(START_SECONDS)
        told = {**message, **message["job"]}
        order = {name: told.get(name, "/") for name in start.Order.__annotations__}
        try:
            await lab.from_order(json.dumps(order), socket.gethostbyname(node))
        except Exception as error:
            print(f"job {job} of {user}: {type(error).__name__} {error}", file=sys.stderr)
            self._say(job, user, "FAILED", "", time.time(), "NonZeroExitCode")

    def _say(self, job: str, user: str, state: str, node: str, since: float, reason: str) -> None:
        self.lines[job] = f"{job}|{user}|{state}|{node or 'n/a'}|{since:.0f}|{reason}"
        self.changed = True

    async def publish(self) -> None:
        """Keep jobs.txt as it is."""
        new = self.directory / "jobs.new"
        while True:
            if self.changed:
                self.changed = False
                new.write_text("".join(f"{line}\n" for line in self.lines.values()))
                new.replace(self.directory / "jobs.txt")
            await asyncio.sleep(0.2)


async def main(directory: Path) -> None:
    """Answer until killed."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(HANDS))
    os.umask(0)
    cluster = Cluster(directory)
    await asyncio.start_unix_server(cluster.login, directory / "login.sock", backlog=512)
    await asyncio.start_unix_server(cluster.jobs, directory / "jobs.sock", backlog=512)
    await cluster.publish()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
