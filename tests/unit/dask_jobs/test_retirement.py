"""The one rule by which workers retire: the site's file, an inventory's check and jobs of any wall time follow it."""

from __future__ import annotations

import pytest

from hpchub.dask_jobs import retirement


@pytest.mark.parametrize(
    ("minutes", "wait", "pair"),
    [(60, 3, (2880, 360)), (60, 0, (2880, 360)), (60, 60, (2160, 1080)), (240, 30, (9360, 3600)), (1, 0, (48, 6))],
)
def test_workers_leave_over_four_waits_and_before_nine_tenths_of_the_wall_time(
    minutes: int, wait: int, pair: tuple[int, int]
) -> None:
    assert retirement.of_wall_time(minutes, wait) == pair


@pytest.mark.parametrize("wait", range(61))
def test_the_shortest_wall_time_is_the_least_that_has_room_for_all_waits(wait: int) -> None:
    shortest = retirement.shortest_wall_time(wait)
    asked = 2 * wait * 60
    assert retirement.of_wall_time(shortest, wait)[1] >= asked
    assert wait == 0 or retirement.of_wall_time(shortest - 1, wait)[1] < asked


def test_a_pair_fits_another_wall_time_in_proportion_and_leaves_time_to_hand_over() -> None:
    assert retirement.fitting(7200, (2880, 360), 3600) == (5760, 720)
    assert sum(retirement.fitting(100, (95, 5), 100)) == pytest.approx(50)
    assert retirement.last_of(3600) == 3540
