from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpchub.request import FIELDS, JobRequest, check, clock, gib, parse_walltime
from hpchub.scheduler.offers import Facts, Offer, OfferedReservation
from hpchub.settings import Cluster, Form, Queue

GOOD = {"project": "climate", "queue": "regular", "walltime": "02:30", "cores": "4", "memory": "8", "gpus": "0"}


def test_a_good_wish_becomes_a_request(facts: Facts, cluster: Cluster) -> None:
    assert check(GOOD, facts, cluster) == JobRequest(
        project="climate", queue="regular", walltime_minutes=150, cores=4, memory_mib=8192, gpus=0, reservation=None
    )


def test_a_stored_wish_gives_the_same_request_again(facts: Facts, cluster: Cluster) -> None:
    first = check(GOOD | {"reservation": "tutorial", "memory": "0.7"}, facts, cluster)
    assert isinstance(first, JobRequest)
    assert check(first.user_options(), facts, cluster) == first


def test_an_empty_wish_takes_the_defaults_but_never_chooses_a_project(facts: Facts, cluster: Cluster) -> None:
    assert check({}, facts, cluster) == {"project": "Choose a project: climate or ocean."}
    request = check({"project": "ocean"}, facts, cluster)
    assert isinstance(request, JobRequest)
    assert (request.queue, request.walltime_minutes, request.cores, request.memory_mib) == ("interactive", 60, 1, 4096)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"project": "ice"}, "project", "'ice' is not one of your projects. Choose climate or ocean."),
        ({"queue": "nowhere"}, "queue", "'nowhere' is not a queue that you can use here"),
        ({"queue": "gpu"}, "queue", "Project climate may not use the queue gpu"),
        ({"walltime": "13:00"}, "walltime", "13:00 is longer than the queue regular allows. Write 12:00 or less."),
        ({"walltime": "1-00:00:00"}, "walltime", "Write 12:00 or less."),
        ({"walltime": 721}, "walltime", "Write 12:00 or less."),
        ({"walltime": "soon"}, "walltime", "Write hours and minutes, as 02:30, or minutes, as 150."),
        ({"walltime": "0"}, "walltime", "at least one minute"),
        ({"walltime": "-5"}, "walltime", "is not a duration"),
        ({"walltime": "UNLIMITED"}, "walltime", "is not a duration"),
        ({"cores": "37"}, "cores", "37 is more than the 36 cores"),
        ({"cores": "0"}, "cores", "Write at least 1."),
        ({"cores": "2x"}, "cores", "is not a number of cores"),
        ({"cores": "\u0662"}, "cores", "is not a number of cores"),
        ({"cores": 1.5}, "cores", "is not a number of cores"),
        ({"cores": True}, "cores", "is not a value for this field"),
        ({"cores": ["1"]}, "cores", "is not a value for this field"),
        ({"cores": "1\n#SBATCH --exclusive"}, "cores", "is not a number of cores"),
        ({"memory": "200"}, "memory", "200 GiB is more than a node of this queue has. Write 109 or less."),
        ({"memory": "0.1"}, "memory", "JupyterLab needs at least 0.5 GiB."),
        ({"memory": "1e3"}, "memory", "is not an amount of memory"),
        ({"gpus": "1"}, "gpus", "The queue regular has no GPUs"),
        ({"project": "ocean", "queue": "gpu", "gpus": "5"}, "gpus", "5 is more than the 4 GPUs"),
        ({"reservation": "maintenance"}, "reservation", "not a reservation that you may use now. Choose tutorial, or"),
        ({"reservation": "tutorial", "queue": "interactive"}, "reservation", "is for the queue regular"),
        ({"partition": "regular"}, "", "'partition' cannot be chosen here"),
        ({"project": "x" * 1000}, "project", "is not a value for this field"),
        ({"project": None}, "project", "Choose a project"),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(
    facts: Facts, cluster: Cluster, change: dict[str, Any], field: str, words: str
) -> None:
    wrong = check(GOOD | change, facts, cluster)
    assert isinstance(wrong, dict)
    assert list(wrong) == [field]
    assert words in wrong[field]


