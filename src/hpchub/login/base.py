"""What all ways to sign in have in common: the throttle, what the person reads, and who may stay.

How a secret is verified is the part that differs: see `pam` and `ldap`. Whether the account is good on this host is
always the word of the root login helper behind its unix socket.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.auth import Authenticator  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.handlers.base import BaseHandler  # type: ignore[import-untyped]  # upstream has no types
from sqlalchemy.orm import object_session
from tornado import web
from traitlets import Dict, Instance, Integer, Unicode, default

from hpchub.login import handlers
from hpchub.login.throttle import Throttle, TooManyFailures

# JupyterHub 6.1.1 reads this of every request when an account is refused, but sets it for those with a token alone.
BaseHandler._token_authenticated = False

MAX_SECRET_BYTES = 511  # what PAM can carry
MAX_NAME_BYTES = 256  # LOGIN_NAME_MAX
MAX_ANSWER_BYTES = 4096
CHECK_SECONDS = 180
"""How old the helper's word about an account may be. With the 60 s for which a Lab remembers the hub's word about a
visitor, a disabled account is out within four minutes, and a slow helper has the fifth."""
FRESH_SECONDS = 10.0
"""The requests of one page ask once, and so does a refused page that asks again and again."""
ACCOUNT_SECONDS = 10.0
"""How long a page waits for the helper's word about an account, which needs nobody's thumb on a phone."""
GRACE_SECONDS = 30 * 60.0
"""How long a sign-in stays valid while nobody can say whether its account is good."""
ATTEMPTS_AT_ONCE = 128
CHECKS_AT_ONCE = 32
"""Processes of the helper that run at once; whoever comes then waits. The socket refuses what is more than both."""
ENDED = ("denied", "locked", "expired")
"""Answers after which every session and token of the account is gone for good."""

DENIED = (
    "Sign-in refused. Check user name and secret. Each code works once: wait for the next one before you try again."
)
NOTICES: dict[str, tuple[int, str]] = {
    "denied": (403, DENIED),
    "locked": (403, "This account is locked, or it may not use this service at the moment."),
    "expired": (403, "This account is locked or has expired."),  # a lock by expiry date looks the same to PAM
    "new_pin": (
        403,
        "A new PIN or a further step is needed, which this page does not offer. Sign in by SSH once, then here.",
    ),
    "unavailable": (
        503,
        "Sign-in is unavailable at the moment. Your account is not affected. Try again in a few minutes.",
    ),
}
THROTTLED = (
    "Too many failed attempts to sign in. Wait {}, then try again. "
    "Your account is not locked, and signing in by SSH is not affected."
)
CONSENT = "Please agree to the terms first: tick the box. Your code has not been used."


class LoginRefused(web.HTTPError):
    """A refusal; JupyterHub's login page shows `jupyterhub_message` above the form, the log has `result`."""

    def __init__(self, result: str, status: int, message: str) -> None:
        """`result` is one word for the log, `message` what the person reads."""
        super().__init__(status, "login %s", result)
        self.jupyterhub_message = message


def in_words(seconds: float) -> str:
    """A time to wait, rounded up."""
    number, unit = (math.ceil(seconds), "second") if seconds <= 60 else (math.ceil(seconds / 60), "minute")
    return f"{number} {unit}{'' if number == 1 else 's'}"


@dataclass
class Standing:
    """What the helper said last about an account; seconds of the clock."""

    good_at: float
    asked_at: float = -math.inf
    result: str = "ok"
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class HubUser(Protocol):
    """What is used of JupyterHub's users."""

    name: str
    orm_user: orm.User
    spawners: Mapping[str, object]


