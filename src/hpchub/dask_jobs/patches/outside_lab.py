"""Dask outside of a Lab, by ssh or in a batch job: the site's files and the user's keys, as a Lab's session has them.

Nobody prepares a session there, so it is done when Dask is imported. A user's own settings win here too. Required: a
Dask that it does not fit is not imported, for without the site's files it would do without TLS.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from types import ModuleType

import yaml

from hpchub.dask_jobs import configuration
from hpchub.scheduler import registry

LINK = "distributed.dashboard.link"
HERE = "http://127.0.0.1:{port}/status"
"""Dashboards listen there alone."""


def change(config: ModuleType, prefix: str = sys.prefix) -> None:
    """Let `dask.config` read them first, unless a session is named that is still there."""
    site = Path(prefix).resolve().parents[1] / "etc/dask"
    session = os.environ.get("DASK_ROOT_CONFIG")
    if session and Path(session).is_dir():
        leave(config, session)
        return
    if not site.is_dir():
        return
    config.paths.insert(0, str(site))
    try:
        config.paths.insert(1, str(write(Path.home(), configuration.read_site(site))))
    except OSError as error:  # Dask then says that there is no certificate
        print(f"Dask has no key: {Path.home()} could not be written: {error.strerror}.", file=sys.stderr)
    config.refresh()


def leave(config: ModuleType, session: str) -> None:
    """Correct the link in a job that has the settings of the Lab it was submitted from, on a node of its own."""
    job = config.get("hpchub.session.job", "")
    if job in ("", registry.job_id(os.environ)):
        return
    if config.get(LINK) == config.get(LINK, config=config.collect([session], {})):
        config.set({LINK: HERE})


def write(home: Path, site: dict[str, bytes]) -> Path:
    """The directory with what only this user has, written anew. Raises OSError."""
    base = configuration.private_directory(home / ".local/share/hpchub/dask")
    directory = configuration.private_directory(base / "outside")
    settings = configuration.own_settings(str(configuration.key_directory(base, datetime.datetime.now(datetime.UTC))))
    settings["distributed"]["dashboard"] = {"link": HERE}
    logs = str(home / ".local/state/hpchub")
    settled = configuration.site_settings(site)
    scheduler = configuration.mapping(settled, "hpchub").get("scheduler")
    sections = {
        name: configuration.logging(scheduler, section, logs)
        for name, section in configuration.sections(settled).items()
    }
    fresh = directory / f".{os.getpid()}"
    fresh.write_text(yaml.safe_dump(settings | {"jobqueue": sections}), encoding="utf-8")
    fresh.replace(directory / "own.yaml")
    return directory
