"""Files of a user's own: where a site's patterns lead, directories that nobody else can take, and ends of logs."""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from pathlib import Path

LOG_LINES, LOG_BYTES = 40, 8 * 1024
PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def user_path(pattern: str, account: pwd.struct_passwd) -> str:
    """A path that a site has written with {home} and {user}, as it is for this user."""
    return pattern.replace("{home}", account.pw_dir).replace("{user}", account.pw_name)


def own_directory(pattern: str, account: pwd.struct_passwd) -> str:
    """The user's own directory for logs that a site has written with {home} and {user}, made private if need be.

    What stands above the home, or above the first part with {user}, is the site's. From there on nobody else may own a
    part: where all may write, a name belongs to whoever came first. Raises OSError about what is wrong.
    """
    directory = user_path(pattern, account)
    if not PLAIN_PATH.fullmatch(directory):  # a percent sign means something to one, a colon to another
        raise OSError(errno.EINVAL, "its name has a character that the batch system takes for its own", directory)
    path = Path(directory)
    above = Path(account.pw_dir if pattern.startswith("{home}") else pattern.partition("{")[0].rpartition("/")[0])
    for part in [*reversed(path.parents), path][len(above.parts) :]:
        try:
            part.mkdir(mode=0o700)
        except OSError:
            if not os.path.lexists(part):
                raise
        for look in (part.lstat, part.stat):  # the link, then what it leads to
            status = look()
            if status.st_uid not in (0, os.getuid()):
                raise PermissionError(errno.EPERM, "it belongs to somebody else", str(part))
            if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o1002 == 0o002:
                raise PermissionError(errno.EPERM, "everybody may change it", str(part))
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it is not a directory of the user's own", directory)
    return directory


def last_lines(data: bytes) -> str:
    """The end of a log as plain text: bounded, without control characters, whatever it holds."""
    text = _TERMINAL.sub("", data[-LOG_BYTES:].decode("utf-8", "replace"))
    plain = "".join(character if character.isprintable() or character in "\n\t" else " " for character in text)
    return "\n".join(plain.rstrip().split("\n")[-LOG_LINES:])
