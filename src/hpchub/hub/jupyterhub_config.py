"""JupyterHub's configuration: the site's file, handed to hpchub.hub.configure."""

import os
import sys

from hpchub.hub.configure import configure
from hpchub.settings import SITE_FILE, SettingsError, load

site_file = os.environ.get("HPCHUB_SITE_FILE", str(SITE_FILE))
try:
    configure(get_config(), load(site_file), site_file)  # type: ignore[name-defined]  # noqa: F821 - JupyterHub gives it
except SettingsError as error:
    sys.exit(str(error))
