"""Long proofs: what is true once has to be true the fiftieth time. `make soak` runs them, against the demo."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.soak

ROUNDS = 50
WISH = {"project": "climate", "queue": "interactive", "walltime": "00:10", "cores": "1", "memory": "2"}
Api = Callable[..., tuple[int, Any]]
Jobs = Callable[[str], list[dict[str, str]]]


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


def test_a_server_that_nobody_uses_is_stopped_by_the_culler(
    api: Api, jobs: Jobs, run: Callable[[str, str], str], wait_until: Callable[..., None]
) -> None:
    assert api("bob", "POST", "/users/bob/server", {"user_options": WISH})[0] in (201, 202)
    wait_until("bob's server answers", lambda: ready(api), 90)
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
        wait_until("bob's job is gone", lambda: jobs("bob") == [], 240)
    finally:
        run("login1", "systemctl stop impatient-culler; rm /tmp/impatient.yml")
    assert api("bob", "GET", "/users/bob")[1]["servers"] == {}
