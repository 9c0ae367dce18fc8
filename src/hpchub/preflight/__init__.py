"""What is wrong with an inventory and a login node, as sentences, before anything changes.

Runs on the controller. `inventory.judge` looks at the variables, `host.problems` at what the login node answered.
Nothing here knows Ansible: the role's plug-ins hand in what they are asked with.
"""

from __future__ import annotations

from collections.abc import Sequence


def report(problems: Sequence[str], inventory: str) -> str:
    """One numbered report; `inventory` is the name or the path of the inventory."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    lines = [f"{number}. {problem}" for number, problem in enumerate(problems, 1)]
    name = inventory.rstrip("/").rpartition("/")[2]
    return "\n".join([f"preflight found {count} in {name}:", "", *lines, "", "Nothing was changed."])
