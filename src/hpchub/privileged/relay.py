"""hpchub-jobs@.service: hands one request of the hub to the job program of one user.

fd 0 is the accepted connection of hpchub-jobs.socket. The first line is a user's name; what follows is for
/usr/local/libexec/hpchub-jobs, whose standard input and output the connection becomes. sudo's own rule says as whom it
may run. This process exists so that the hub's need not live where sudo can live.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys

from hpchub.privileged.peer import peer_uid

HUB_USER = "hpchub"
SUDO = "/usr/bin/sudo"
PROGRAM = "/usr/local/libexec/hpchub-jobs"
READ_SECONDS = 5
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # so no option of sudo, and no number of a user


class Refused(Exception):
    """The connection is closed without an answer; the text is for the journal."""


def read_name(connection: socket.socket) -> str:
    """The first line, byte by byte: what follows belongs to the job program. Raises Refused if it is no user's name."""
    connection.settimeout(READ_SECONDS)
    name = b""
    while len(name) <= 32:
        byte = connection.recv(1)
        if byte in (b"", b"\n"):
            break
        name += byte
    connection.settimeout(None)
    if byte != b"\n" or not USER_NAME.fullmatch(name.decode("ascii", "replace")):
        raise Refused("the first line is no user's name")
    return name.decode("ascii")


def command(connection: socket.socket) -> list[str]:
    """What answers this connection. Raises Refused, or OSError if nothing was asked in time."""
    uid = peer_uid(connection)
    if uid != pwd.getpwnam(HUB_USER).pw_uid:
        raise Refused(f"connection from uid {uid}")
    return [SUDO, "-n", "-u", read_name(connection), PROGRAM]


def main() -> int:
    """Entry point; gives an exit status only if nothing was run."""
    connection = socket.socket(fileno=os.dup(0))
    try:
        argv = command(connection)
    except (Refused, OSError, KeyError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    connection.setblocking(True)
    os.execv(argv[0], argv)  # noqa: S606 - an argument list, never a shell


if __name__ == "__main__":
    sys.exit(main())
