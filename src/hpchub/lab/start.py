"""The first program of the user's job: reads what the script carries, tells the hub the port, and becomes the Lab.

`python -I -m hpchub.lab.start` with a hpchub.privileged.job_order.LabOrder as JSON on stdin: JUPYTERHUB_* variables,
key, certificate and authority, and the job as it was asked for. The token in it is in no argument, no environment and
no file of ours; the key is in one, on this node, that only its user can read.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from hpchub.lab import import_stubs
from hpchub.privileged import job_order
from hpchub.privileged.job_order import LabOrder
from hpchub.scheduler.job_environment import job_environment
from hpchub.scheduler.registry import dialect

TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the name of a variable
API_URL = "JUPYTERHUB_API_URL"
PUBLIC_URL = "JUPYTERHUB_PUBLIC_URL"
MAX_ANSWER_BYTES = 16 * 1024
REPORT_SECONDS = 600  # a hub that restarts or is upgraded meanwhile
RUNTIME_PATH_CHARS = 50  # a unix socket's path has at most 107; kernel file names need the rest


TLS_FILES = {"KEYFILE": "tls.key", "CERTFILE": "tls.pem", "CLIENT_CA": "hub-ca.pem"}
"""Files in the runtime directory, by the ends of the names that JupyterHub has for them."""


class Stop(Exception):
    """The Lab cannot start; the text goes to the job's log."""


def read_order(text: str) -> LabOrder:
    """Read the script's order. Raises Stop if it is not what a job program of this version or the last one writes."""
    try:
        order = job_order.read(LabOrder, text)
    except job_order.UnreadableOrder as error:
        raise Stop(f"The job's script does not fit this environment: {error}") from None
    missing = {TOKEN, API_URL, PUBLIC_URL, "JUPYTERHUB_SERVICE_PREFIX"} - order.environment.keys()
    missing |= {"key", "certificate", "authority"} - order.tls.keys()
    if missing:
        raise Stop(f"The hub did not send {', '.join(sorted(missing))}.")
    return order


def environment(
    order: LabOrder, account: pwd.struct_passwd, inherited: Mapping[str, str], runtime: str
) -> dict[str, str]:
    """The variables of Lab, kernels and terminals: the job's own, the account's, the hub's without the token."""
    prefix = Path(order.shared_prefix)
    own = [f"{sys.prefix}/bin", order.scheduler_prefix, "/usr/local/bin", "/usr/bin", "/bin"]
    programs = [*own, *inherited.get("PATH", "").split(":")]
    return {
        **job_environment(dialect(order.scheduler), account, inherited, programs),
        "JUPYTER_CONFIG_PATH": str(prefix / "etc/jupyter"),
        "JUPYTER_PATH": str(prefix / "share/jupyter"),
        "JUPYTER_RUNTIME_DIR": runtime,
        **{name: value for name, value in order.environment.items() if name != TOKEN},
        **{f"JUPYTERHUB_SSL_{name}": f"{runtime}/{file}" for name, file in TLS_FILES.items()},
    }


def write_tls(order: LabOrder, runtime: str) -> ssl.SSLContext:
    """Write key, certificate and authority where only the user can read them; gives what calls the hub with them."""
    for name, file in {"key": "tls.key", "certificate": "tls.pem", "authority": "hub-ca.pem"}.items():
        path = Path(runtime, file)
        path.touch(0o600)
        path.write_text(order.tls[name], encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=order.tls["authority"])
    context.load_cert_chain(f"{runtime}/tls.pem", f"{runtime}/tls.key")
    return context


