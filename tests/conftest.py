"""For all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from hpchub.privileged.batch_systems import Orders
    from hpchub.scheduler.dialect import Dialect

UNIT = Path(__file__).parent / "unit"
THIRD = "lsf"
"""A batch system that hpchub does not have: see tests/unit/third_system."""
BATCH_SYSTEMS = ("slurm", "pbs", THIRD)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything has to run, a test that was skipped has failed: HPCHUB_FORBID_SKIPS says so."""
    report = yield
    if report.skipped and os.environ.get("HPCHUB_FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and nothing may be skipped here."
    return report


@dataclass(frozen=True)
class BatchSystem:
    """One batch system, with what a cluster of it has answered and what is to be made of that."""

    name: str
    sample: dict[str, Any]
    orders: Orders
    dialect: Dialect
    prelude: str
    """For the beginning of a program in a process of its own."""

    def golden(self, name: str) -> Path:
        """A file of what is written for this batch system, word for word."""
        return UNIT / "data/batch-systems" / self.name / name

    def answer(self, path: str) -> str:
        """What a cluster has printed."""
        return (UNIT / "data" / path).read_text()


@pytest.fixture(params=BATCH_SYSTEMS)
def batch_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchSystem]:
    """Every batch system that hpchub has, and a third one: two files of the tests, and its name beside the others."""
    import hpchub.privileged
    import hpchub.scheduler
    from hpchub.privileged import batch_systems
    from hpchub.scheduler import registry

    name, prelude = request.param, ""
    if name == THIRD:
        for package in (hpchub.privileged, hpchub.scheduler):
            room = str(UNIT / "third_system" / package.__name__.rpartition(".")[2])
            monkeypatch.setattr(package, "__path__", [*package.__path__, room])
            prelude += f"import {package.__name__} as package; package.__path__.append({room!r})\n"
        monkeypatch.setattr(batch_systems, "NAMES", (*batch_systems.NAMES, THIRD))
        prelude += f"from hpchub.privileged import batch_systems; batch_systems.NAMES += ({THIRD!r},)\n"
    sample = yaml.safe_load((UNIT / "data/batch-systems" / name / "sample.yaml").read_text())
    yield BatchSystem(name, sample, batch_systems.orders(name), registry.dialect(name), prelude)
    for package in (hpchub.privileged, hpchub.scheduler):
        if name == THIRD:
            sys.modules.pop(f"{package.__name__}.{THIRD}", None)
            vars(package).pop(THIRD, None)
