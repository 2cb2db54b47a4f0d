from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from gan.generation.transplant import (
    Placement,
    Transplanter,
    heal,
    read_wall,
    retransplant,
    summarise_transplants,
    take_slices,
    transplant,
    write_transplants,
)
from gan.training.config import TransplantConfig
from imaging.labels import EMIDEC_LABELS
from imaging.slices.balance import BalanceConfig, slice_categories
from imaging.slices.store import SliceStore, SliceStoreWriter
from tests.imaging.small_stores import ATTRIBUTES, ring, rows

SIZE = 64
PLAIN = TransplantConfig(smooth_px=0, grain_share=0, fade_px=0)
TONES = np.array([0.1, 0.7, 0.3, 0.9, 0.2])  # background, blood, remote wall, infarct, no-reflow


def painted(mask, gain=1.0):
    return (TONES[mask] * gain).astype(np.float16)


def quarter(category):
    """Return a mask whose lesion takes a quarter of the ring: that of `ring`, where it lies below the middle."""
    mask = ring(category, SIZE)
    upper = mask[: SIZE // 2]
    upper[upper >= 3] = 2
    return mask


def walls(category, gain=1.0):
    lesioned, healthy = ring(category, SIZE), ring("no_infarct", SIZE)
    return read_wall(painted(lesioned), lesioned), read_wall(painted(healthy, gain), healthy)


def test_a_lesion_carried_onto_the_same_wall_lies_where_it_was():
    donor, recipient = walls("no_reflow")
    image, labels = transplant(donor, recipient, Placement(0.0, mirrored=False), PLAIN)
    np.testing.assert_array_equal(labels, donor.labels)
    core = labels >= 3
    np.testing.assert_allclose(image[core], donor.image[core], atol=2e-3)


def test_half_a_turn_carries_the_lesion_to_the_other_side():
    donor, recipient = walls("infarct")
    _, labels = transplant(donor, recipient, Placement(np.pi, mirrored=False), PLAIN)
    turned = donor.labels[::-1, ::-1]
    assert ((labels == 3) == (turned == 3)).mean() > 0.96
    assert (labels == 3)[:, : labels.shape[1] // 2 - 2].any()


def test_a_mirrored_lesion_lies_on_the_other_side_of_the_axis():
    donor, recipient = walls("infarct")
    lower = donor.labels.copy()
    lower[: lower.shape[0] // 2][lower[: lower.shape[0] // 2] == 3] = 2  # only below the horizontal axis
    mask = donor.anatomy.paste(lower)
    _, labels = transplant(read_wall(painted(mask), mask), recipient, Placement(0.0, mirrored=True), PLAIN)
    rows = np.nonzero(labels == 3)[0]
    assert rows.mean() < labels.shape[0] / 2 < np.nonzero(lower == 3)[0].mean()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_intensities_are_matched_to_the_recipients_wall_and_blood(power):
    donor, recipient = walls("infarct", gain=0.5)
    config = PLAIN.model_copy(update={"contrast_power": power})
    image, labels = transplant(donor, recipient, Placement(0.0, mirrored=False), config)
    bright = np.median(donor.image[donor.labels == 3]) - donor.remote
    deep = ndimage.binary_erosion(labels == 3) & ndimage.binary_erosion(recipient.anatomy.filled, iterations=3)
    np.testing.assert_allclose(image[deep], recipient.remote + bright * 0.5**power, atol=0.01)


def test_nothing_changes_outside_the_wall():
    donor, recipient = walls("no_reflow")
    image, labels = transplant(donor, recipient, Placement(1.0, mirrored=True), TransplantConfig())
    outside = ~recipient.anatomy.myocardium
    np.testing.assert_array_equal(image[outside], recipient.image[outside].astype(np.float16))
    np.testing.assert_array_equal(labels[outside], recipient.labels[outside])
    assert set(np.unique(labels[~outside])) <= {2, 3, 4}


@pytest.mark.parametrize("category", ["infarct", "no_reflow"])
def test_a_lesion_is_covered_by_the_slices_own_remote_wall(category):
    mask = quarter(category)
    lesioned = read_wall(painted(mask), mask)
    healed = heal(lesioned)
    assert healed.labels.max() == 2
    covered = lesioned.labels >= 3
    np.testing.assert_allclose(healed.image[covered], lesioned.remote, atol=1e-3)
    far = ndimage.distance_transform_edt(~covered) > 5
    np.testing.assert_array_equal(healed.image[far], lesioned.image[far])
    outside = ~lesioned.anatomy.myocardium
    np.testing.assert_array_equal(healed.image[outside], lesioned.image[outside])


def test_a_wall_that_is_mostly_lesion_is_not_covered():
    mask = ring("infarct", SIZE)
    mask[(mask == 2) & (np.arange(SIZE) > SIZE * 0.3)] = 3
    assert heal(read_wall(painted(mask), mask)) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_recipients_are_healthy_or_covered_slices(share):
    masks = np.stack([quarter(name) for name in ("no_infarct", "infarct", "no_reflow", "no_reflow")])
    config = TransplantConfig(healed_share=share)
    maker = Transplanter(np.stack([painted(m) for m in masks]), masks, ["N1", "I1", "R1", "R2"], config)
    made = [maker.make("no_reflow", np.random.default_rng(seed)) for seed in range(12)]
    assert {m.row for m in made} == ({0} if share == 0 else {1, 2, 3})
    assert all(len(set(m.lenders)) == 2 for m in made)


@pytest.mark.parametrize("fault", ["open wall", "no contrast", "empty"])
def test_walls_that_say_nothing_are_left_out(fault):
    mask = ring("no_infarct", SIZE)
    image = painted(mask)
    if fault == "open wall":
        mask[SIZE // 2 :][mask[SIZE // 2 :] == 2] = 0
    elif fault == "no contrast":
        image[:] = 0.5
    else:
        mask[:] = 0
    assert read_wall(image, mask) is None


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    contents = ["no_infarct", "no_infarct", "infarct", "no_reflow", "no_reflow", "no_reflow"]
    masks = np.stack([ring(name, SIZE) for name in contents])
    path = tmp_path_factory.mktemp("transplants") / "real.h5"
    with SliceStoreWriter(path, replace(ATTRIBUTES, region_px=SIZE)) as writer:
        writer.append(painted(masks), masks, rows(len(masks), ["N1", "N2", "I1", "R1", "R2", "TEST"]))
    return SliceStore.open(path)


def test_the_store_is_balanced_repeats_and_names_its_donors(real, tmp_path):
    train = np.arange(5)
    for name in ("a.h5", "b.h5"):
        write_transplants(tmp_path / name, real, train, 50, TransplantConfig(), BalanceConfig(), 3, "1")
    store, again = SliceStore.open(tmp_path / "a.h5"), SliceStore.open(tmp_path / "b.h5")
    assert store.digest == again.digest
    counts = dict(zip(*np.unique(slice_categories(store.masks(), EMIDEC_LABELS), return_counts=True), strict=True))
    assert counts == {"no_infarct": 25, "infarct": 2, "no_reflow": 23}
    assert set(store.rows["case_id"]) <= {"N1", "N2", "I1", "R1", "R2"}
    lenders = {name for names in store.rows["donor_ids"] for name in names.split(";")}
    assert lenders == {"N1", "N2", "I1", "R1", "R2"}
    categories = slice_categories(store.masks(), EMIDEC_LABELS)
    assert all(len(names.split(";")) == 2 for names in store.rows["donor_ids"][categories != "no_infarct"])


def test_without_healthy_walls_there_is_nothing_to_transplant_into():
    masks = np.stack([ring("infarct", SIZE)] * 2)
    with pytest.raises(InputError, match=r"none of 2 training slices shows a closed wall without lesion"):
        Transplanter(np.stack([painted(m) for m in masks]), masks, ["A", "B"], TransplantConfig())


def test_lesions_that_are_too_small_are_refused_in_words(real):
    config = TransplantConfig(minimum_infarct_px=4000)
    maker = Transplanter(real.images(), real.masks(), real.rows["case_id"].tolist(), config)
    with pytest.raises(InputError, match=r"lower transplant.minimum_infarct_px"):
        maker.make("infarct", np.random.default_rng(0))


def test_transplants_are_taken_as_they_are_with_the_place_of_their_lesions(real, tmp_path):
    write_transplants(tmp_path / "masks.h5", real, np.arange(5), 20, TransplantConfig(), BalanceConfig(), 3, "1")
    made = SliceStore.open(tmp_path / "masks.h5")
    take_slices(made, tmp_path / "slices.h5", 3, "2")
    taken = SliceStore.open(tmp_path / "slices.h5")
    for name in ("images", "masks"):
        np.testing.assert_array_equal(getattr(taken, name)(), getattr(made, name)())
    np.testing.assert_array_equal(taken.extra("hole"), made.extra("hole"))
    assert taken.rows.equals(made.rows)
    healthy = painted(ring("no_infarct", SIZE))
    outside = taken.extra("hole") == 0
    np.testing.assert_array_equal(taken.images()[outside], np.broadcast_to(healthy, outside.shape)[outside])
    assert (taken.masks()[~outside] >= 2).all()  # holes stay inside the wall
    assert not outside[taken.masks() >= 3].any()
    summary = summarise_transplants(taken).set_index("category")
    assert summary["slices"].to_dict() == {"infarct": 1, "no_infarct": 10, "no_reflow": 9}
    assert (summary.loc["no_reflow", "donors"], summary.loc["no_infarct", "donors"]) == (2, 0)


def test_a_lesion_carried_to_where_it_is_changes_next_to_nothing():
    masks = np.stack([ring("no_reflow", SIZE), np.zeros((SIZE, SIZE), np.uint8)])
    images = painted(masks)
    again = retransplant(images, masks, PLAIN)
    np.testing.assert_allclose(again, images, atol=2e-3)
    assert not np.allclose(retransplant(images, masks, TransplantConfig()), images, atol=2e-3)
