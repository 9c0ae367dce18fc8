"""What this role has to know of a batch system, from hpchub's own table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).parents[3] / "src"))
from hpchub.scheduler.registry import dialect


def set_uid_client(scheduler: str) -> bool:
    """Return whether the commands of the batch system prove who asks by a set-uid program."""
    try:
        return dialect(scheduler).set_uid_client
    except ValueError as error:
        raise AnsibleFilterError(f"hpc_scheduler: {error}.") from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., bool]]:
        """Return the filters of this file."""
        return {"jupyterhub_spawner_set_uid_client": set_uid_client}
