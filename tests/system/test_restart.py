"""What a restart of the hub costs: nothing."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext

Run = Callable[[str, str], str]
Jobs = Callable[[str], list[dict[str, str]]]
Api = Callable[..., tuple[int, Any]]


def test_a_restart_of_the_hub_keeps_the_running_lab_and_its_route(
    lab: Callable[[str], str],
    signed_in: Callable[[str], BrowserContext],
    run: Run,
    jobs: Jobs,
    api: Api,
    healthy: Callable[[], None],
) -> None:
    number = lab("alice")
    request = signed_in("alice").request
    started = request.get("/user/alice/api/status").json()["started"]
    run("login1", "systemctl stop hpchub")
    try:
        during = request.get("/user/alice/api/status")
        meanwhile = request.get("/hub/home").text()
    finally:
        run("login1", "systemctl start hpchub")
    assert during.ok, "the Lab could not be reached while the hub was down"
    assert "This page tries again" in meanwhile
    healthy()
    assert request.get("/user/alice/api/status").json()["started"] == started
    assert number in [job["id"] for job in jobs("alice")]
    assert api("alice", "GET", "/users/alice")[1]["servers"][""]["ready"]


def test_a_job_that_waits_while_the_hub_restarts_still_becomes_a_lab(
    api: Api,
    run: Run,
    jobs: Jobs,
    wait_until: Callable[..., None],
    healthy: Callable[[], None],
    drain: Callable[..., Callable[[], None]],
) -> None:
    others = [job["id"] for job in jobs("bob")]
    resume = drain()
    assert api("bob", "POST", "/users/bob/server", {"user_options": {"project": "climate"}})[0] in (201, 202)
    try:
        waiting = jobs("bob")[-1]
        assert (waiting["state"], waiting["id"] in others) == ("PENDING", False)
        run("login1", "systemctl restart hpchub")
        healthy()
        resume()
        wait_until(
            "bob's Lab is ready", lambda: api("bob", "GET", "/users/bob")[1]["servers"].get("", {}).get("ready"), 90
        )
        assert [job["id"] for job in jobs("bob")] == [*others, waiting["id"]]
    finally:
        api("bob", "DELETE", "/users/bob/server")
    wait_until("bob's job is gone", lambda: [job["id"] for job in jobs("bob")] == others, 60)
