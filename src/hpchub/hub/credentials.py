"""What systemd hands to a unit of ours: files that nobody else can read."""

from __future__ import annotations

import os
from pathlib import Path

from hpchub.settings import SettingsError


def directory() -> Path:
    """Where the credentials of this unit are; raises SettingsError."""
    path = os.environ.get("CREDENTIALS_DIRECTORY")
    if not path:
        raise SettingsError("CREDENTIALS_DIRECTORY is not set: start this program by its systemd unit.")
    return Path(path)


def text(name: str) -> str:
    """A credential that is text; raises SettingsError."""
    path = directory() / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The credential {name} cannot be read in {path.parent}.") from error


def secret(name: str, shortest: int = 32) -> str:
    """A credential that nobody shall guess, with so many characters at least; raises SettingsError."""
    value = text(name)
    if len(value) < shortest:
        raise SettingsError(f"The credential {name} is shorter than {shortest} characters.")
    return value
