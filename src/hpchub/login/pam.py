"""Sign in as PAM says, which the root login helper asks."""

from __future__ import annotations

from hpchub.login.base import HpcAuthenticator


class PamAuthenticator(HpcAuthenticator):
    """Passes user name, secret and client address to the login helper."""

    async def verify(self, user: str, secret: str, address: str) -> str:
        """The helper's word: it checks the account in the same process, right after the secret."""
        message = {"user": user, "password": secret, "rhost": address}
        return await self.ask(user, message, self.timeout_seconds)
