"""One PAM conversation: one secret for one echo-off prompt, then the account check; or the account check alone.

Constants and structures are those of Linux-PAM's <security/_pam_types.h> and <security/pam_appl.h>.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TypeAlias

PAM_SUCCESS = 0
PAM_SYSTEM_ERR = 4
PAM_BUF_ERR = 5
PAM_PERM_DENIED = 6
PAM_AUTH_ERR = 7
PAM_CRED_INSUFFICIENT = 8
PAM_AUTHINFO_UNAVAIL = 9
PAM_USER_UNKNOWN = 10
PAM_MAXTRIES = 11
PAM_NEW_AUTHTOK_REQD = 12
PAM_ACCT_EXPIRED = 13
PAM_CONV_ERR = 19
PAM_AUTHTOK_EXPIRED = 27

_PROMPT_ECHO_OFF, _PROMPT_ECHO_ON, _ERROR_MSG, _TEXT_INFO = 1, 2, 3, 4
_ITEM_USER, _ITEM_TTY, _ITEM_RHOST = 2, 3, 4
_DISALLOW_NULL_AUTHTOK = 1
MAX_SECRET_BYTES = 511  # PAM_MAX_RESP_SIZE is 512 with the closing NUL
_MAX_MESSAGES = 16


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("answer", ctypes.c_void_p), ("retcode", ctypes.c_int))


_CONVERSE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.POINTER(_Response)),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _CONVERSE), ("data", ctypes.c_void_p))


@dataclass
class Outcome:
    """What PAM did. `stage` is where it ended: start, authenticate, account; `code` is PAM's own return code.

    `asked` counts echo-off prompts, `refused` names the first prompt that was not answered ("" if none),
    `messages` are the modules' texts for the person who signs in.
    """

    stage: str = "start"
    code: int = PAM_SYSTEM_ERR
    asked: int = 0
    refused: str = ""
    messages: list[str] = field(default_factory=list)


def wipe(secret: bytearray) -> None:
    """Overwrite a secret in place."""
    for index in range(len(secret)):
        secret[index] = 0


_Messages: TypeAlias = "ctypes._Pointer[ctypes._Pointer[_Message]]"
_Responses: TypeAlias = "ctypes._Pointer[ctypes._Pointer[_Response]]"


class _Libc:
    """malloc family of the process: PAM frees the answers, so they must come from there."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.calloc = library.calloc
        self.calloc.restype = ctypes.c_void_p
        self.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self.free = library.free
        self.free.restype = None
        self.free.argtypes = (ctypes.c_void_p,)


def _converse(
    libc: _Libc, outcome: Outcome, secret: bytearray | None, count: int, messages: _Messages, responses: _Responses
) -> int:
    """Answer one round of prompts; nothing is handed over unless the whole round is acceptable.

    Without a secret every prompt is refused.
    """
    wants_secret = -1
    for index in range(count):
        message = messages[index].contents
        if message.style in (_TEXT_INFO, _ERROR_MSG):
            if len(outcome.messages) < _MAX_MESSAGES:
                outcome.messages.append((message.text or b"").decode("utf-8", "replace"))
            continue
        if message.style != _PROMPT_ECHO_OFF:
            further = outcome.asked > 0 and secret is not None
            outcome.refused = outcome.refused or ("second prompt" if further else "echo-on prompt")
            return PAM_CONV_ERR
        outcome.asked += 1
        if outcome.asked > 1 or secret is None:
            outcome.refused = outcome.refused or ("second prompt" if secret is not None else "prompt")
            return PAM_CONV_ERR
        wants_secret = index
    if count < 1:
        return PAM_CONV_ERR
    array = libc.calloc(count, ctypes.sizeof(_Response))
    if not array:
        return PAM_BUF_ERR
    answers = ctypes.cast(array, ctypes.POINTER(_Response))
    if wants_secret >= 0 and secret is not None:
        answer = libc.calloc(len(secret) + 1, 1)
        if not answer:
            libc.free(array)
            return PAM_BUF_ERR
        source = (ctypes.c_char * len(secret)).from_buffer(secret)
        ctypes.memmove(answer, source, len(secret))
        answers[wants_secret].answer = answer
    responses[0] = answers
    return PAM_SUCCESS


def _load() -> ctypes.CDLL:
    # global, because a module that is not linked to libpam itself finds its symbols only so
    library = ctypes.CDLL("libpam.so.0", mode=ctypes.RTLD_GLOBAL)
    handle = ctypes.c_void_p
    library.pam_start.argtypes = (
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.POINTER(_Conversation),
        ctypes.POINTER(handle),
    )
    library.pam_set_item.argtypes = (handle, ctypes.c_int, ctypes.c_char_p)
    library.pam_get_item.argtypes = (handle, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
    for name in ("pam_authenticate", "pam_acct_mgmt", "pam_end"):
        getattr(library, name).argtypes = (handle, ctypes.c_int)
    return library


def _start(
    library: ctypes.CDLL, conversation: _Conversation, service: str, user: str, rhost: str
) -> tuple[ctypes.c_void_p, int]:
    handle = ctypes.c_void_p()
    code = int(library.pam_start(service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle)))
    for item, value in ((_ITEM_TTY, "hpchub"), (_ITEM_RHOST, rhost)):
        if code == PAM_SUCCESS and value:
            code = int(library.pam_set_item(handle, item, value.encode()))
    return handle, code


def _user(library: ctypes.CDLL, handle: ctypes.c_void_p) -> bytes | None:
    name = ctypes.c_char_p()
    library.pam_get_item(handle, _ITEM_USER, ctypes.byref(name))
    return name.value


def check(service: str, user: str, secret: bytearray | None, rhost: str) -> Outcome:
    """Run authenticate and account of one PAM service for one user; wipes `secret` before it returns.

    `secret` has 1 to MAX_SECRET_BYTES bytes without NUL; with None only account is run, and no prompt is answered.
    `rhost` is the client's address, "" if not known.
    Success is `stage == "account" and code == PAM_SUCCESS`; the caller judges `asked` and `refused` besides.
    """
    outcome = Outcome()
    libc, library = _Libc(), _load()

    def converse(count: int, messages: _Messages, responses: _Responses, _data: int | None) -> int:
        # An exception would leave ctypes returning 0, which PAM reads as success.
        try:
            return _converse(libc, outcome, secret, count, messages, responses)
        except Exception:
            outcome.refused = outcome.refused or "conversation error"
            return PAM_CONV_ERR

    conversation = _Conversation(_CONVERSE(converse), None)
    handle, outcome.code = _start(library, conversation, service, user, rhost)
    try:
        if outcome.code == PAM_SUCCESS and secret is not None:
            outcome.stage = "authenticate"
            outcome.code = library.pam_authenticate(handle, _DISALLOW_NULL_AUTHTOK)
        if outcome.code == PAM_SUCCESS:
            outcome.stage = "account"
            outcome.code = library.pam_acct_mgmt(handle, _DISALLOW_NULL_AUTHTOK)
        if outcome.code == PAM_SUCCESS and _user(library, handle) != user.encode():
            outcome.refused = outcome.refused or "module changed the user"
        return outcome
    finally:
        if handle:
            library.pam_end(handle, outcome.code)
        if secret is not None:
            wipe(secret)
