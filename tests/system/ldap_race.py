"""Runs on the login node as the hub's user: one code in eight sign-ins at once, again and again, at the test directory.

usage: ldap_race.py < {"server", "unit", "users": {name: {"pin", "token"}}, "admin", "rounds"}. Below ou=people codes go
by time, and the directory is made to forget between rounds that one was used; below ou=counters they go by number.
Prints how many rounds ended with how many successes, as JSON.
"""

import asyncio
import hmac
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import ldap3

from hpchub.login.base import LoginRefused
from hpchub.login.ldap import LdapAuthenticator, VerifiedTls
from hpchub.login.throttle import Attempt, Throttle
from hpchub.settings import Ldap

CA_FILE = "/etc/ssl/certs/test-directory.pem"
AT_ONCE = 8
STEP = 30
HANDLER = SimpleNamespace(request=SimpleNamespace(remote_ip=""))


class NoThrottle(Throttle):
    """Lets all eight come through, which the hub's own does not."""

    @contextmanager
    def attempt(self, account: str, address: str) -> Iterator[Attempt]:
        yield Attempt()


def code(token: str, number: int) -> str:
    """HOTP, RFC 4226 section 5.3."""
    digest = hmac.digest(bytes.fromhex(token), number.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0xF
    return str((int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF) % 10**6).zfill(6)


def next_number(admin: ldap3.Connection, dn: str) -> int:
    """The number of a code that the directory would take now."""
    if ",ou=counters," in dn:
        admin.search(dn, "(objectClass=*)", ldap3.BASE, attributes=["oathHOTPCounter"])
        return int(admin.entries[0].oathHOTPCounter.value) + 1
    for attribute in ("oathTOTPLastTimeStep", "oathTOTPTimeStepDrift"):
        admin.modify(dn, {attribute: [(ldap3.MODIFY_DELETE, [])]})  # there may be none
    return int(time.time()) // STEP


async def succeeds(authenticator: LdapAuthenticator, user: str, secret: str) -> bool:
    try:
        return await authenticator.authenticate(HANDLER, {"username": user, "password": secret}) == user
    except LoginRefused as refusal:
        if refusal.status_code != 403:  # an outage proves nothing
            raise
        return False


async def main() -> None:
    asked = json.load(sys.stdin)
    host, _, port = asked["server"].removeprefix("ldaps://").partition(":")
    server = ldap3.Server(host, int(port or 636), use_ssl=True, tls=VerifiedTls(CA_FILE), get_info=ldap3.NONE)
    admin = ldap3.Connection(server, "cn=admin,dc=example,dc=org", asked["admin"], auto_bind=True)
    template = f"uid={{username}},ou={asked['unit']},dc=example,dc=org"
    authenticator = LdapAuthenticator(
        ldap=Ldap(servers=(asked["server"],), ca_file=CA_FILE, bind_dn=template, timeout_seconds=30),
        throttle=NoThrottle(),
    )
    rounds: Counter[int] = Counter()
    users = list(asked["users"].items())

    async def one(user: str, of: dict[str, str]) -> None:
        secret = of["pin"] + code(of["token"], next_number(admin, template.format(username=user)))
        rounds[sum(await asyncio.gather(*(succeeds(authenticator, user, secret) for _ in range(AT_ONCE))))] += 1

    for first in range(0, asked["rounds"], len(users)):
        await asyncio.gather(*(one(*user) for user in users[: asked["rounds"] - first]))
    print(json.dumps(rounds))


asyncio.run(main())