def test_all_wrong_fields_are_told_at_once(facts: Facts, cluster: Cluster) -> None:
    wrong = check({"project": "ice", "queue": "no", "walltime": "x", "cores": "x", "memory": "x"}, facts, cluster)
    assert isinstance(wrong, dict)
    assert set(wrong) == {"project", "queue", "walltime", "cores", "memory"}


def test_who_has_no_project_reads_whom_to_ask(cluster: Cluster) -> None:
    wrong = check({}, Facts(user="carol", projects=(), offers=()), cluster)
    assert wrong == {"": "You have no project on demo, carol, so no job can be started. Please ask help@example.org."}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("01:30", 90), ("01:30:00", 90), ("00:00:01", 1), ("2-00:00:00", 2880), ("1:5", 65), ("1:75", None)],
)
def test_durations_are_read_as_people_write_them(text: str, minutes: int | None) -> None:
    assert parse_walltime(text) == minutes


@given(st.integers(1, 100_000))
def test_a_written_duration_reads_back(minutes: int) -> None:
    assert parse_walltime(clock(minutes)) == minutes


@given(st.integers(512, 10_000_000))
def test_a_written_amount_of_memory_reads_back(mebibytes: int) -> None:
    assert round(float(gib(mebibytes)) * 1024) == mebibytes


CLUSTER = Cluster(
    name="demo", scheduler="slurm", shared_prefix="/opt/hpchub", support_contact="x", form=Form(),
    queues=(Queue(name="q"),),
)  # fmt: skip
NAMES = st.sampled_from(["climate", "ocean", "ice", "q", "r", "tutorial", "other", ""])
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), NAMES, st.lists(st.text()),
    st.integers(0, 40).map(str), st.from_regex(r"[0-9]{1,3}:[0-9]{2}", fullmatch=True), st.binary(),
)  # fmt: skip
FACTS = st.builds(
    Facts,
    user=st.just("alice"),
    projects=st.sampled_from([(), ("climate",), ("climate", "ocean")]),
    offers=st.lists(
        st.builds(
            Offer, name=st.sampled_from(["q", "r"]), description=st.just(""), default=st.booleans(),
            projects=st.sampled_from([("climate",), ("climate", "ocean"), ("ocean",)]),
            max_walltime_minutes=st.none() | st.integers(1, 5000), max_cores=st.none() | st.integers(1, 64),
            max_memory_mib=st.none() | st.integers(512, 200_000), max_gpus=st.integers(0, 8),
        ),
        max_size=2, unique_by=lambda offer: offer.name,
    ).map(tuple),
    reservations=st.sampled_from([(), (OfferedReservation("tutorial", ("ocean",), "r"),)]),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no defect
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JUNK), FACTS)
def test_nothing_passes_that_the_facts_do_not_allow(wish: dict[str, Any], facts: Facts) -> None:
    result = check(wish, facts, CLUSTER)
    if isinstance(result, dict):
        assert result
        assert all(words.endswith(".") and key in (*FIELDS, "") for key, words in result.items())
        return
    assert set(wish) <= set(FIELDS)
    assert result.project in facts.projects
    offer = next(offer for offer in facts.offers if offer.name == result.queue)
    assert result.project in offer.projects
    assert 1 <= result.walltime_minutes <= (offer.max_walltime_minutes or 10**9)
    assert 1 <= result.cores <= (offer.max_cores or 10**9)
    assert 512 <= result.memory_mib <= (offer.max_memory_mib or 10**9)
    assert 0 <= result.gpus <= offer.max_gpus
    if result.reservation is not None:
        reservation = next(one for one in facts.reservations if one.name == result.reservation)
        assert result.project in reservation.projects
        assert reservation.queue in (None, result.queue)
