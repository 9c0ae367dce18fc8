"""What stands in the database about a job outlives the release that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hpchub.hub.dask_cleanup import ended_tags
from hpchub.hub.job_record import JobRecord, hub_identity, new_tag
from hpchub.hub.orphans import known_to
from hpchub.request import JobRequest

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "hub_states.json").read_text())
"""States of one server as the release before records had a version wrote them into its database: while the job was
submitted, while it waited, while it ran, and after its end."""
WITH_A_JOB = ["submitting", "waiting", "running"]


@pytest.mark.parametrize("name", WITH_A_JOB)
def test_a_state_without_a_version_is_read_with_all_that_it_says(name: str) -> None:
    state = RECORDED[name]
    record = JobRecord.load(state)
    assert record.job_id == state.get("job_id", "")
    for key in ("tag", "certificate", "token_id", "node", "port", "submitted_at", "began"):
        assert getattr(record, key) == state[key], key
    assert record.request == JobRequest(**state["request"])


@pytest.mark.parametrize("name", WITH_A_JOB)
def test_the_release_before_finds_all_its_keys_in_what_is_written_now(name: str) -> None:
    state = RECORDED[name]
    written = json.loads(json.dumps(JobRecord.load(state).save()))
    assert written.pop("version") == 1
    assert written == {key: value for key, value in state.items() if key != "ended"}


def test_a_state_that_only_remembers_former_jobs_has_no_job() -> None:
    assert JobRecord.load(RECORDED["ended"]) == JobRecord()
    assert ended_tags(RECORDED["ended"]) == [RECORDED["waiting"]["tag"]]
    assert ended_tags(RECORDED["submitting"]) == [RECORDED["waiting"]["tag"]]


def test_without_a_job_nothing_is_written() -> None:
    assert JobRecord().save() == {}
    assert JobRecord.load({}) == JobRecord()
    assert ended_tags({}) == ended_tags(None) == []


def test_a_job_is_known_to_the_reconciler_from_its_record() -> None:
    known = known_to({1: JobRecord(tag="demo:1:alice::a", job_id="7").save(), 2: JobRecord(tag="demo:1:bob::b").save()})
    assert known.job_ids == {"7"}
    assert known.tags == {"demo:1:alice::a", "demo:1:bob::b"}


def test_what_a_later_release_has_written_is_read_as_far_as_it_is_known() -> None:
    state = RECORDED["running"] | {"version": 2, "array": [1, 2]}
    state["request"] = state["request"] | {"environment": "climate-2027"}
    record = JobRecord.load(state)
    assert (record.version, record.job_id, record.node) == (2, "77", "c1")
    assert record.request is not None
    assert record.request.cores == 2


@pytest.mark.parametrize(
    ("key", "value"), [("port", "no port"), ("request", {"project": "climate"}), ("request", "x"), ("node", None)]
)
def test_a_value_that_cannot_be_read_costs_neither_the_job_nor_the_hub(
    key: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    record = JobRecord.load(RECORDED["running"] | {key: value})
    assert (record.job_id, record.tag) == ("77", RECORDED["running"]["tag"])
    assert getattr(record, key) == getattr(JobRecord(), key)
    assert f"The record of job 77 has values that cannot be read: {key}" in caplog.text


def test_a_record_is_never_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        JobRecord().node = "c1"  # type: ignore[misc]


def test_two_hubs_of_one_cluster_know_their_jobs_apart() -> None:
    ours, theirs = (hub_identity("demo", f"https://{name}.example.org/") for name in ("hub", "staging"))
    assert ours != theirs
    assert new_tag(ours, "alice", "second", "00ff") == f"{ours}:alice:second:00ff"
