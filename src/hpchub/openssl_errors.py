"""Keeps one failed TLS connection from breaking the others of its thread.

From OpenSSL 3.4 on, a write to a dead peer leaves an errno in the thread's error queue, and CPython raises OSError
without emptying it (python/cpython#148594); the next read of a healthy connection that merely has to wait then reports
that errno. Here every OSError of that kind empties the queue on its way out. Loaded by hpchub_guards.pth.

Required: a Python whose ssl module it does not fit does not start. An ImportError would not do, for Python then prints
it, leaves out the rest of hpchub_guards.pth, and goes on without any guard.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_METHODS = ("read", "write", "send", "do_handshake", "unwrap")
_MARK = "__hpchub_tls_guard__"


def needed() -> bool:
    """Whether this interpreter's OpenSSL records errnos in the error queue (3.4 and later).

    No release of CPython empties it: the issue is open, for 3.13 to 3.15 too.
    """
    return ssl.OPENSSL_VERSION_INFO >= (3, 4)


def _clearer() -> Callable[[], object]:
    """The cheapest way to empty the calling thread's OpenSSL error queue."""
    try:
        import _ssl
        import ctypes

        clear: Callable[[], object] = ctypes.CDLL(_ssl.__file__).ERR_clear_error
    except (ImportError, OSError, AttributeError):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        def clear() -> None:
            # A refused cipher list ends in the one error path of CPython that does empty the queue.
            with contextlib.suppress(ssl.SSLError):
                context.set_ciphers("no-such-cipher")

    return clear


def _guarded(method: Callable[_P, _R], clear: Callable[[], object]) -> Callable[_P, _R]:
    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except ssl.SSLError:
            raise
        except OSError:
            clear()
            raise

    setattr(call, _MARK, True)
    return call


def install() -> None:
    """Wrap the methods of ssl.SSLSocket that talk to OpenSSL; does nothing where it is not needed or already done.

    Raises SystemExit where one of them is not there.
    """
    if not needed():
        return
    missing = [f"ssl.SSLSocket.{name}" for name in _METHODS if not callable(getattr(ssl.SSLSocket, name, None))]
    if missing:
        raise SystemExit(
            f"hpchub does not fit this Python: {', '.join(missing)} is not there, so one failed TLS connection would "
            "break others. Use the Python that hpchub came with."
        )
    clear = _clearer()
    for name in _METHODS:
        method = getattr(ssl.SSLSocket, name)
        if not hasattr(method, _MARK):
            setattr(ssl.SSLSocket, name, _guarded(method, clear))


install()