def report_port(
    url: str, token: str, port: int, context: ssl.SSLContext, wait: Callable[[float], None] = time.sleep
) -> str:
    """Tell the hub the port, and keep trying while the hub may be restarting.

    Gives the certificate to serve with, as PEM. Raises Stop if the hub will not have it.
    """
    parts = urllib.parse.urlsplit(url)
    body = json.dumps({"port": port})
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    end = time.monotonic() + REPORT_SECONDS
    pause = 1.0
    while True:
        try:
            connection = http.client.HTTPSConnection(parts.netloc, timeout=60, context=context)
            try:
                connection.request("POST", parts.path, body, headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read(MAX_ANSWER_BYTES)
            finally:
                connection.close()
            problem = f"it answered {status}"
            if status == 200:
                return str(json.loads(text)["certificate"])
            if 300 <= status < 500 and status not in (408, 425, 429):
                raise Stop(f"The hub at {parts.netloc} does not want this Lab: {problem}. It was stopped or replaced.")
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            problem = str(error)
        if time.monotonic() + pause > end:
            raise Stop(f"The hub at {parts.netloc} could not be told the port: {problem}.")
        wait(pause)
        pause = min(pause * 2, 15)


def meanwhile(work: Callable[[], str]) -> Future[str]:
    """Do `work` in a thread that a process which ends does not wait for."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def bind(host: str) -> socket.socket:
    """Bind a free TCP port. Without SO_REUSEADDR nobody else can take it before the server listens on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.bind((host, 0))
    bound.setblocking(False)
    return bound


def runtime_directory() -> str:
    """A private directory on this node for sockets and connection files."""
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="hpchub-", dir=base if len(base) < RUNTIME_PATH_CHARS - 16 else "/tmp")  # noqa: S108 - mkdtemp is private


def session_variables(order: LabOrder, home: str, runtime: str) -> dict[str, str]:
    """Prepare the session's Dask configuration and name it; a full home costs Dask its jobs, never the Lab."""
    from hpchub.dask_jobs import configuration
    from hpchub.lab import full_home

    session = configuration.Session(
        scheduler=order.scheduler,
        project=order.project,
        queue=order.queue,
        reservation=order.reservation,
        address=order.environment[PUBLIC_URL],
        log_directory=configuration.logs(order.log_directory),
        tag=order.tag,
        job=dialect(order.scheduler).job_id(os.environ),
    )
    site = configuration.read_site(Path(order.shared_prefix) / "etc/dask")
    try:
        return {
            "DASK_ROOT_CONFIG": str(configuration.write_session(Path(home) / ".local/share/hpchub/dask", session, site))
        }
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"Dask gets no jobs in this session: {home} could not be written: {reason}.", file=sys.stderr)
        local = configuration.write_local_session(Path(runtime) / "dask", session, site, reason)
        full_home.prepare(Path(runtime), home, reason)
        return {
            "DASK_ROOT_CONFIG": str(local),
            "IPYTHONDIR": f"{runtime}/ipython",  # no kernel starts without one
            "JUPYTER_DATA_DIR": f"{runtime}/data",
            "JUPYTERLAB_WORKSPACES_DIR": f"{runtime}/workspaces",
            "JUPYTERLAB_SETTINGS_DIR": f"{runtime}/settings",
            "JUPYTER_CONFIG_PATH": f"{runtime}/etc:{order.shared_prefix}/etc/jupyter",
        }


def serve(order: LabOrder, runtime: str) -> int:
    """Set the process up and run the Lab until it ends; gives its exit status."""
    account = pwd.getpwuid(os.getuid())
    variables = environment(order, account, os.environ, runtime)
    session = session_variables(order, account.pw_dir, runtime)
    os.environ.clear()
    os.environ.update(variables | session)
    try:
        bound = bind("0.0.0.0")  # noqa: S104 - the hub's proxy connects from the login node
        port, token = bound.getsockname()[1], order.environment[TOKEN]
        url, calling = f"{order.environment[API_URL]}/hpchub/port", write_tls(order, runtime)
        certificate = meanwhile(lambda: report_port(url, token, port, calling))
        os.environ["JUPYTERHUB_SERVICE_URL"] = f"https://0.0.0.0:{port}{order.environment['JUPYTERHUB_SERVICE_PREFIX']}"

        # Jupyter and dask read their paths when they are imported.
        with import_stubs.imports():
            from hpchub.dask_jobs import cleanup
            from hpchub.lab import server

        Path(runtime, "tls.pem").write_text(certificate.result(), encoding="ascii")
        cleanup.start()
        try:
            return server.run(bound, token)
        finally:
            cleanup.finish()
    finally:
        shutil.rmtree(session["DASK_ROOT_CONFIG"], ignore_errors=True)


def main() -> int:
    """Entry point of the job."""
    # Until the server has a handler of its own, so that a job cancelled meanwhile leaves nothing on the node.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    runtime = runtime_directory()
    try:
        order = read_order(sys.stdin.read())
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        return serve(order, runtime)
    except Stop as reason:
        print(f"hpchub: {reason}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
