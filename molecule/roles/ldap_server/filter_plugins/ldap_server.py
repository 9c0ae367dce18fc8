"""Tokens as a directory wants them."""

from __future__ import annotations

import base64
from collections.abc import Callable


def ldap_server_base64(digits: str) -> str:
    """Return bytes written as hexadecimal digits in base64, for a line of LDIF."""
    return base64.b64encode(bytes.fromhex(digits)).decode()


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Return the filters of this file."""
        return {"ldap_server_base64": ldap_server_base64}
