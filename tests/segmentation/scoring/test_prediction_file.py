import errno
import os

import numpy as np
import pytest

from common.errors import InputError
from imaging.slices.part import LabelledSlices
from imaging.slices.store import SliceStore
from segmentation.report.material import Arm, Prediction, gather_cases
from segmentation.scoring.held_out import PredictedSlices, read_predictions, write_predictions
from tests.imaging.small_stores import ring, write

ARM, OTHER = Arm("halsr_net", "real_only", 0), Arm("halsr_net", "real_plus_gan", 0)


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "slices.h5", [ring("infarct"), ring("no_reflow"), ring("no_infarct")])


def predicted(store, order=(0, 1, 2), digest=None):
    reference = LabelledSlices.of(store, np.array(order))
    return PredictedSlices(reference, np.flip(reference.masks, axis=2).copy(), digest or store.digest)


def test_what_is_read_is_what_was_written_and_the_bytes_are_the_same_each_time(store, tmp_path):
    slices = predicted(store)
    for name in ("one.h5", "two.h5"):
        write_predictions(tmp_path / name, slices)
    found = read_predictions(tmp_path / "one.h5")
    np.testing.assert_array_equal(found.prediction, slices.prediction)
    np.testing.assert_array_equal(found.reference.masks, slices.reference.masks)
    assert found.reference.places.to_dict("list") == slices.reference.places.to_dict("list")
    assert found.slices_digest == store.digest
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("damage", ["absent", "truncated", "foreign"])
def test_a_file_that_cannot_be_read_names_the_remedy(store, tmp_path, damage):
    path = tmp_path / "predictions.h5"
    if damage == "truncated":
        write_predictions(path, predicted(store))
        path.write_bytes(path.read_bytes()[:500])
    if damage == "foreign":
        path.write_bytes(store.path.read_bytes())
    with pytest.raises(InputError, match=r"predictions.h5: is not a readable .* rematerialise the scores asset"):
        read_predictions(path)


def test_slices_that_do_not_belong_together_are_refused(store):
    whole = predicted(store)
    for prediction in (whole.prediction[:2], whole.prediction[:, :8]):
        with pytest.raises(InputError, match=r"predictions .* do not belong together"):
            PredictedSlices(whole.reference, prediction, "")


def test_cases_hold_image_reference_and_predictions_in_the_order_of_slices(store):
    shuffled = predicted(store, order=(2, 0, 1))
    cases, notes = gather_cases([Prediction(0, ARM, shuffled)], lambda _: SliceStore.open(store.path))
    (case,) = cases
    assert case.case_id == "P1"
    assert not notes
    np.testing.assert_array_equal(case.images, store.images())
    np.testing.assert_array_equal(case.reference, store.masks())
    np.testing.assert_array_equal(case.predictions[ARM], np.flip(store.masks(), axis=2))


def test_slices_made_anew_leave_out_pictures_and_older_predictions_and_say_so(store):
    newer = Prediction(0, OTHER, predicted(store, digest="newer"))
    older = Prediction(0, ARM, predicted(store, digest="older"))
    cases, notes = gather_cases([older, newer], lambda _: SliceStore.open(store.path))
    assert cases[0].images is None
    assert set(cases[0].predictions) == {OTHER}
    assert any("its slices were made anew" in note for note in notes)
    assert any("1 of 2 scorings saw other slices" in note for note in notes)


def test_a_full_disk_is_one_line_and_leaves_the_file_that_was_there(store, tmp_path, monkeypatch):
    path = tmp_path / "predictions.h5"
    write_predictions(path, predicted(store))
    before = path.read_bytes()

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match=r"predictions\.h5: cannot be written \(No space left.*free disk space"):
        write_predictions(path, predicted(store))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []
