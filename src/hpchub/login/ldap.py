"""Sign in by a bind at an LDAP directory that verifies PIN and code.

Upstream's LDAPAuthenticator finds the DN, escapes what people type and looks into groups. How to connect, in which
order, how long to wait and what an error means is ours: there, upstream believes any certificate, follows referrals
with the secret, waits for ever, and blocks the hub while it does.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

import ldap3  # type: ignore[import-untyped]  # upstream has no types
from ldap3.core import results  # type: ignore[import-untyped]  # upstream has no types
from ldap3.core.exceptions import LDAPOperationResult, LDAPStartTLSError  # type: ignore[import-untyped]  # as above
from ldap3.core.tls import Tls  # type: ignore[import-untyped]  # upstream has no types
from ldapauthenticator import LDAPAuthenticator  # type: ignore[import-untyped]  # upstream has no types
from traitlets import Instance, Unicode

from hpchub.login.base import ACCOUNT_SECONDS, HpcAuthenticator
from hpchub.settings import Ldap

THREADS = 16
"""How many binds run at once; further ones wait for a thread, and the hub's other pages for none of them."""
ASIDE_SECONDS = 60.0
"""For how long a server that could not be reached is asked last, or every sign-in would wait for it first."""
REFUSAL_SECONDS = 1.0
"""No refusal is quicker, so that its time does not tell whether the directory knows the name."""
NAME = r"[a-z0-9_][a-z0-9._-]*\Z"
"""Names that a directory is asked about: it takes others for one of these. The helper has the site's own pattern."""
REFUSED = (
    results.RESULT_INVALID_CREDENTIALS,
    results.RESULT_INAPPROPRIATE_AUTHENTICATION,
    results.RESULT_NO_SUCH_OBJECT,
    results.RESULT_INSUFFICIENT_ACCESS_RIGHTS,
    results.RESULT_CONSTRAINT_VIOLATION,  # too many failures, or
    results.RESULT_UNWILLING_TO_PERFORM,  # a disabled account; said before the secret was looked at, so not told
)
"""What a bind that was judged is answered with. Every other answer but success says nothing about the secret."""


class VerifiedTls(Tls):  # type: ignore[misc]  # upstream has no types
    """TLS by a context that checks certificate and host name itself; ldap3's own has neither on."""

    def __init__(self, ca_file: str) -> None:
        """Trust what `ca_file` says and nothing else. Raises OSError, of which SSLError is one."""
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = ssl.create_default_context(cafile=ca_file)

    def wrap_socket(self, connection: ldap3.Connection, do_handshake: bool = False) -> None:
        """Make the connection's socket one of TLS; raises ssl.SSLError."""
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class Directory(LDAPAuthenticator):  # type: ignore[misc]  # upstream has no types
    """One attempt of one person at one server; use it once, in a thread, and close it."""

    def __init__(self, ldap: Ldap, url: str, lookup_password: str, deadline: float) -> None:
        """`deadline` is on the monotonic clock, in seconds; the person's secret is not sent after it."""
        names = {"bind_dn_template": ldap.bind_dn} if ldap.bind_dn else {"lookup_dn": True}
        super().__init__(
            **names,
            user_search_base=ldap.search_base,
            user_attribute=ldap.search_attribute,
            lookup_dn_user_dn_attribute=ldap.search_attribute,
            lookup_dn_search_user=ldap.lookup_dn or None,
            lookup_dn_search_password=lookup_password or None,
            allowed_groups=list(ldap.allowed_groups),
            valid_username_regex=NAME,
        )
        self._ldap, self._url, self._deadline = ldap, url, deadline
        self._looking_up = False
        self._connections: list[ldap3.Connection] = []
        self.secret_sent = False

    def resolve_username(self, username_supplied_by_user: str) -> tuple[str | None, str | None]:
        """The person's name and DN, found by the lookup account, or None twice. Raises as get_connection."""
        self._looking_up = True
        try:
            found: tuple[str | None, str | None] = super().resolve_username(username_supplied_by_user)
            return found
        finally:
            self._looking_up = False

    def get_connection(self, userdn: str | None, password: str | None) -> ldap3.Connection | None:
        """A connection bound as `userdn`, or None if the server refuses the person's secret.

        Raises LDAPException or OSError for all else, a refused lookup account too; `secret_sent` tells what of it.
        """
        connection = self._connect(userdn, password)
        self._seconds()
        self.secret_sent = not self._looking_up
        if connection.bind(read_server_info=False):
            return connection
        if connection.result["result"] in REFUSED:
            self.log.warning("LDAP server %s refuses %r: %s", self._url, userdn, said(connection.result))
            return None
        raise LDAPOperationResult(**{key: connection.result[key] for key in ("result", "description", "message")})

    def _connect(self, userdn: str | None, password: str | None) -> ldap3.Connection:
        """An open connection under TLS, on which nothing was sent yet."""
        scheme, _, place = self._url.partition("://")
        host, _, port = place.partition(":")
        server = ldap3.Server(
            host,
            port=int(port) if port else None,
            use_ssl=scheme == "ldaps",
            tls=VerifiedTls(self._ldap.ca_file),
            get_info=ldap3.NONE,
            connect_timeout=self._seconds(),
        )
        connection = ldap3.Connection(
            server,
            user=userdn,
            password=password.encode() if password else None,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            read_only=True,
            receive_timeout=self._seconds(),
            raise_exceptions=self._looking_up,
        )
        self._connections.append(connection)
        connection.open(read_server_info=False)
        if not server.ssl:
            connection.start_tls(read_server_info=False)
        if connection.closed or not isinstance(connection.socket, ssl.SSLSocket):
            raise LDAPStartTLSError("no TLS")  # a bind would open a closed connection again, without TLS
        return connection

    def _seconds(self) -> int:
        """For how long the next step may wait, in ldap3's whole seconds. Raises TimeoutError if no time is left."""
        left = int(min(self._ldap.timeout_seconds, self._deadline - time.monotonic()))
        if left < 1:
            raise TimeoutError("no time left")
        return left

    def close(self) -> None:
        """Close what is open, without another word to the server."""
        for connection in self._connections:
            connection.strategy.close()


