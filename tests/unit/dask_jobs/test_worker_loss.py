"""What a user reads when a worker dies. Whether Dask says it is tested on a real cluster."""

import logging
from types import SimpleNamespace

import pytest

from hpchub.dask_jobs.patches import worker_loss


def test_a_worker_is_described_by_what_it_told_or_else_by_its_address() -> None:
    told = {"hpchub": {"node": "c1", "job": "17", "log": "/home/alice/w.err"}}
    assert (
        worker_loss.describe("w-0", "tls://192.0.2.1:1", told) == "w-0 (node c1, job 17; its log is /home/alice/w.err)"
    )
    assert worker_loss.describe("w-0", "tls://192.0.2.1:1", {}) == "w-0 (node tls://192.0.2.1:1)"


def test_a_killed_worker_names_task_node_and_log() -> None:
    last = SimpleNamespace(name="w-0", address="tls://192.0.2.1:1", extra={"hpchub": {"node": "c1", "log": "/x.err"}})
    text = worker_loss.killed(SimpleNamespace(task="mean-1", last_worker=last, allowed_failures=2))
    assert text.startswith("The task 'mean-1' was tried 3 times")
    assert "node c1; its log is /x.err" in text


def test_the_log_is_what_the_launcher_names_or_where_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker_loss.LOG, "/x.log")
    assert worker_loss.whereabouts()["log"] == "/x.log"


def test_a_peer_that_closes_is_a_line_in_a_log_and_a_defect_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    import distributed.batched

    worker_loss.quiet(distributed.batched)
    for level in (logging.INFO, logging.ERROR):
        with caplog.at_level(logging.INFO, "distributed.batched"):
            distributed.batched.logger.log(level, "Batched Comm Closed", exc_info=OSError("gone"))
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("Batched Comm Closed", False),
        ("Batched Comm Closed", True),
    ]


async def test_a_listener_that_has_stopped_still_knows_where_it_listened() -> None:
    import distributed.comm.tcp as tcp

    listener = tcp.TCPListener("tcp://127.0.0.1:0", lambda _: None)
    await listener.start()
    address = listener.contact_address
    listener.stop()
    with pytest.raises(ValueError, match="non-started"):  # if it no longer does, our change can go
        tcp.BaseTCPListener.get_host_port(listener)
    worker_loss.remember(tcp)
    assert listener.contact_address == address
    with pytest.raises(ValueError, match="non-started"):
        tcp.TCPListener("tcp://127.0.0.1:0", lambda _: None).get_host_port()


def test_dask_as_it_is_installed_is_changed() -> None:
    import distributed.scheduler
    import distributed.worker

    worker_loss.tell(distributed.worker)
    assert distributed.worker.DEFAULT_STARTUP_INFORMATION["hpchub"] is worker_loss.whereabouts
    assert {"task", "last_worker", "allowed_failures"} <= set(vars(distributed.scheduler.KilledWorker))
