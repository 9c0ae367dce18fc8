"""The start of the Lab: the port is told to the hub with the token, and the token stays out of every environment."""

from __future__ import annotations

import http.server
import json
import os
import pwd
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from hpchub.hub.internal_tls import Labs
from hpchub.lab import full_home, server, start
from hpchub.privileged.job_order import LabOrder

if TYPE_CHECKING:
    from conftest import Authority

ALICE = pwd.struct_passwd(("alice", "x", 2001, 2000, "", "/home/alice", "/bin/bash"))
ORDER = {
    "environment": {
        "JUPYTERHUB_API_TOKEN": "t0ken",
        "JUPYTERHUB_API_URL": "https://login1:8081/hub/api",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
        "JUPYTERHUB_PUBLIC_URL": "https://hub.example.org/user/alice/",
        "JUPYTERHUB_USER": "alice",
    },
    "tls": {"key": "k3y", "certificate": "c3rt", "authority": "auth"},
    "tag": "demo:0a1b2c3d:alice::n0nce",
    "shared_prefix": "/opt/hpchub",
    "scheduler": "slurm",
    "scheduler_prefix": "/opt/slurm/bin",
    "project": "climate",
    "queue": "regular",
    "reservation": None,
    "log_directory": "/home/alice/.local/state/hpchub",
}


def order() -> LabOrder:
    return start.read_order(json.dumps(ORDER))


class Hub:
    """A hub that answers the port callback with the statuses that it is given, the last one for ever.

    It takes connections from Labs alone, as the real one does.
    """

    def __init__(self, tls: ssl.SSLContext, *statuses: int) -> None:
        self.seen: list[tuple[str, str | None, object]] = []
        answers = list(statuses)
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.seen.append((self.path, self.headers["Authorization"], json.loads(body)))
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Location", "http://192.0.2.1/")
                self.end_headers()
                self.wfile.write(b'{"certificate": "signed"}')

            def log_message(self, *_args: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.server.server_address[1]}/hub/api/hpchub/port"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def hub_of(services: Authority, labs: Labs, tmp_path: Path) -> Callable[..., Hub]:
    """A hub by its statuses."""
    for name, text in zip(("hub.key", "hub.pem"), services.sign("localhost"), strict=True):
        (tmp_path / name).write_text(text)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=labs.certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(tmp_path / "hub.pem", tmp_path / "hub.key")
    return lambda *statuses: Hub(tls, *statuses)


@pytest.fixture
def calling(labs: Labs, tmp_path: Path) -> ssl.SSLContext:
    """What a job calls the hub with, from the files that it wrote."""
    pair = labs.caller("demo:alice::0f")
    tls = {"key": pair.key, "certificate": pair.certificate, "authority": labs.services}
    runtime = tmp_path / "runtime"
    runtime.mkdir(0o700)
    context = start.write_tls(start.read_order(json.dumps(ORDER | {"tls": tls})), str(runtime))
    assert {path.name: path.stat().st_mode & 0o777 for path in runtime.iterdir()} == {
        "tls.key": 0o600, "tls.pem": 0o600, "hub-ca.pem": 0o600,
    }  # fmt: skip
    return context


Hubs = Callable[..., Hub]


def test_the_port_goes_to_the_hub_with_the_token_in_a_header_and_a_certificate_comes_back(
    hub_of: Hubs, calling: ssl.SSLContext, waits: list[float]
) -> None:
    hub = hub_of(200)
    assert start.report_port(hub.url, "t0ken", 4711, calling, waits.append) == "signed"
    assert hub.seen == [("/hub/api/hpchub/port", "token t0ken", {"port": 4711})]
    assert waits == []


def test_a_hub_that_restarts_is_asked_again_with_growing_pauses(
    hub_of: Hubs, calling: ssl.SSLContext, waits: list[float]
) -> None:
    start.report_port(hub_of(503, 502, 429, 200).url, "t0ken", 4711, calling, waits.append)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [302, 400, 403, 404])
def test_a_hub_that_does_not_want_this_lab_ends_the_job_at_once(
    hub_of: Hubs, calling: ssl.SSLContext, waits: list[float], status: int
) -> None:
    hub = hub_of(status)
    with pytest.raises(start.Stop, match="does not want this Lab"):
        start.report_port(hub.url, "t0ken", 4711, calling, waits.append)
    assert len(hub.seen) == 1


def test_a_hub_that_nobody_vouches_for_never_sees_the_token(
    hub_of: Hubs, labs: Labs, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "REPORT_SECONDS", 0)
    hub, pair = hub_of(200), labs.caller("demo:alice::0f")
    stranger = {"key": pair.key, "certificate": pair.certificate, "authority": labs.certificate}
    context = start.write_tls(start.read_order(json.dumps(ORDER | {"tls": stranger})), str(tmp_path))
    with pytest.raises(start.Stop, match="certificate verify failed"):
        start.report_port(hub.url, "t0ken", 4711, context, waits.append)
    assert hub.seen == []


