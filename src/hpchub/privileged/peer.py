"""Who is at the other end of a unix socket."""

from __future__ import annotations

import socket
import struct


def peer_uid(connection: socket.socket) -> int:
    """uid of the process that connected, as the kernel recorded it."""
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
