"""The command `hpchub VERB`, for users, administrators and systemd units."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hpchub.batch_runs.submit import BatchError, add_arguments, run
from hpchub.settings import SITE_FILE, SettingsError, load


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with sentences on standard error."""
    parser = argparse.ArgumentParser(
        prog="hpchub",
        description="Interactive supercomputing through JupyterHub: the service's and the users' commands.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="check a site.yml and list its errors")
    check.add_argument("file", type=Path)
    cull = verbs.add_parser("cull", help="run the service that stops idle servers (hpchub-culler.service)")
    cull.add_argument("--site", type=Path, default=SITE_FILE)
    hub = verbs.add_parser("hub", help="run the hub (hpchub.service)")
    hub.add_argument("--site", type=Path, default=SITE_FILE)
    batch = verbs.add_parser("batch", help="run a notebook as a batch job with Dask workers, and save its results")
    add_arguments(batch)
    if find_spec("distributed"):  # a Lab's environment, not the hub's
        _dask(verbs)
    choice = parser.parse_args(argv)
    try:
        if choice.verb == "batch":
            run(choice)
        elif choice.verb == "dask":
            from hpchub.dask_jobs import cli

            return cli.main(choice)
        elif choice.verb == "check":
            load(choice.file)
        elif choice.verb == "cull":
            _cull(choice.site)
        else:
            _hub(choice.site)
    except (BatchError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _dask(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What people run in a terminal of their Lab, or by ssh."""
    verb = verbs.add_parser("dask", help="inspect the Dask configuration, explain missing workers, scale a cluster")
    verb.set_defaults(action="config", key="")
    actions = verb.add_subparsers(dest="action")
    config = actions.add_parser(
        "config", help="list each setting with the file or variable that it comes from (the default action)"
    )
    config.add_argument(
        "key", nargs="?", default="", help="list the settings that begin with KEY, Dask's own defaults too"
    )
    actions.add_parser("why", help="explain why workers of your running clusters are missing")
    scale = actions.add_parser("scale", help="set N workers, or adaptive scaling between MIN and MAX")
    scale.add_argument(
        "workers", nargs="+", type=int, metavar="N", help="the number of workers, or the minimum and the maximum"
    )
    scale.add_argument("--cluster", default="", help="the address of the Dask scheduler, if you have several clusters")


def _hub(site_file: Path) -> None:
    """JupyterHub in this process, with our configuration."""
    from hpchub.hub.app import CONFIG_FILE, JupyterHub

    load(site_file)
    os.environ["HPCHUB_SITE_FILE"] = str(site_file)
    JupyterHub.launch_instance(["--config", str(CONFIG_FILE)])


def _cull(site_file: Path) -> None:
    """The idle culler in this process. Its token goes into the environment here, where nobody can read it."""
    from jupyterhub_idle_culler import IdleCuller  # type: ignore[import-untyped]  # upstream has no types

    from hpchub.hub import credentials

    site = load(site_file)
    if not site.hub.idle_stop_minutes:
        raise SettingsError(f"{site_file}: hub.idle_stop_minutes is 0, so there is nothing to do.")
    os.environ["JUPYTERHUB_API_TOKEN"] = credentials.secret("culler-token")
    given = credentials.directory()
    # Names of the culler's own; systemd knows no directories in a unit's credentials.
    certificates = Path(tempfile.mkdtemp())
    for name, file in {
        "hub-internal/hub-internal.key": "culler.key",
        "hub-internal/hub-internal.crt": "culler.pem",
        "hub-ca/hub-ca.crt": "services-ca.pem",
    }.items():
        (certificates / name).parent.mkdir(exist_ok=True)
        (certificates / name).symlink_to(given / file)
    IdleCuller.launch_instance(
        [
            f"--IdleCuller.url={site.hub.api_url}",
            "--IdleCuller.ssl_enabled=True",
            f"--IdleCuller.internal_certs_location={certificates}",
            "--IdleCuller.config_file=",
            f"--IdleCuller.timeout={site.hub.idle_stop_minutes * 60}",
            "--IdleCuller.concurrency=2",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
