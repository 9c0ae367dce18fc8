"""Sign in through the root login helper behind its unix socket."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from typing import TypedDict

from jupyterhub.auth import Authenticator  # type: ignore[import-untyped]  # upstream has no types
from tornado import web
from tornado.http1connection import HTTP1Connection
from traitlets import Integer, Unicode, default

MAX_SECRET_BYTES = 511  # what PAM can carry
MAX_ANSWER_BYTES = 4096

DENIED = (
    "Sign-in refused. Check user name and secret. Each code works once: wait for the next one before you try again."
)
NOTICES: dict[str, tuple[int, str]] = {
    "denied": (403, DENIED),
    "locked": (403, "This account is locked, or it may not use this service at present."),
    "expired": (403, "This account is locked or has expired."),  # a lock by expiry date looks the same to PAM
    "new_pin": (
        403,
        "A new PIN or a further step is needed, which this page cannot do. Sign in by SSH once, then here.",
    ),
    "unavailable": (
        503,
        "Sign-in is unavailable at the moment. Your account is not affected. Try again in a few minutes.",
    ),
}


class Answer(TypedDict):
    """What the helper says: ok, denied, locked, expired, new_pin or unavailable, and the user if ok."""

    result: str
    user: str


class LoginRefused(web.HTTPError):
    """A refusal; JupyterHub's login page shows `jupyterhub_message` above the form, the log has `result`."""

    def __init__(self, result: str, support_contact: str) -> None:
        """`result` is a key of NOTICES; the contact is named where trying again cannot help."""
        status, notice = NOTICES[result]
        super().__init__(status, "login %s", result)
        contact = support_contact if result != "denied" else ""
        self.jupyterhub_message = f"{notice} Questions: {contact}" if contact else notice


class HelperAuthenticator(Authenticator):  # type: ignore[misc]  # upstream has no types
    """Passes user name, secret and client address to the login helper and tells the person what came of it."""

    socket = Unicode("/run/hpchub-login.sock", config=True, help="Path of the login helper's socket.")
    label = Unicode("PIN followed by token code", config=True, help="What the login page calls the secret.")
    banner = Unicode("", config=True, help="Text that stands above the login form.")
    support_contact = Unicode("", config=True, help="Whom to ask, shown with a refusal that trying again cannot mend.")
    timeout_seconds = Integer(75, min=1, config=True, help="How long the helper may take; above its own time limit.")

    @default("allow_all")
    def _allow_all(self) -> bool:
        return True  # who may sign in is decided by the helper, which knows the enrolled group

    def normalize_username(self, username: str) -> str:
        """Lower case and nothing else, so that the name that PAM checked is the name that gets in."""
        return username.lower()

    async def authenticate(self, handler: web.RequestHandler, data: dict[str, str]) -> str:
        """Give the user name if the helper says so; every refusal is an HTTPError that the login page shows."""
        user = self.normalize_username(data.get("username", ""))
        secret = data.get("password", "")
        if not user or not secret or len(secret.encode()) > MAX_SECRET_BYTES:
            raise self._refusal("denied", user)
        answer = await self._ask(user, secret, client_address(handler))
        if answer["result"] == "ok" and answer["user"] == user:
            return user
        raise self._refusal(answer["result"] if answer["result"] in NOTICES else "unavailable", user)

    def _refusal(self, result: str, user: str) -> LoginRefused:
        self.log.warning("Failed login for %r: %s", user[:32], result)
        return LoginRefused(result, self.support_contact)

    async def _ask(self, user: str, secret: str, rhost: str) -> Answer:
        """One request to the helper, one process there. Whatever goes wrong is "unavailable"."""
        request = json.dumps({"user": user, "password": secret, "rhost": rhost}).encode() + b"\n"
        try:
            async with asyncio.timeout(self.timeout_seconds):
                reader, writer = await asyncio.open_unix_connection(self.socket, limit=MAX_ANSWER_BYTES)
                try:
                    writer.write(request)
                    await writer.drain()
                    answer = json.loads(await reader.readline())
                finally:
                    writer.close()
            return Answer(result=str(answer["result"]), user=str(answer["user"]))
        except (OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self.log.error("Login helper %s: %s %s", self.socket, type(error).__name__, error)
            return Answer(result="unavailable", user="")


def client_address(handler: web.RequestHandler) -> str:
    """The browser's address, "" if there is none.

    tornado believes X-Forwarded-For whoever sends it. The proxy runs on the hub's own host, so the header counts only
    on a connection from there; a direct connection from elsewhere, such as a compute node, counts as what it is.
    """
    try:
        http = handler.request.connection
        if not isinstance(http, HTTP1Connection):
            return ""
        connection: socket.socket = http.stream.socket
        peer, own = connection.getpeername(), connection.getsockname()
        forwarded = connection.family == socket.AF_UNIX or peer[0] == own[0]
        return str(ipaddress.ip_address(str(handler.request.remote_ip) if forwarded else peer[0]))
    except (OSError, ValueError):
        return ""
