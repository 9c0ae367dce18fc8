"""The one thing that a job may tell the hub: the port on which its server will listen. The answer is a certificate."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket

from jupyterhub.apihandlers import APIHandler  # type: ignore[import-untyped]  # upstream has no types
from tornado import web

from hpchub.hub.spawner import HpcSpawner
from hpchub.scheduler import Phase

LONGEST_BODY = 64
NODE_SECONDS = 30.0
"""How long the answer may take until the scheduler says on which node the job runs."""


def port_of(body: bytes) -> int:
    """The port in {"port": N} and nothing else; raises ValueError."""
    message = json.loads(body) if len(body) <= LONGEST_BODY else None
    if not isinstance(message, dict) or list(message) != ["port"]:
        raise ValueError('the body must be {"port": N}')
    port = message["port"]
    if not isinstance(port, int) or isinstance(port, bool) or not 1024 <= port <= 65535:
        raise ValueError("the port must be a whole number from 1024 to 65535")
    return port


async def addresses_of(node: str) -> frozenset[str]:
    """The addresses of a node; none if its name does not resolve."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(node, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(plain(str(entry[4][0])) for entry in found)


def plain(address: str) -> str:
    """An address in its shortest form, IPv4 even if it is mapped into IPv6; anything else as it is."""
    try:
        parsed = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


class PortHandler(APIHandler):  # type: ignore[misc]  # upstream has no types
    """POST /hub/api/hpchub/port, with the server's own token, from its own node, once for each start of its job."""

    @web.authenticated
    async def post(self) -> None:
        """{"certificate": PEM} for the job's key and node, or 400 for another body, 403 for anybody else."""
        spawner = await self._spawner()
        try:
            port = port_of(self.request.body)
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from error
        await self._from_its_node(spawner)
        if spawner.record.port not in (0, port):  # the same again: our answer was lost
            raise self._refused(spawner, "the port is known already")
        certificate = spawner.sign()
        spawner.report_port(port)
        await spawner.keep()
        self.log.info("%s will listen on %s:%s", spawner._log_name, spawner.record.node, port)
        self.finish(json.dumps({"certificate": certificate}))

    async def _spawner(self) -> HpcSpawner:
        """The spawner whose server the token was made for, if it waits for a port."""
        token, user = self.get_token(), self.current_user
        for spawner in user.spawners.values() if token is not None and token.user is not None else ():
            if isinstance(spawner, HpcSpawner) and spawner.token_id == token.id:
                if spawner.ready:
                    await self._look_again(spawner)
                if spawner.pending in ("spawn", "check"):
                    return spawner
        raise web.HTTPError(403, "This token belongs to no server that is starting.")

    async def _look_again(self, spawner: HpcSpawner) -> None:
        """The job of a running server may have been requeued and run again before anybody asked the scheduler."""
        try:
            async with asyncio.timeout(NODE_SECONDS):
                await spawner.cluster.watcher.ask()
        except TimeoutError as error:  # the Lab tries again; with a refusal it would end
            raise web.HTTPError(503, "The scheduler does not say yet where this job runs. Try again.") from error
        await spawner.poll()

    async def _from_its_node(self, spawner: HpcSpawner) -> None:
        """Wait until the job is known to run; refuse a message from elsewhere. The proxy's headers do not count."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + NODE_SECONDS
        while (job := spawner.job_state()) is None or job.phase is Phase.WAITING or not spawner.record.node:
            if loop.time() > deadline:
                raise web.HTTPError(503, "The scheduler does not say yet where this job runs. Try again.")
            spawner.cluster.watcher.poll_soon(urgent=True)
            await spawner.cluster.watcher.changed(1.0)
        if not spawner.shared.site.hub.check_node_address:
            return
        node, peer = spawner.record.node, plain(str(self.request.connection.context.address[0]))
        allowed = await addresses_of(node)
        if peer not in allowed:
            raise self._refused(spawner, f"{peer} is not {node} ({', '.join(sorted(allowed)) or 'unknown'})")

    def _refused(self, spawner: HpcSpawner, why: str) -> web.HTTPError:
        self.log.warning("Refused a port for %s: %s", spawner._log_name, why)
        return web.HTTPError(403, "This port is not accepted.")


ROUTES = [(r"/api/hpchub/port", PortHandler)]
