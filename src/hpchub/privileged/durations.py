"""Wall times as batch systems write and read them."""

from __future__ import annotations

import re


def hours(minutes: int) -> str:
    """Minutes as HH:MM:SS, with as many hours as it takes."""
    return f"{minutes // 60:02}:{minutes % 60:02}:00"


def of_days(text: str) -> float | None:
    """M, M:S, H:M:S, D-H, D-H:M or D-H:M:S in seconds; None for whatever else, as UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, *parts = (int(part) if part else 0 for part in match.groups())
    if match[1] is None and match[4] is None:  # minutes come first
        parts = [0, *parts[:2]]
    return days * 86400.0 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def of_hours(text: str) -> float | None:
    """S, M:S or H:M:S in seconds, which may have a fraction; None for whatever else."""
    if not re.fullmatch(r"\d+(:\d+){0,2}(\.\d+)?", text):
        return None
    return sum(float(part) * 60.0**power for power, part in enumerate(reversed(text.split(":"))))


def minutes(seconds: float | None) -> int | None:
    """Whole minutes of a duration that was read; None stays None."""
    return None if seconds is None else int(seconds // 60)
