"""What preflight finds wrong with a login node, as sentences: hpchub.preflight, for Ansible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src"))
from hpchub.preflight import certificate, host, report


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {
            "preflight_limits": host.limits,
            "preflight_host": host.problems,
            "preflight_warnings": certificate.warnings,
            "preflight_report": report,
        }
