"""jupyterhub-singleuser in this process: our port, our token handling, our defaults.

The hub's token comes in as configuration of HubAuth and never enters os.environ, so that no kernel, terminal or Dask
job can inherit it. The port was bound, and the hub told, before anything is started.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import ClassVar

from jupyter_server.serverapp import ServerApp
from jupyterhub.singleuser.extension import JupyterHubSingleUser  # type: ignore[import-untyped]  # upstream has no types
from traitlets.config import Config

from hpchub.lab.identity import Visitors


def defaults(home: str, token: str) -> Config:
    """What every Lab of the hub has; site files in <shared prefix>/etc/jupyter come on top."""
    config = Config()
    config.HubAuth.api_token = token
    config.HubAuth.cache_max_age = 60  # how long a visitor whom the hub no longer knows still comes in
    config.ServerApp.root_dir = "/"
    config.ServerApp.terminals_enabled = True
    config.FileContentsManager.preferred_dir = home
    config.KernelManager.transport = "ipc"
    config.LabApp.extension_manager = "readonly"
    config.LabApp.news_url = None
    config.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
    return config


class LabServer(ServerApp):
    """A Jupyter server on a socket that is already bound."""

    no_browser_open_file = True
    bound: ClassVar[socket.socket]

    @property
    def config_file_paths(self) -> list[str]:
        """Server settings are the site's alone; a user's kernels and Lab settings are found by other paths."""
        home = Path.home().resolve()
        paths: list[str] = super().config_file_paths
        return [path for path in paths if not Path(path).resolve().is_relative_to(home)]

    def server_info(self) -> dict[str, object]:
        """What `jupyter server list` reads from a file: without the token."""
        return {**super().server_info(), "token": ""}

    def _find_http_port(self) -> None:
        """The port is bound already."""

    def _bind_http_server_tcp(self) -> bool:
        self.bound.listen(128)
        self.http_server.add_socket(self.bound)
        return True


class Lab(JupyterHubSingleUser):  # type: ignore[misc]  # upstream has no types
    """The hub's own server extension, started on LabServer."""

    name = JupyterHubSingleUser.name
    serverapp_class = LabServer
    lab_config: ClassVar[Config]

    @classmethod
    def get_extension_package(cls) -> str:
        """Jupyter Server finds the extension by its package, and this module is it."""
        return __name__

    @classmethod
    def make_serverapp(cls, **kwargs: object) -> ServerApp:
        """The server, with our defaults below the site's files."""
        app: ServerApp = super().make_serverapp(config=cls.lab_config, **kwargs)
        return app

    def load_config_file(self) -> None:
        """As the hub's extension says, with our identity provider in place of its own."""
        super().load_config_file()
        self.serverapp.update_config(Config({"ServerApp": {"identity_provider_class": Visitors}}))


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    return [{"module": __name__, "app": Lab}]


def run(bound: socket.socket, token: str) -> int:
    """Serve until stopped; gives the exit status."""
    LabServer.bound = bound
    Lab.lab_config = defaults(os.environ["HOME"], token)
    # JupyterHub reads these for all cookies but _xsrf; a job from before an upgrade has none
    cookie_options = json.loads(os.environ.get("JUPYTERHUB_COOKIE_OPTIONS", "{}"))
    Lab.lab_config.ServerApp.tornado_settings = {"xsrf_cookie_kwargs": cookie_options}
    Lab.launch_instance(argv=[])
    return getattr(LabServer.instance(), "exit_code", 0)
