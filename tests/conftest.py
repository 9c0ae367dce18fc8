"""For all tests."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything has to run, a test that was skipped has failed: HPCHUB_FORBID_SKIPS says so."""
    report = yield
    if report.skipped and os.environ.get("HPCHUB_FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be skipped here."
    return report
