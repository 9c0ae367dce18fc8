"""The variables of what runs in a job: the job's own and the account's."""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Mapping

from hpchub.scheduler.dialect import Dialect


def job_environment(
    dialect: Dialect, account: pwd.struct_passwd, inherited: Mapping[str, str], programs: Iterable[str]
) -> dict[str, str]:
    """Give the variables of a process in a job, for all that it starts.

    `inherited` are the job's own, and `programs` the directories of PATH, the first ones first; "" is none.
    """
    variables = {
        "LANG": "C.UTF-8",
        "SHELL": account.pw_shell or "/bin/sh",
        **inherited,
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "PATH": ":".join(dict.fromkeys(filter(None, programs))),
    }
    return {name: value for name, value in variables.items() if name not in dialect.variables.leaking}