class HpcAuthenticator(Authenticator):  # type: ignore[misc]  # upstream has no types
    """Has user name and secret verified, and tells the person what came of it.

    It asks the login helper about everybody who is signed in, every CHECK_SECONDS and before a server starts.
    """

    socket = Unicode("/run/hpchub-login.sock", config=True, help="Path of the login helper's socket.")
    label = Unicode("PIN followed by token code", config=True, help="What the login page calls the secret.")
    banner = Unicode("", config=True, help="Text that stands above the login form.")
    consent = Unicode("", config=True, help="What a person has to agree to before signing in; empty means nothing.")
    support_contact = Unicode("", config=True, help="Whom to ask, shown with a refusal that trying again cannot mend.")
    timeout_seconds = Integer(75, min=1, config=True, help="How long the helper may take; above its own time limit.")
    throttle = Instance(Throttle, args=())
    _attempts = Instance(asyncio.Semaphore, args=(ATTEMPTS_AT_ONCE,))
    _checks = Instance(asyncio.Semaphore, args=(CHECKS_AT_ONCE,))  # of their own: hanging attempts end no session
    _standings: Dict[str, Standing] = Dict()
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    @default("allow_all")
    def _allow_all(self) -> bool:
        return True  # who may sign in is decided by the login helper, which knows the enrolled group

    @default("auth_refresh_age")
    def _auth_refresh_age(self) -> int:
        return CHECK_SECONDS

    @default("auth_refresh_strict")
    def _auth_refresh_strict(self) -> bool:
        return True  # or a disabled account's tokens, the ones of its Labs' visitors too, would stay good

    @default("refresh_pre_spawn")
    def _refresh_pre_spawn(self) -> bool:
        return True

    def get_handlers(self, app: object) -> list[tuple[str, type[BaseHandler]]]:
        """Our own login page and logout; JupyterHub takes the first that fits an address."""
        return handlers.ROUTES

    def normalize_username(self, username: str) -> str:
        """Lower case and nothing else, so that the name that PAM checked is the name that gets in."""
        return username.lower()

    async def verify(self, user: str, secret: str, address: str) -> str:
        """Whether the secret is the user's, and the account good on this host: "ok" or a key of NOTICES.

        `user` is as it gets in, neither it nor `secret` is empty, and `address` is the browser's, or "". It raises
        nothing, and each call verifies once: a code that was sent to a verifier may be used up.
        """
        raise NotImplementedError

    async def authenticate(self, handler: web.RequestHandler, data: dict[str, str]) -> str:
        """Give the user name if the secret is verified; every refusal is an HTTPError that the login page shows."""
        if self.consent and data.get("consent") != "yes":
            raise LoginRefused("without consent", 403, CONSENT)
        user = self.normalize_username(data.get("username", ""))
        secret = data.get("password", "")
        sizes = ((user, MAX_NAME_BYTES), (secret, MAX_SECRET_BYTES))
        if any(not 0 < len(text.encode()) <= longest for text, longest in sizes):
            raise self._refusal("denied", user)
        address = client_address(handler)
        try:
            with self.throttle.attempt(user, address) as attempt:
                result = await self.verify(user, secret, address)
                if result == "ok":
                    attempt.outcome = "passed"
                    self._standings[user] = Standing(self._clock())
                    return user
                attempt.outcome = "unknown" if result == "unavailable" else "failed"
        except TooManyFailures as error:
            self.log.warning("Throttled login for %r from %s: not before %.0f s", user[:32], address, error.seconds)
            raise LoginRefused("throttled", 429, THROTTLED.format(in_words(error.seconds))) from None
        raise self._refusal(result, user)

    def _refusal(self, result: str, user: str) -> LoginRefused:
        self.log.warning("Failed login for %r: %s", user[:32], result)
        status, notice = NOTICES[result]
        contact = self.support_contact if result != "denied" else ""  # trying again can help
        return LoginRefused(result, status, f"{notice} Questions: {contact}" if contact else notice)

    async def refresh_user(self, user: HubUser, handler: web.RequestHandler | None = None) -> bool:
        """Whether somebody who signed in earlier still may. JupyterHub refuses cookie and tokens if not."""
        standing = self._standings.setdefault(user.name, Standing(self._clock()))
        async with standing.asking:
            if self._clock() - standing.asked_at > FRESH_SECONDS:
                await self._check(user, standing)
        if standing.result == "unavailable":
            return self._clock() - standing.good_at <= GRACE_SECONDS
        return standing.result == "ok"

    async def _check(self, user: HubUser, standing: Standing) -> None:
        """Ask the helper; a change is logged, and an account that is refused loses what it holds."""
        result = await self.ask(user.name, {"account": user.name}, ACCOUNT_SECONDS)
        now = standing.asked_at = self._clock()
        if result == "ok":
            standing.good_at = now
        if result != standing.result:
            minutes = (standing.good_at + GRACE_SECONDS - now) / 60
            grace = f"; the sign-in stays valid for {max(minutes, 0):.0f} minutes" if result == "unavailable" else ""
            self.log.warning("The account of %r is %s, it was %s%s", user.name, result, standing.result, grace)
        standing.result = result
        if result in ENDED:
            end_sessions(user)

    async def ask(self, user: str, message: dict[str, str], seconds: float) -> str:
        """One request about `user` to the helper, one process there: "ok" or a key of NOTICES.

        Whatever goes wrong, or takes longer than `seconds`, waiting for its turn included, is "unavailable".
        """
        request = json.dumps(message).encode() + b"\n"
        turn = self._attempts if "password" in message else self._checks
        try:
            async with asyncio.timeout(seconds), turn:
                reader, writer = await asyncio.open_unix_connection(self.socket, limit=MAX_ANSWER_BYTES)
                try:
                    writer.write(request)
                    await writer.drain()
                    answer = json.loads(await reader.readline())
                finally:
                    writer.close()
            result, about = str(answer["result"]), answer["user"]
        except (OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self.log.error("Login helper %s: %s %s", self.socket, type(error).__name__, error)
            return "unavailable"
        if result == "ok" and about == user:
            return "ok"
        return result if result in NOTICES else "unavailable"


def end_sessions(user: HubUser) -> None:
    """Make the login cookies and tokens of a user worthless, so that none of them revives with the account.

    The tokens that the user's servers hold stay: with the account they are refused, and good again when it is good.
    """
    servers = {getattr(spawner, "token_id", 0) for spawner in user.spawners.values()}
    session = object_session(user.orm_user)
    if session is None:
        return
    user.orm_user.cookie_id = orm.new_token()
    for record in (*user.orm_user.api_tokens, *user.orm_user.oauth_codes):
        if not isinstance(record, orm.APIToken) or record.id not in servers:
            session.delete(record)
    session.commit()


def client_address(handler: web.RequestHandler) -> str:
    """The browser's address as hpchub.hub.peers has found it, "" if there is none."""
    try:
        return str(ipaddress.ip_address(str(handler.request.remote_ip)))
    except ValueError:
        return ""
