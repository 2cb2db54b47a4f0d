"""Whether what lies in an arm's folders belongs together."""

import pytest

from engine.outcome import Outcome
from engine.record import Record
from pipeline.commands.experiment.cells import _code_version, _is_of


def record(asset, version="1", behind=(), parents=()):
    made_of = {"code_version": _code_version(asset), "parents": dict(parents)}
    return Record(asset, "", version, {}, Outcome({}, behind=dict(behind)), made_of=made_of)


@pytest.mark.parametrize("place", ["lv_localiser/fold_0", "studies"])
def test_a_result_is_of_its_nearest_inputs_and_of_all_that_stands_behind_them(place):
    slices = record("real_slices", behind={"studies": "1"}, parents={"lv_localiser/fold_0": "1"})
    lying = {"studies": record("studies"), "lv_localiser/fold_0": record("lv_localiser"), "real_slices/fold_0": slices}
    assert _is_of("real_slices", slices, lying)
    assert not _is_of("real_slices", slices, lying | {place: record(place.partition("/")[0], "2")})
