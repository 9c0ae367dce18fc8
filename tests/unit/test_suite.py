"""The driver of `make test`, with programs in the place of make and molecule; and turns between parts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = """
at_once = 2
[parts.labs]
scenario = "default"
port = 9443
[parts.sign_in]
scenario = "short"
port = 9444
[parts.old]
scenario = "bookworm"
port = 9445
[parts.pbs]
scenario = "pbs"
port = 9446
image = true
"""

# Plays molecule and make: what it does stands in the file that bears the part's name, or the target's.
PLAYER = """#!/usr/bin/env python3
import json, os, shlex, subprocess, sys, time
name = os.environ.get("PART") or sys.argv[-1]
seen = {key: os.environ.get(key) for key in ("CLUSTER", "CLUSTER_PORT", "MOLECULE_EPHEMERAL_DIRECTORY", "HPCHUB_TURNS")}
with open("played.jsonl", "a") as file:
    print(json.dumps([name, sys.argv[1:], time.time(), seen]), file=file)
play = json.load(open(f"{name}.json")) if os.path.exists(f"{name}.json") else {}
for line in play.get("says", []):
    print(line, flush=True)
if play.get("hangs"):
    child = subprocess.Popen(["sleep", "300"])
    open(f"{name}.child", "w").write(str(child.pid))
    time.sleep(300)
