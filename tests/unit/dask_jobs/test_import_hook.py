"""What happens where a change does not fit the release of Dask that is there."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hpchub.dask_jobs.patches import seam

SRC = Path(seam.__file__).parents[3]


def run(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own with our hook, and with `change` to make a module another than it is."""
    begin = """
import importlib.machinery, sys
import hpchub.dask_jobs.patches.import_hook
load = importlib.machinery.SourceFileLoader.exec_module
changes = {}

def exec_module(self, module):
    load(self, module)
    if module.__name__ in changes:
        changes[module.__name__](module)

importlib.machinery.SourceFileLoader.exec_module = exec_module
"""
    variables = {**os.environ, "HOME": str(home), "PYTHONPATH": str(SRC)}
    return subprocess.run(
        [sys.executable, "-c", begin + code], env=variables, cwd=home, capture_output=True, text=True, check=False
    )


def test_a_dask_whose_dashboards_cannot_be_closed_is_not_imported(tmp_path: Path) -> None:
    done = run("changes['distributed.node'] = lambda one: delattr(one, 'HTTPServer')\nimport distributed", tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1] == (
        "ImportError: hpchub does not fit this release of distributed, and without its change to distributed.node that "
        "is not safe to use here: distributed.node.HTTPServer is not there. Use the release that hpchub came with."
    )


def test_a_dask_whose_settings_cannot_be_those_of_the_site_is_not_imported(tmp_path: Path) -> None:
    done = run("changes['dask.config'] = lambda one: delattr(one, 'paths')\nimport dask", tmp_path)
    assert done.returncode == 1
    assert "dask.config.paths is not there. Use the release" in done.stderr


def test_a_dask_jobqueue_whose_jobs_cannot_be_marked_is_not_imported(tmp_path: Path) -> None:
    other = "changes['dask_jobqueue.core'] = lambda one: setattr(one.Job, '_submit_job', lambda self: None)"
    done = run(f"{other}\nimport dask_jobqueue", tmp_path)
    assert done.returncode == 1
    assert "Job._submit_job is (self), where (self, script_filename) was expected" in done.stderr


def test_what_is_a_comfort_is_left_out_with_a_line_in_the_log_and_dask_works(tmp_path: Path) -> None:
    done = run(
        """
changes["distributed.worker"] = lambda one: setattr(one.Worker, "close_gracefully", lambda self: None)
changes["distributed.comm.tcp"] = lambda one: delattr(one.BaseTCPListener, "get_host_port")
changes["distributed.scheduler"] = lambda one: delattr(one.Scheduler, "add_plugin")
import distributed.worker, distributed.scheduler
print("hpchub" in distributed.worker.DEFAULT_STARTUP_INFORMATION)
""",
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    lines = [line for line in done.stderr.splitlines() if "hpchub leaves" in line]
    assert len(lines) == len(done.stderr.splitlines()) == 3
    worker = next(line for line in lines if "distributed.worker" in line)
    assert worker.endswith(
        "hpchub leaves distributed.worker as it is, without hpchub.dask_jobs.lifetime:patient, because it does not fit "
        "this release: distributed.worker.Worker.close_gracefully is (self), where (self, restart=None, "
        "reason='worker-close-gracefully') was expected"
    )


def test_a_change_is_not_made_where_what_it_needs_is_not_there() -> None:
    from hpchub.dask_jobs.patches import import_hook  # not before other tests have imported Dask as it is

    module = ModuleType("distributed.batched")
    with pytest.raises(seam.Misfit, match=r"distributed\.batched\.logger is not there"):
        import_hook.apply(module, "hpchub.dask_jobs.patches.worker_loss:quiet", {"logger": "Logger"})


@pytest.mark.parametrize(
    ("thing", "shape"),
    [
        (lambda one, /, two=3, *, three: None, "(one, /, two=3, *, three)"),
        (None, "None"),
        (False, "False"),
        ("a", "'a'"),
        (ModuleType, "class"),
        ({}, "dict"),
        (logging, "module"),
        (SimpleNamespace(), "SimpleNamespace"),
    ],
)
def test_a_thing_is_compared_by_its_parameters_its_value_or_its_kind(thing: object, shape: str) -> None:
    assert seam.shape(thing) == shape