class LdapAuthenticator(HpcAuthenticator):
    """Binds as the person, once an attempt, then asks the login helper whether the account is good on this host."""

    ldap = Instance(Ldap, config=True, help="Servers, names and groups.")
    lookup_password = Unicode("", config=True, help="The secret of the account that looks for people's entries.")

    def __init__(self, **kwargs: object) -> None:
        """As all authenticators are made."""
        super().__init__(**kwargs)
        self._threads = ThreadPoolExecutor(THREADS, "ldap")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._aside: dict[str, float] = {}

    async def verify(self, user: str, secret: str, address: str) -> str:
        """The directory's word about the secret, then the helper's about the account."""
        started = time.monotonic()
        result = await self._bind(user, secret, started + self.timeout_seconds - ACCOUNT_SECONDS)
        if result == "ok":
            result = await self.ask(user, {"account": user}, ACCOUNT_SECONDS)
        if result not in ("ok", "unavailable"):
            await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
        return result

    async def _bind(self, user: str, secret: str, deadline: float) -> str:
        """One attempt in a thread, after the earlier ones of the same user, and a word about it by the deadline."""
        # slapo-otp judges a code before it notes it as used: two binds at once could both succeed with one code.
        turn = self._turns.setdefault(user, asyncio.Lock())

        async def alone() -> str:
            async with turn:  # until the thread is done, however long the person has waited
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._attempt, user, secret, deadline)

        attempt = asyncio.ensure_future(alone())
        try:
            return await asyncio.wait_for(asyncio.shield(attempt), deadline - time.monotonic())
        except TimeoutError:
            self.log.error("LDAP: no word about %r in time", user)
            return "unavailable"

    def _attempt(self, user: str, secret: str, deadline: float) -> str:
        """Ask the servers in order, until one has an answer."""
        for url in self._in_order():
            directory = Directory(self.ldap, url, self.lookup_password, deadline)
            try:
                model = asyncio.run(directory.authenticate(None, {"username": user, "password": secret}))
            except Exception as error:
                self.log.error("LDAP server %s: %s: %s", url, type(error).__name__, " ".join(str(error).split()))
                self._aside[url] = time.monotonic()
                if directory.secret_sent:
                    # It may have used up the code. A second server that does not know yet would take it again, and one
                    # that does would count a failure against the person.
                    return "unavailable"
                continue
            finally:
                directory.close()
            return self._judge(user, model)
        return "unavailable"

    def _in_order(self) -> list[str]:
        """The servers as the site lists them, but last those that could not be reached a moment ago."""
        since = time.monotonic() - ASIDE_SECONDS
        return sorted(self.ldap.servers, key=lambda url: self._aside.get(url, since) > since)

    def _judge(self, user: str, model: dict[str, dict[str, list[str]]] | None) -> str:
        """What upstream's answer means: None for a refusal, else the groups in "auth_state"."""
        if model is None:
            return "denied"
        if self.ldap.allowed_groups and not model["auth_state"]["ldap_groups"]:
            self.log.warning("LDAP: %r is in none of the allowed groups", user)
            return "locked"
        return "ok"


def said(result: dict[str, str]) -> str:
    """A server's answer for the log: bounded, on one line."""
    return " ".join(f"{result['description']} {result['message']}".split())[:200]