def test_a_hub_that_stays_away_ends_the_job_with_a_sentence(
    calling: ssl.SSLContext, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "REPORT_SECONDS", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(start.Stop, match="could not be told the port"):
        start.report_port(url, "t0ken", 4711, calling, waits.append)


def test_no_proxy_of_the_environment_sees_the_token(
    hub_of: Hubs, calling: ssl.SSLContext, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://192.0.2.1:3128")
    assert start.report_port(hub_of(200).url, "t0ken", 4711, calling, waits.append) == "signed"


def test_the_token_is_in_no_variable_and_no_setting_but_the_hubs_own(tmp_path: Path) -> None:
    variables = start.environment(order(), ALICE, {"SLURM_JOB_ID": "7", "SLURM_EXPORT_ENV": "NIL"}, str(tmp_path))
    assert "t0ken" not in json.dumps(variables)
    assert "k3y" not in json.dumps(variables)
    assert variables["JUPYTERHUB_SSL_KEYFILE"] == f"{tmp_path}/tls.key"
    assert variables["JUPYTERHUB_USER"] == "alice"
    settings = server.defaults("/home/alice", "t0ken")
    assert settings.HubAuth.api_token == "t0ken"
    del settings["HubAuth"]
    assert "t0ken" not in repr(settings)


def test_the_labs_variables_are_the_jobs_and_the_accounts() -> None:
    variables = start.environment(
        order(), ALICE, {"SLURM_JOB_ID": "7", "SLURM_EXPORT_ENV": "NIL", "PATH": "/usr/bin:/x"}, "/tmp/r"
    )
    assert (variables["HOME"], variables["SHELL"], variables["SLURM_JOB_ID"]) == ("/home/alice", "/bin/bash", "7")
    assert "SLURM_EXPORT_ENV" not in variables
    parts = variables["PATH"].split(":")
    assert parts[1] == "/opt/slurm/bin"
    assert parts[-1] == "/x"
    assert len(parts) == len(set(parts))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        json.dumps(ORDER | {"extra": 1}),
        json.dumps(ORDER | {"environment": {}}),
        json.dumps(ORDER | {"tls": {}}),
    ],
)
def test_a_script_that_does_not_fit_stops_with_a_sentence(text: str) -> None:
    with pytest.raises(start.Stop):
        start.read_order(text)


def test_the_runtime_directory_is_private_and_short_enough_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(start.tempfile, "gettempdir", lambda: str(long))
    directory = Path(start.runtime_directory())
    try:
        assert len(str(directory)) <= start.RUNTIME_PATH_CHARS
        assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        directory.rmdir()


def test_a_job_that_is_cancelled_before_the_server_is_up_leaves_nothing_on_the_node() -> None:
    command = [sys.executable, "-m", "hpchub.lab.start"]
    with tempfile.TemporaryDirectory(dir="/tmp") as node:  # pytest's own would be too long for sockets
        variables = os.environ | {"TMPDIR": node, "PYTHONPATH": str(Path(start.__file__).parents[2])}
        with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE) as job:
            end = time.monotonic() + 30
            while not list(Path(node).iterdir()) and time.monotonic() < end:
                time.sleep(0.05)
            assert list(Path(node).iterdir())
            job.terminate()
            assert job.wait(30) == 143
        assert list(Path(node).iterdir()) == []


def test_a_bound_port_cannot_be_taken_before_the_server_listens() -> None:
    with start.bind("127.0.0.1") as bound, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(bound.getsockname())


def test_server_settings_come_from_the_site_and_not_from_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/opt/hpchub/etc/jupyter")
    paths = server.LabServer().config_file_paths
    assert "/opt/hpchub/etc/jupyter" in paths
    assert not [path for path in paths if Path(path).is_relative_to(Path.home())]


def test_the_file_that_lists_the_server_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.ServerApp, "server_info", lambda _self: {"port": 1, "token": "t0ken"})
    assert server.LabServer().server_info() == {"port": 1, "token": ""}


def test_a_rescue_opens_with_a_page_that_says_why_and_deletes_for_good(tmp_path: Path) -> None:
    full_home.prepare(tmp_path, "/home/<alice>", "No space left on device")
    settings = json.loads((tmp_path / "etc/jupyter_server_config.json").read_text())
    url, query = settings["LabApp"]["default_url"].split("?")
    assert query == "file-browser-path=/home/%3Calice%3E"
    page = Path(unquote(url.removeprefix("/lab/tree")))
    assert list(page.parent.iterdir()) == [page], "nothing but the page lies beside it"
    assert "<strong>No space left on device</strong> in <code>/home/&lt;alice&gt;</code>" in page.read_text()
    assert settings["FileContentsManager"] == {"delete_to_trash": False}
