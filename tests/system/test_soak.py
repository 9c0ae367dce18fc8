"""Long proofs: what is true once has to be true the fiftieth time. `make soak` runs them, against the demo."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page
from testinfra.host import Host

ROUNDS = 50
WISH = {"project": "climate", "queue": "interactive", "walltime": "00:10", "cores": "1", "memory": "2"}
PYTHON = "/opt/hpchub/lab/current/bin/python"
DASK = """
from dask_jobqueue import {cluster} as Cluster
runs, waits = Cluster(cores=1, memory='1GiB'), Cluster(job_extra_directives=[{later!r}])
runs.scale(1); waits.scale(2); runs.wait_for_workers(1, timeout=60)
"""
MANY_CLUSTERS = (Path(__file__).parent / "programs" / "many_clusters.py").read_text()
Api = Callable[..., tuple[int, Any]]
Jobs = Callable[[str], list[dict[str, str]]]


@pytest.mark.soak
def test_fifty_sessions_in_a_row_start_one_job_each_and_leave_none(
    api: Api, jobs: Jobs, run: Callable[[str, str], str], wait_until: Callable[..., None]
) -> None:
    assert jobs("bob") == []
    before = submitted(run)
    for _ in range(ROUNDS):
        assert api("bob", "POST", "/users/bob/server", {"user_options": WISH})[0] in (201, 202)
        wait_until("bob's server answers", lambda: ready(api), 90)
        assert api("bob", "DELETE", "/users/bob/server")[0] in (202, 204)
        wait_until("bob's job is gone", lambda: jobs("bob") == [] and not ready(api), 60)
        wait_until("the hub has forgotten it", lambda: api("bob", "GET", "/users/bob")[1]["servers"] == {}, 60)
    assert submitted(run) - before == ROUNDS


def ready(api: Api) -> bool:
    """Whether bob's server answers."""
    return bool(api("bob", "GET", "/users/bob")[1]["servers"].get("", {}).get("ready"))


def submitted(run: Callable[[str, str], str]) -> int:
    """How many jobs bob has ever submitted."""
    return len(
        run("ctl", "sacct --noheader --allocations --user=bob --starttime=2000-01-01 --format=JobID").splitlines()
    )


@pytest.mark.soak
def test_a_server_that_nobody_uses_is_stopped_by_the_culler_and_leaves_no_dask_job(
    api: Api,
    jobs: Jobs,
    run: Callable[[str, str], str],
    batch: Any,
    signed_in: Callable[[str], BrowserContext],
    new_kernel: Callable[[Page, str], tuple[str, dict[str, str]]],
    in_kernel: Callable[[Page, str, str, str], str],
    wait_until: Callable[..., None],
) -> None:
    def others() -> list[str]:
        return [job["id"] for job in jobs("bob") if job["name"] != "hpchub"]

    assert api("bob", "POST", "/users/bob/server", {"user_options": WISH})[0] in (201, 202)
    wait_until("bob's server answers", lambda: ready(api), 90)
    page = signed_in("bob").new_page()
    kernel, _ = new_kernel(page, "bob")
    in_kernel(page, "bob", kernel, DASK.format(cluster=batch.cluster, later=batch.later))
    page.close()
    assert len(others()) == 3
    # a culler as the unit's, with one minute in place of the site's hours
    run("login1", "sed 's/idle_stop_minutes: .*/idle_stop_minutes: 1/' /etc/hpchub/site.yml >/tmp/impatient.yml")
    run(
        "login1",
        "systemd-run --quiet --unit=impatient-culler --property=User=hpchub"
        " $(for name in culler-token:/etc/hpchub/secrets/culler-token culler.key:/etc/hpchub/internal/culler.key"
        " culler.pem:/etc/hpchub/internal/culler.pem services-ca.pem:/etc/hpchub/internal/services-ca.pem;"
        " do echo --property=LoadCredential=$name; done)"
        " /usr/local/lib/hpchub/hub/current/bin/python -I -m hpchub.cli cull --site /tmp/impatient.yml",
    )
    try:
        wait_until("bob's Lab is gone", lambda: len(others()) == len(jobs("bob")), 240)
        wait_until("bob's Dask jobs are gone", lambda: jobs("bob") == [], 60)
    finally:
        run("login1", "systemctl stop impatient-culler; rm /tmp/impatient.yml")
    assert api("bob", "GET", "/users/bob")[1]["servers"] == {}


@pytest.mark.parametrize(
    "rounds", [pytest.param(3, marks=pytest.mark.proof), pytest.param(ROUNDS, marks=pytest.mark.soak)]
)
def test_so_many_dask_clusters_in_a_row_are_encrypted_right_and_without_a_complaint_and_leave_no_job(
    rounds: int, jobs: Jobs, host: Callable[[str], Host], run: Callable[[str, str], str], batch: Any
) -> None:
    others = {job["id"] for job in jobs("alice")}
    line = f"cd && timeout {60 * (rounds + 1)} {PYTHON} -c {shlex.quote(MANY_CLUSTERS)} {rounds} {batch.cluster}"
    done = host("login1").run(f"runuser -u alice -- sh -c {shlex.quote(line)}")
    print(f"\n{done.stdout}")
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    ended = {job["id"] for job in jobs("alice")} - others
    run("ctl", batch.clear.format(user="alice", name="dask-worker"))
    assert (done.rc, len(seen), ended) == (0, rounds, set()), done.stderr
    for one in seen:
        assert (one["right"], one["plain"], one["complaints"], one["jobs"]) == (True, 0, [], 0)
        assert (one["shrunk"], one["nodes"]) == (1, 2)
        assert one["logs"] >= one["workers"]
        assert one["open"] > 3 * one["workers"]
        assert one["received"] > 1_000_000