time.sleep(play.get("seconds", 0.1))
if cases := play.get("cases"):
    (option,) = (word for word in shlex.split(os.environ["PYTEST_ADDOPTS"]) if word.startswith("--junitxml="))
    open(option.partition("=")[2], "w").write(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
print("the end of", name)
sys.exit(play.get("status", 0))
"""


def case(name: str, inside: str = "", seconds: float = 1) -> str:
    return f'<testcase classname="tests.system.test_{name}" name="test_{name}" time="{seconds}">{inside}</testcase>'


GOOD = {"cases": case("good")}


class Stage:
    """A checkout with the driver in it, whose parts do what a test says; what came out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("tools", "tests/system", "molecule/bin", "bin"):
            (root / directory).mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "suite", root / "tools")
        (root / "tests" / "system" / "parts.toml").write_text(PARTS)
        self.program("molecule/bin/image", '#!/bin/sh\n[ -n "$2" ] || echo no IMAGE is named\n')
        for name in ("molecule", "make"):
            self.program(f"bin/{name}", PLAYER)
        for name in ("labs", "sign_in", "old", "pbs", "unit", "contract"):
            self.play(name, **GOOD)

    def program(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o755)

    def play(self, name: str, **what: object) -> None:
        (self.root / f"{name}.json").write_text(json.dumps(what))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        plain = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        return subprocess.Popen(
            [sys.executable, self.root / "tools" / "suite", *arguments],
            env={**plain, "PATH": f"{self.root / 'bin'}:{plain['PATH']}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        with self.start(*arguments, **environment) as process:
            said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def played(self) -> dict[str, tuple[list[str], float, dict[str, str]]]:
        lines = (self.root / "played.jsonl").read_text().splitlines()
        return {name: (arguments, when, seen) for name, arguments, when, seen in map(json.loads, lines)}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "a checkout")


def test_if_all_is_well_everything_has_run_and_the_last_line_says_so(stage: Stage) -> None:
    status, said = stage.run("--checks")
    assert (status, said.splitlines()[-1]) == (0, "5 passed, 0 failed")
    assert stage.played().keys() == {"lint", "unit", "contract", "labs", "sign_in", "old"}
    assert "==> PBS: skipped, no IMAGE is named\n" in said


def test_each_part_has_a_cluster_a_port_and_a_directory_of_its_own(stage: Stage) -> None:
    stage.run()
    arguments, _, seen = stage.played()["sign_in"]
    assert arguments == ["test", "-s", "short"]
    assert seen == {
        "CLUSTER": "sign-in",
        "CLUSTER_PORT": "9444",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(stage.root / "build/molecule/sign_in"),
        "HPCHUB_TURNS": str(stage.root / "build/suite/turns"),
    }


def test_parts_run_side_by_side_but_no_more_than_there_is_room_for(stage: Stage) -> None:
    for name in ("labs", "sign_in"):
        stage.play(name, seconds=2, **GOOD)
    stage.run()
    began = {name: when for name, (_, when, _) in stage.played().items()}
    assert abs(began["labs"] - began["sign_in"]) < 1
    assert began["old"] - began["labs"] >= 2


def test_the_failure_of_a_part_is_shown_with_its_log_counts_and_stops_no_other(stage: Stage) -> None:
    failure = '<failure message="no">why</failure>'
    log = ["before", "=== FAILURES ===", "the journal says", "=== short test summary info ==="]
    stage.play("labs", says=log, status=2, cases=case("good") + case("bad", failure) + case("bad", "<error/>"))
    stage.play("old", cases=case("good") + case("left", "<skipped/>"))
    status, said = stage.run()
    assert (status, said.splitlines()[-1]) == (1, "3 passed, 1 failed, 1 skipped")
    assert "=== FAILURES ===\nthe journal says" in said
    assert "before" not in said
    assert re.search(r"(?m)^labs +2 +1 +0\.\d  failed: build/suite/labs\.log$", said)
    assert (stage.root / "build/suite/labs.log").read_text().startswith("before\n")


@pytest.mark.parametrize("status", [0, 3])
def test_a_part_in_which_no_test_has_run_has_failed(stage: Stage, status: int) -> None:
    stage.play("labs", says=["the image cannot be made"], status=status)
    ended, said = stage.run()
    assert (ended, said.splitlines()[-1]) == (1, "2 passed, 1 failed")
    assert "the image cannot be made" in said


def test_a_check_that_fails_counts_as_one(stage: Stage) -> None:
    stage.play("lint", says=["a line is too long"], status=2)
    status, said = stage.run("--checks")
    assert (status, said.splitlines()[-1]) == (1, "5 passed, 1 failed")
    assert "a line is too long" in said


def test_results_of_an_earlier_run_are_not_taken_for_those_of_this_one(stage: Stage) -> None:
    assert stage.run("labs")[0] == 0
    stage.play("labs", status=0)
    assert stage.run("labs")[0] == 1


def child(stage: Stage, name: str) -> Path:
    """The process that a part has started, in /proc."""
    deadline = time.monotonic() + 20
    while not (file := stage.root / f"{name}.child").exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return Path("/proc") / file.read_text()


def ended(process: Path) -> bool:
    """Whether a process is gone, or is dead and nobody has asked for it."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_part_that_hangs_is_stopped_with_what_it_has_started(stage: Stage) -> None:
    stage.play("labs", hangs=True, says=["it hangs here"])
    status, said = stage.run(HPCHUB_PART_MINUTES="0.05")
    assert (status, said.splitlines()[-1]) == (1, "2 passed, 1 failed")
    assert "stopped after 0.05 minutes: build/suite/labs.log" in said
    assert "it hangs here" in said
    assert ended(child(stage, "labs"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_parts_with_what_they_have_started(stage: Stage, sent: signal.Signals) -> None:
    for name in ("labs", "sign_in"):
        stage.play(name, hangs=True)
    with stage.start() as process:
        children = [child(stage, name) for name in ("labs", "sign_in")]
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert all(ended(one) for one in children)
    assert "old" not in stage.played()


def test_a_part_alone_prints_what_it_does_and_waits_for_no_turn(stage: Stage) -> None:
    stage.play("labs", says=["a line of its own"], **GOOD)
    status, said = stage.run("labs")
    assert (status, said.splitlines()[-1]) == (0, "1 passed, 0 failed")
    assert "a line of its own\nthe end of labs\n" in said
    assert stage.played()["labs"][2]["HPCHUB_TURNS"] == ""


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(stage: Stage) -> None:
    status, said = stage.run("lab")
    assert (status, said) == (1, "There is no part lab: tests/system/parts.toml has labs, sign_in, old, pbs.\n")


def test_on_pbs_its_part_alone_runs_and_without_an_image_it_says_that_it_does_not(stage: Stage) -> None:
    status, said = stage.run(SCHEDULER="pbs")
    assert (status, said) == (0, "==> PBS: skipped, no IMAGE is named\n")
    assert stage.run(SCHEDULER="pbs", IMAGE="x")[0] == 0
    assert stage.played().keys() == {"pbs"}


def test_with_an_image_pbs_is_one_part_more(stage: Stage) -> None:
    stage.run(IMAGE="x")
    assert stage.played().keys() == {"labs", "sign_in", "old", "pbs"}


def test_what_a_watcher_sees_is_steps_and_files(stage: Stage) -> None:
    said = [
        "INFO     [default > converge] Executed: Successful",
        "TASK [jupyterhub : something]",
        "../../tests/system/test_dask.py ..F.                            [ 28%]",
    ]
    stage.play("labs", says=said, **GOOD)
    _, seen = stage.run()
    assert "==> labs: converge successful\n" in seen
    assert "==> labs: test_dask.py ..F.\n" in seen
    assert "TASK" not in seen


def test_the_seconds_of_every_test_are_kept_and_the_slowest_are_shown(stage: Stage) -> None:
    stage.play("labs", cases="".join(case(f"number_{number}", seconds=number) for number in range(30)))
    _, said = stage.run()
    assert (
        "\n20 slowest of 32 tests, in seconds:\n     29.0  labs  tests.system.test_number_29::test_number_29\n" in said
    )
    assert said.count("  labs  ") == 20
    stage.run("old")
    kept = json.loads((stage.root / "build/durations.json").read_text())
    assert kept.keys() == {"labs", "sign_in", "old"}
    assert len(kept["labs"]["tests"]) == 30
    assert kept["old"]["tests"] == {"tests.system.test_good::test_good": 1.0}


# -- turns


@pytest.fixture(scope="module")
def system() -> ModuleType:
    """What the system tests have in common."""
    path = ROOT / "tests" / "system" / "conftest.py"
    spec = importlib.util.spec_from_file_location("system_conftest", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["system_conftest"] = module
    before = os.environ["PATH"]
    spec.loader.exec_module(module)
    os.environ["PATH"] = before
    return module


@pytest.fixture
def tests(system: ModuleType, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Begin a test of some part, as a thread; `inside` tells what runs."""
    threads: list[threading.Thread] = []

    def begin(name: str, inside: list[str], leave: threading.Event, alone: bool = False) -> None:
        def run() -> None:
            with system.turn(str(tmp_path / "turns"), alone):
                inside.append(name)
                leave.wait(20)
                inside.remove(name)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_test_that_has_to_be_alone_waits_for_all_others_and_lets_none_pass(tests: Callable[..., None]) -> None:
    inside: list[str] = []
    end, end_alone, end_late = threading.Event(), threading.Event(), threading.Event()
    tests("first", inside, end)
    tests("second", inside, end)
    until(lambda: len(inside) == 2)
    tests("alone", inside, end_alone, alone=True)
    time.sleep(0.3)
    tests("late", inside, end_late)
    time.sleep(0.3)
    assert sorted(inside) == ["first", "second"]
    end.set()
    until(lambda: inside == ["alone"])
    time.sleep(0.3)
    assert inside == ["alone"]
    end_alone.set()
    until(lambda: inside == ["late"])
    end_late.set()


# -- what parts build at the same time


def test_two_builders_of_the_same_give_one_whole_thing(tmp_path: Path) -> None:
    program = (
        "from importlib.machinery import SourceFileLoader; from pathlib import Path; "
        f"build = SourceFileLoader('build', {str(ROOT / 'tools/build')!r}).load_module(); "
        f"print(build.package(Path({str(tmp_path)!r}))['wheel'])"
    )
    builders = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [builder.communicate(timeout=60) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], said
    assert len({out for out, _ in said}) == 1
    assert Path(said[0][0].strip()).stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []
