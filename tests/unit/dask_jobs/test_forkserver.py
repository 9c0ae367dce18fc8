"""Which jobs fork their workers; that such workers come, and how soon, is for `make bench`."""

import types

import dask.config
import pytest

from hpchub.dask_jobs.patches import forkserver, seam

NANNY = types.ModuleType("distributed.nanny")


@pytest.mark.parametrize(
    ("line", "before", "after"),
    [
        (["-m", "tls://192.0.2.1:1", "--nworkers", "16"], "spawn", "forkserver"),
        (["-m", "tls://192.0.2.1:1"], "spawn", "spawn"),
        (["-m", "tls://192.0.2.1:1", "--nworkers", "16"], "fork", "fork"),
    ],
)
def test_workers_that_share_a_job_are_forked_and_a_single_one_is_not(
    line: list[str], before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", line)
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    preloaded: list[str] = []
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", preloaded.extend)
    monkeypatch.setattr("distributed.utils._forkserver_preload_set", False)
    with dask.config.set({forkserver.METHOD: before}):
        forkserver.share(NANNY)
        assert dask.config.get(forkserver.METHOD) == after
        assert ("distributed.cli.dask_worker" in preloaded) == (after == "forkserver")


def test_with_a_dask_that_has_another_name_for_it_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["-m", "tls://192.0.2.1:1", "--nworkers", "16"])
    monkeypatch.setattr("resource.setrlimit", lambda *_: pytest.fail("changed"))
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", lambda _: pytest.fail("changed"))
    monkeypatch.delattr("distributed.utils._forkserver_preload_set")
    with dask.config.set({forkserver.METHOD: "spawn"}):
        with pytest.raises(seam.Misfit, match=r"distributed\.utils\._forkserver_preload_set is not there"):
            forkserver.share(NANNY)
        assert dask.config.get(forkserver.METHOD) == "spawn"
