"""An HTTP server that answers the user it runs as, and nobody else.

TCP has no users, but the kernel knows whose each socket of this host is, and tells: see sock_diag(7). So a connection
is of this user, or of another one, or from another host. Asking takes the same time on a busy node.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
ANY = 0xFFFFFFFF
ESTABLISHED = 1
NOBODY = 65534  # whoever has no number in this user namespace, of whom there may be many

REFUSAL = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This page is for the user who runs it. If that is you, open it through JupyterLab on this node.\n"
)


def _ip(host: str) -> IPv4Address | IPv6Address:
    ip = ip_address(host)
    return getattr(ip, "ipv4_mapped", None) or ip  # as a server for both kinds sees IPv4


def owner(peer: tuple[Any, ...], here: tuple[Any, ...]) -> int | None:
    """Give the uid of who connected from `peer` to `here`, each an address and a port.

    None if nobody on this host did, or does no longer. Raises ValueError, OSError if that is no TCP connection.
    """
    source, target = _ip(peer[0]), _ip(here[0])
    request = struct.pack("=BBxxI", socket.AF_INET if source.version == 4 else socket.AF_INET6, socket.IPPROTO_TCP, ANY)
    request += struct.pack("!HH16s16s", peer[1], here[1], source.packed, target.packed)
    request += struct.pack("=III", 0, ANY, ANY)  # any interface, no cookie
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0) + request)
        answer = kernel.recv(4096, socket.MSG_DONTWAIT)  # the kernel answers before send returns
    (kind,) = struct.unpack_from("=4xH", answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        return None
    state, uid = struct.unpack_from("=17xB62xI", answer)
    return uid if state == ESTABLISHED else None  # a socket that is closed may be shown as root's


class OwnersServer(HTTPServer):
    """Refuses every connection that is not of its own user, before anything is read. root is no exception.

    Where the user namespace has no number for this process, everybody is refused.
    """

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve the owner; tell anybody else whose page it is."""
        try:
            visitor = owner(address, stream.socket.getsockname())
        except (OSError, ValueError):
            visitor = None
        if visitor == os.getuid() != NOBODY:
            super().handle_stream(stream, address)
        else:
            stream.write(REFUSAL)
            stream.close()
