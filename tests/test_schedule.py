"""The simulated schedule of `benchmarks.scaling`, against schedules that can be drawn by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.schedule import Task, critical_path_s, list_schedule


def test_a_chain_takes_its_sum_whatever_the_places():
    chain = [Task("a", 1, "gpu"), Task("b", 2, "gpu", ["a"]), Task("c", 3, "cpu", ["b"])]
    schedule = list_schedule(chain, {"gpu": 8, "cpu": 8})
    assert schedule.starts == {"a": 0, "b": 1, "c": 3}
    assert schedule.makespan_s == critical_path_s(chain) == 6
    assert schedule.utilisation("gpu") == pytest.approx(3 / (6 * 8))


def test_five_equal_tasks_on_two_places_take_three_turns():
    schedule = list_schedule([Task(str(n), 4, "gpu") for n in range(5)], {"gpu": 2})
    assert schedule.starts == {"0": 0, "1": 0, "2": 4, "3": 4, "4": 8}
    assert schedule.makespan_s == 12
    assert schedule.utilisation("gpu") == pytest.approx(20 / 24)


def test_kinds_do_not_wait_for_each_other():
    schedule = list_schedule([Task("a", 5, "gpu"), Task("b", 5, "gpu"), Task("c", 1, "cpu")], {"gpu": 1, "cpu": 1})
    assert schedule.starts == {"a": 0, "b": 5, "c": 0}


def test_what_can_never_start_is_named():
    with pytest.raises(ValueError, match="can never start: b"):
        list_schedule([Task("a", 1, "gpu"), Task("b", 1, "gpu", ["nothing"])], {"gpu": 1})
    with pytest.raises(ValueError, match="no place for tasks of kind gpu"):
        list_schedule([Task("a", 1, "gpu")], {"gpu": 0})


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 6))
def test_a_schedule_lies_between_its_bounds(seconds, places, reach):
    tasks = [Task(str(n), length, "gpu", [str(n - reach)] if n >= reach else []) for n, length in enumerate(seconds)]
    schedule = list_schedule(tasks, {"gpu": places})
    assert max(critical_path_s(tasks), sum(seconds) / places) <= schedule.makespan_s <= sum(seconds)
    ends = {name: start + schedule.tasks[name].seconds for name, start in schedule.starts.items()}
    for name, start in schedule.starts.items():
        assert all(ends[before] <= start for before in schedule.tasks[name].after)
        assert sum(schedule.starts[other] <= start < ends[other] for other in ends) <= places
