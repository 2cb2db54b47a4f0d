import numpy as np
import pytest

from common.errors import InputError
from imaging.slices.part import LabelledSlices, PartSlices
from tests.imaging.small_stores import ring, write
from tests.part_slices import part_slices


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "slices.h5", [ring("infarct"), ring("no_reflow"), ring("no_infarct")])


def test_what_is_read_are_the_rows_of_the_store(store):
    slices = PartSlices.of(store, np.array([2, 0]))
    np.testing.assert_array_equal(slices.images, store.images([2, 0]).astype(np.float32))
    np.testing.assert_array_equal(slices.masks, store.masks([2, 0]))
    rows = store.rows.iloc[[2, 0]]
    assert slices.case_ids.tolist() == rows["case_id"].tolist()
    assert slices.slice_index.tolist() == rows["slice_index"].tolist()
    assert slices.studies.tolist() == [f"{row.case_id}/{row.frame}" for row in rows.itertuples()]


def test_a_part_without_a_slice_is_named(store):
    assert len(PartSlices.of_part(store, "train")) == len(store)
    with pytest.raises(InputError, match="holds no slice of validation patients; rematerialise"):
        PartSlices.of_part(store, "validation")


def test_stacks_are_the_studies_with_their_slices_in_order():
    masks = np.zeros((4, 2, 2), np.uint8)
    slices = part_slices(masks / 1.0, masks, ["P2", "P1", "P2", "P1"], [1, 0, 0, 1])
    assert [(stack.case_id, stack.frame, stack.rows.tolist()) for stack in slices.stacks()] == [
        ("P1", "", [1, 3]),
        ("P2", "", [2, 0]),
    ]


def test_some_rows_and_other_images_keep_their_patients():
    masks = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    slices = part_slices(masks / 2, masks, ["P0", "P1", "P2"])
    chosen = slices.at(np.array([2, 0]))
    assert chosen.case_ids.tolist() == ["P2", "P0"]
    assert chosen.masks[:, 0, 0].tolist() == [2, 0]
    assert chosen.images[:, 0, 0].tolist() == [1.0, 0.0]
    assert [stack.rows.tolist() for stack in chosen.stacks()] == [[1], [0]]
    painted = slices.painted_as(np.zeros((3, 2, 2)))
    assert not painted.images.any()
    assert painted.places is slices.places


def test_what_does_not_belong_together_is_refused():
    places, masks = (
        part_slices(np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.uint8)).places,
        np.zeros((2, 4, 4), np.uint8),
    )
    for images in (np.zeros((3, 4, 4)), np.zeros((2, 4, 5))):
        with pytest.raises(InputError, match=r"2 places, masks \(2, 4, 4\) and images .* do not belong together"):
            PartSlices(places, masks, images)
    with pytest.raises(InputError, match=r"2 places, masks \(3, 4, 4\)"):
        LabelledSlices(places, np.zeros((3, 4, 4), np.uint8))
