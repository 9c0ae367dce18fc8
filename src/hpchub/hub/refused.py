"""A start that is refused, or fails, with a sentence for its user; and a log that shows no traceback for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from jupyterhub.spawner import SpawnException  # type: ignore[import-untyped]  # upstream has no types


class Refused(SpawnException):  # type: ignore[misc]  # SpawnException has no types
    """A start that did not happen, or failed, with a sentence for its user."""

    def __init__(
        self, message: str, reason: str, status_code: int = 400, errors: Mapping[str, str] | None = None
    ) -> None:
        """`reason` is one word for the metrics; `errors` has a sentence for each field of the form that is wrong."""
        super().__init__(message, reason=reason, status_code=status_code)
        self.jupyterhub_message = message
        self.errors = errors or {}

    def __str__(self) -> str:
        """The sentence alone, for wherever JupyterHub shows `str(exception)`."""
        return str(self.jupyterhub_message)


class QuietRefusals(logging.Filter):
    """A start that is refused is no defect: its line in the log has no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays; only the traceback of a refusal goes."""
        if record.exc_info and isinstance(record.exc_info[1], Refused):
            record.msg, record.args, record.exc_info = f"{record.getMessage()}: {record.exc_info[1]}", None, None
        return True
