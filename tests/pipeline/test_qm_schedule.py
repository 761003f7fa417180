"""The schedule: by hand on small cases, and within its bounds on any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.qm.schedule import cores_for, speedup, wall_seconds


def test_plans_by_hand() -> None:
    """Equal jobs: as many rounds as they need; one job takes all cores; a short one takes one."""
    assert wall_seconds([10.0] * 4, 2) == pytest.approx(20.0)
    assert wall_seconds([10.0] * 3, 4) == pytest.approx(10.0)
    assert wall_seconds([10.0], 2) == pytest.approx(10.0 / speedup(2))
    assert wall_seconds([1.0], 2) == pytest.approx(1.0)
    assert wall_seconds([], 2) == 0.0
    # 10 on one core, beside it 4, 3, 2 and 1 on the other.
    assert wall_seconds([1.0, 2.0, 3.0, 4.0, 10.0], 2) == pytest.approx(10.0)


def test_a_job_gets_its_share_of_the_cores() -> None:
    """Nothing else waits: all free cores; half of the work: half of them; little of it: one; never more than
    are free.
    """
    assert cores_for(100.0, 0.0, 8, 8) == 8
    assert cores_for(100.0, 0.0, 3, 8) == 3
    assert cores_for(100.0, 100.0, 8, 8) == 4
    assert cores_for(100.0, 10000.0, 8, 8) == 1
    assert cores_for(2.0, 0.0, 8, 8) == 8
    assert cores_for(1.9, 0.0, 8, 8) == 1


@given(st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=30), st.integers(1, 8))
def test_the_plan_is_between_its_bounds(jobs: list[float], n_cores: int) -> None:
    """No plan beats all cores at full speed, nor the longest job on all; none is worse than one core."""
    wall = wall_seconds(jobs, n_cores)
    assert wall >= sum(jobs) / n_cores - 1e-9
    assert wall >= max(jobs) / speedup(n_cores) - 1e-9
    assert wall <= sum(jobs) + 1e-9
