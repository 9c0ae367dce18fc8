"""Who is at the other end of a connection to the hub's port, by its certificate, and what it may ask for.

Three kinds of certificate open a connection. The proxy's: it passes browsers on, so its word about a browser's address
counts. Those of the hub and the culler: they speak for themselves. A Lab's: it reaches what a Lab needs, nothing else.
Headers about addresses, hosts and schemes count from nobody else, and are gone before any handler sees the request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

from tornado import httputil, web
from tornado.http1connection import HTTP1Connection

FORWARDING = re.compile(
    r"x-forwarded-.*|forwarded|via|x-real-ip|x-scheme|x-url-scheme|x-proxyscheme|front-end-https|x-original-.*"
    r"|x-rewrite-url|(true|x|x-cluster|cf|fastly)-(client|connecting)-ip",
    re.IGNORECASE,
)
"""Headers by which a proxy speaks for others. files/proxy/preload.cjs takes the same ones out of what browsers send."""

SERVICES, PROXY = "hpchub services-ca", "hpchub proxy"
"""Common names of the services' authority and of the proxy's certificate, as the role internal_tls gives them."""

LABS_PATHS = re.compile(r"api/?|api/user|api/users/[^/]+/activity|api/oauth2/token|api/hpchub/port")
"""Below the hub's address: is the hub there, who is this user, a sign of life, a visitor's sign-in, the Lab's port."""

LARGEST_BODY_BYTES, BODY_SECONDS = 64 * 1024, 30.0
"""Of a request to the hub. The largest form has less than 8 KiB; tornado would keep 100 MiB of an upload in memory."""


class Peer(Enum):
    """The other end of a connection."""

    PROXY = "proxy"
    SERVICE = "service"
    LAB = "lab"


def peer_of(certificate: Mapping[str, Any] | None) -> Peer:
    """Whose certificate this is, as `ssl.SSLSocket.getpeercert` gives it. Whatever is not known counts as a Lab's.

    TLS has checked who signed it; of our two authorities only the services' one has this name.
    """
    given = certificate or {}

    def name_of(what: str) -> str:
        pairs = (pair for part in given.get(what, ()) for pair in part)
        return next((value for key, value in pairs if key == "commonName"), "")

    if name_of("issuer") != SERVICES:
        return Peer.LAB
    return Peer.PROXY if name_of("subject") == PROXY else Peer.SERVICE


def address_of(peer: Peer, address: str, forwarded: str) -> str:
    """The address of whoever asks: by the proxy's word, which comes last in X-Forwarded-For, or else the peer's own."""
    told = forwarded.rpartition(",")[2].strip() if peer is Peer.PROXY else ""
    try:
        return str(ipaddress.ip_address(told))
    except ValueError:
        return address


class Closed(web.RequestHandler):
    """What a Lab finds where it has no business."""

    def prepare(self) -> None:
        """Refuse every method."""
        raise web.HTTPError(403, "a Lab's certificate opens nothing here")


class Application(web.Application):
    """JupyterHub's application, which knows its peers."""

    def find_handler(self, request: httputil.HTTPServerRequest, **kwargs: Any) -> Any:  # noqa: ANN401 - as upstream
        """As upstream, once it is clear who asks; what is not for a Lab is closed to it."""
        peer = self._introduce(request)
        connection = cast(HTTP1Connection, request.connection)
        connection.set_max_body_size(LARGEST_BODY_BYTES)
        connection.set_body_timeout(BODY_SECONDS)
        below = request.path.removeprefix(self.settings["hub"].base_url)
        if peer is Peer.LAB and not LABS_PATHS.fullmatch(below):
            return self.get_handler_delegate(request, Closed)
        return super().find_handler(request, **kwargs)

    def _introduce(self, request: httputil.HTTPServerRequest) -> Peer:
        """Set the request's address and scheme from what is known, and take out what anybody has claimed."""
        peer = peer_of(request.get_ssl_certificate() or {})  # type: ignore[arg-type]  # a mapping, as we ask for no bytes
        context: Any = cast(HTTP1Connection, request.connection).context
        forwarded = ",".join(request.headers.get_list("X-Forwarded-For"))
        request.remote_ip = address_of(peer, str(context.address[0]), forwarded)
        request.protocol = "https"
        for name in [name for name in request.headers if FORWARDING.fullmatch(name)]:
            del request.headers[name]
        return peer
