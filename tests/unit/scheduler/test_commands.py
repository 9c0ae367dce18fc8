from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from hpchub.scheduler import SchedulerUnavailable
from hpchub.scheduler.commands import asker, run


async def test_a_program_sees_nothing_of_the_hubs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    finished = await run(["/usr/bin/env"], timeout=10)
    assert set(line.split("=")[0] for line in finished.stdout.split()) == {"PATH", "LANG"}


async def test_a_schedulers_commands_get_what_their_answers_are_read_with_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    answer = await asker()(["/usr/bin/env"])
    assert set(line.split("=")[0] for line in answer.split()) == {"PATH", "LANG", "SLURM_TIME_FORMAT"}


async def test_arguments_reach_the_program_as_they_are() -> None:
    finished = await run([sys.executable, "-c", "import sys; print(sys.argv[1:])", "; rm -rf $HOME `x`"], timeout=10)
    assert finished.stdout == "['; rm -rf $HOME `x`']\n"


async def test_a_program_that_hangs_is_ended_after_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await run(["/bin/sleep", "30"], timeout=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/bin/false"], "false failed with status 1"),
        (["/no/such/squeue"], "/no/such/squeue cannot be run"),
        (["/bin/sleep", "30"], "sleep did not answer within 0.3 s"),
    ],
)
async def test_whatever_goes_wrong_is_no_answer(argv: list[str], words: str) -> None:
    with pytest.raises(SchedulerUnavailable, match=words):
        await asker(0.3)(argv)


async def test_no_descriptor_is_left_behind() -> None:
    await run(["/bin/true"], timeout=10)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        await run(["/bin/true"], timeout=10)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
