"""Signing in on the hub's own host alone, a session that ends when it should, and signing out for good."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from jupyterhub import orm  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.apihandlers.auth import OAuthAuthorizeHandler  # type: ignore[import-untyped]  # same
from jupyterhub.handlers.base import BaseHandler  # type: ignore[import-untyped]  # upstream has no types
from jupyterhub.handlers.login import LoginHandler, LogoutHandler  # type: ignore[import-untyped]  # same
from jupyterhub.utils import maybe_future  # type: ignore[import-untyped]  # upstream has no types
from sqlalchemy import Column, Float, Unicode, event

DAY_SECONDS = 24 * 3600


class SignedOut(orm.Base):  # type: ignore[misc]  # upstream has no types
    """A login cookie that was signed out before its time, a table of ours in JupyterHub's database.

    JupyterHub asks the browser to forget its cookie and no more: a copy would be good until it expires.
    """

    __tablename__ = "hpchub_signed_out"
    digest = Column(Unicode(64), primary_key=True)
    until = Column(Float, nullable=False)


def digest(handler: BaseHandler) -> str:
    """Of the login cookie of a request. It holds the second of the sign-in, so another browser's is another."""
    return hashlib.sha256((handler.get_cookie(handler.hub.cookie_name) or "").encode()).hexdigest()


_by_cookie = BaseHandler.get_current_user_cookie


def get_current_user_cookie(handler: BaseHandler) -> Any:  # noqa: ANN401 - upstream has no types
    """Who the login cookie says, None for one that was signed out. JupyterHub has no hook between the two."""
    return None if handler.db.get(SignedOut, digest(handler)) else _by_cookie(handler)


BaseHandler.get_current_user_cookie = get_current_user_cookie


ENDS: dict[str, float] = {}
"""When each browser session ends, in seconds since 1970; filled in right before a Lab gets its token for it."""


@event.listens_for(orm.APIToken.expires_at, "set", retval=True)
def end_with_the_session(token: orm.APIToken, expires: datetime | None, *_more: object) -> datetime | None:
    """Let a Lab's token for a visitor end with the visitor's session; JupyterHub would begin anew with each token."""
    end = ENDS.get(token.session_id or "")
    return (
        expires
        if end is None or expires is None
        else min(expires, datetime.fromtimestamp(end, UTC).replace(tzinfo=None))
    )


class Authorize(OAuthAuthorizeHandler):  # type: ignore[misc]  # upstream has no types
    """Where a Lab sends its visitor's browser to learn who it is."""

    def add_credentials(self, credentials: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As upstream, noting when the session ends: the login cookie, valid here, has the second of the sign-in."""
        known: dict[str, Any] = super().add_credentials(credentials)
        signed_in = int(self.get_cookie(self.hub.cookie_name).split("|")[2].partition(":")[2])  # tornado's format 2
        for session in [session for session, end in ENDS.items() if end < time.time()]:
            del ENDS[session]
        ENDS[known["session_id"]] = signed_in + self.cookie_max_age_days * DAY_SECONDS
        return known


class SignIn(LoginHandler):  # type: ignore[misc]  # upstream has no types
    """The login page. Under a user's own host name it would leave the visitor's login cookie to that user's Lab."""

    async def prepare(self) -> None:
        """Send whoever came by another host to the hub's own, before anything that was typed is looked at."""
        if self.subdomain_host and self.request.host_name.lower() != self.domain.lower():
            self._jupyterhub_user = None  # asked for by JupyterHub's log
            self.redirect(urljoin(self.subdomain_host, self.request.uri))
        else:
            await maybe_future(super().prepare())


class SignOut(LogoutHandler):  # type: ignore[misc]  # upstream has no types
    """The way out."""

    async def handle_logout(self) -> None:
        """Remember the browser's login cookie until it has expired."""
        if self.current_user is None:
            return
        now = time.time()
        self.db.query(SignedOut).filter(SignedOut.until < now).delete()
        self.db.merge(SignedOut(digest=digest(self), until=now + self.cookie_max_age_days * DAY_SECONDS))
        self.db.commit()


ROUTES = [(r"/login", SignIn), (r"/logout", SignOut), (r"/api/oauth2/authorize", Authorize)]
