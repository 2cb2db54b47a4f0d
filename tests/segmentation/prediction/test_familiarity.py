from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.slices.store import ROW_COLUMNS, SliceStore, SliceStoreWriter
from imaging.studies.preparation import Box
from imaging.studies.split import FoldSplit
from runtime.compute import choose_compute
from segmentation.prediction.familiarity import (
    FILE,
    check_familiarity,
    contrast,
    describe,
    fit_cloud,
    joined,
    read_familiarity,
    remember_training,
    seen_range,
)
from segmentation.prediction.plausibility import SeenRange, implausibilities, ventricle_measures
from segmentation.prediction.segmenter import load_segmenter
from tests.segmentation.prediction.test_predict import write_model
from tests.segmentation.toy_slices import draw_slices, write_toy_store

TRAINING = tuple(f"Case_P{number:03}" for number in range(6))
SPLIT = FoldSplit(0, TRAINING, ("Case_P006", "Case_P007"), ("Case_P008",))
BOX = Box(10, 10, 50, 50)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


@pytest.fixture
def remembered(tmp_path, compute):
    """An untrained model that remembers toy studies."""
    store = write_patients(tmp_path / "slices.h5", patients=8)
    folder = write_model(tmp_path / "model", 0)
    remember_training(folder, store, SPLIT, compute)
    return folder


def write_patients(path, patients, each=4, part="train"):
    """A store of toy slices, `each` a patient; `part` may name one a slice."""
    images, masks = draw_slices(patients * each, 32)
    rows = pd.DataFrame({"case_id": np.repeat([f"Case_P{number:03}" for number in range(patients)], each)})
    rows = rows.assign(
        frame="",
        donor_ids="",
        slice_index=np.tile(np.arange(each), patients),
        replica=0,
        origin="real",
        group="infarct",
        part=part,
    )
    with SliceStoreWriter(path, write_toy_store(path.with_name("toy.h5")).attributes) as writer:
        writer.append(images, masks, rows[list(ROW_COLUMNS)])
    return SliceStore.open(path)


def ring(slices=6, side=64, radius=(8, 14), centre=(32, 32)):
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    plane = np.where(distance < radius[0], 1, np.where(distance < radius[1], 2, 0)).astype(np.uint8)
    return np.repeat(plane[None], slices, axis=0)


def oddities(regions, boxes=(BOX,), seen=None, spacing_mm=(10.0, 1.0, 1.0), mask=None):
    mask = np.pad(regions, ((0, 0), (8, 8), (8, 8))) if mask is None else mask  # far from the image's edge
    return " ".join(implausibilities(regions, boxes, EMIDEC_LABELS, seen, mask, spacing_mm))


def test_distances_are_those_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    training = rng.normal(size=(4000, 3)) @ np.diag([1.0, 10.0, 0.5]) + [5, 0, -3]
    patients = np.repeat(np.arange(20), 200).astype(str)
    cloud = fit_cloud(training, patients, training[:0])
    found = cloud.distances(np.array([[5, 0, -3], [7, 0, -3], [5, -30, -3], [5, 0, -2]]))
    np.testing.assert_allclose(found, [0, 2, 3, 2], atol=0.15)
    assert cloud.threshold == pytest.approx(1.3 * 2.795, rel=0.05)  # chi with three degrees: 95 % lie within 2.795


def test_the_threshold_rests_on_patients_left_out_and_on_validation():
    rng = np.random.default_rng(1)
    training = rng.normal(size=(12, 30))
    cloud = fit_cloud(training, np.arange(12).astype(str), rng.normal(size=(5, 30)))
    assert cloud.others.shape == (17,)
    assert np.median(cloud.others) > cloud.distances(training).max()  # those seen lie closer than others


def test_a_patient_is_left_out_with_all_frames():
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(6, 1, 20)) + rng.normal(0, 0.01, size=(6, 2, 20))
    patients = np.repeat(np.arange(6), 2).astype(str)
    cloud = fit_cloud(frames.reshape(12, 20), patients, np.empty((0, 20)))
    assert cloud.others.shape == (12,)
    assert cloud.others.min() > 2 * cloud.distances(frames.reshape(12, 20)).max()


def test_a_number_that_never_varied_does_not_make_everything_unlike():
    rng = np.random.default_rng(3)
    training = rng.normal(size=(30, 4))
    training[:, 2] = 0
    cloud = fit_cloud(training, np.arange(30).astype(str), training[:0])
    assert np.isfinite(cloud.distances(training)).all()
    assert cloud.distances(np.array([[0, 0, 0.05, 0]]))[0] < cloud.threshold


def gaussian(mean, seed=0, patients=40):
    rng = np.random.default_rng(seed)
    return fit_cloud(rng.normal(mean, 1.0, (patients, len(mean))), np.arange(patients).astype(str), np.empty((0, 2)))


def test_a_study_between_two_kinds_is_unlike_beyond_the_middle_and_its_own_kind():
    own, near, far = gaussian([0, 0]), gaussian([3, 0], 1), gaussian([10, 0], 2)
    on_the_way = own.towards(far, np.array([4.0, 3.0]))
    assert on_the_way.distance == pytest.approx(4, abs=0.8)  # standard deviations along the way; across does not count
    assert on_the_way.threshold == pytest.approx(5, abs=0.8)
    assert own.towards(near, np.array([1.6, 0])).threshold == 2.33  # the middle at 1.5 has too many of its own beyond
    assert own.towards(far, np.array([-4.0, 0])).distance < 0


def test_networks_of_one_model_are_one_kind():
    one = joined([gaussian([0, 0]), gaussian([2, 4], 1)])
    np.testing.assert_allclose(one.mean, [1, 2], atol=0.4)
    np.testing.assert_allclose(one.full_covariance, np.eye(2), atol=0.4)


def test_a_study_that_lies_towards_another_model_is_named_with_it(remembered, compute):
    segmenter, own = load_segmenter(remembered, compute, flips=False), read_familiarity(remembered)
    usual = draw_slices(32, 32)[0][:4]
    found = contrast(usual, segmenter.labels(usual))
    here, away = own.clouds["contrast"], np.full(6, 3, np.float32)
    cine = replace(here, mean=found + 0.01 * away)  # the study is nearer to it than to the model's own training
    apart = replace(own, clouds={**own.clouds, "contrast": replace(here, mean=found - away)}, others={"cine": cine})
    check = check_familiarity([segmenter.features(usual)], [apart], usual, segmenter.labels(usual))
    assert "contrast towards cine at distance" in check.sentence
    none = check_familiarity([segmenter.features(usual)], [replace(own, others={})], usual, segmenter.labels(usual))
    assert "towards" not in " ".join(none.distances)


def test_contrast_is_of_the_wall_beside_what_surrounds_it():
    labels = ring(slices=2)
    images = np.where(labels == 2, 0.1, np.where(labels == 1, 0.9, 0.4)).astype(np.float32)
    *fading, wall, below, beside = contrast(images, labels)
    assert (wall, below, beside) == pytest.approx((0.1, 0.0, -0.3), abs=1e-6)
    assert len(fading) == 3
    *_, below, beside = contrast(np.where(labels == 0, 0.05, images).astype(np.float32), labels)
    assert (below, beside) == pytest.approx((1.0, 0.05), abs=1e-6)
    assert np.isfinite(contrast(images, np.zeros_like(labels))).all()


def test_what_older_models_remember_is_read_as_far_as_it_goes(remembered):
    tensors = load_file(remembered / FILE)
    save_file({key.replace("contrast/", "appearance/"): one for key, one in tensors.items()}, remembered / FILE)
    familiarity = read_familiarity(remembered)
    assert set(familiarity.clouds) == {"features"}
    assert not familiarity.is_whole


def test_what_is_remembered_comes_back_from_the_model_folder(remembered, compute):
    familiarity = read_familiarity(remembered)
    assert set(familiarity.clouds) == {"features", "contrast"}
    assert familiarity.is_whole
    assert familiarity.clouds["features"].mean.shape == (8,)
    assert familiarity.clouds["features"].others.shape == (8,)  # six training and two validation patients
    assert 0.2 < familiarity.seen.lowest["infarction_share"] <= familiarity.seen.highest["infarction_share"] < 0.3
    assert (remembered / FILE).stat().st_size < 20_000
    again = remember_training(remembered, SliceStore.open(remembered.parent / "slices.h5"), SPLIT, compute)
    np.testing.assert_array_equal(again.clouds["features"].covariance, familiarity.clouds["features"].covariance)


def test_noise_is_unlike_and_a_training_study_is_not(remembered, compute):
    segmenter, familiarity = load_segmenter(remembered, compute, flips=False), read_familiarity(remembered)
    usual = draw_slices(32, 32)[0][:4]  # of the first patient
    noise = np.random.default_rng(0).uniform(size=(6, 32, 32)).astype(np.float32)
    like = check_familiarity([segmenter.features(usual)], [familiarity], usual, segmenter.labels(usual))
    unlike = check_familiarity([segmenter.features(noise)], [familiarity], noise, segmenter.labels(noise))
    assert like.sentence == ""
    assert "unlike the model's training studies" in unlike.sentence
    assert "contrast at distance" in unlike.sentence


def test_a_model_that_remembers_nothing_checks_nothing(tmp_path, compute):
    folder = write_model(tmp_path / "m", 0)
    segmenter = load_segmenter(folder, compute)
    images = draw_slices(2, 32)[0]
    assert read_familiarity(folder) is None
    assert check_familiarity([segmenter.features(images)], [None], images, segmenter.labels(images)) is None
    assert seen_range([None]) is None


def test_three_training_patients_are_too_few_to_remember(tmp_path, compute):
    store, folder = write_patients(tmp_path / "slices.h5", 4), write_model(tmp_path / "m", 0)
    few = FoldSplit(0, TRAINING[:3], TRAINING[3:4], TRAINING[4:5])
    assert remember_training(folder, store, few, compute) is None
    assert not (folder / FILE).exists()


@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_file_says_what_to_do(remembered, keep):
    (remembered / FILE).write_bytes((remembered / FILE).read_bytes()[:keep])
    with pytest.raises(InputError, match=r"familiarity.safetensors: cannot be read .*rematerialise"):
        read_familiarity(remembered)


def test_a_description_does_not_depend_on_the_order_of_slices(remembered, compute):
    segmenter = load_segmenter(remembered, compute, flips=False)
    images, labels = draw_slices(5, 32)
    features = segmenter.features(images)
    turned = describe(features[::-1], images[::-1].copy(), labels[::-1])
    for name, description in describe(features, images, labels).items():
        np.testing.assert_allclose(turned[name], description, atol=1e-5)


def test_a_sound_ventricle_has_no_oddity():
    assert oddities(ring()) == ""
    with_empty_ends = ring()
    with_empty_ends[[0, -1]] = 0
    assert oddities(with_empty_ends) == ""


def test_nothing_drawn_is_said_with_the_number_of_slices():
    assert "no left ventricle was found in any of the 6 slices" in oddities(np.zeros((6, 64, 64), np.uint8))


def test_scattered_slices_are_named():
    scattered = ring(12)
    scattered[[1, 2, 4, 5, 6, 7, 9, 10, 11]] = 0
    assert "only in slices 1, 4, 9 of 12, with 6 empty slices between them" in oddities(scattered)


def test_several_pieces_are_measured():
    pieces = np.maximum(ring(radius=(5, 10), centre=(16, 16)), ring(radius=(5, 10), centre=(46, 46)))
    assert "50% of the ventricle lies outside the largest piece" in oddities(pieces)


def test_an_open_cavity_is_measured():
    half = ring()
    half[:, 32:][half[:, 32:] == 2] = 0
    assert "the cavity is not enclosed" in oddities(half)
    assert "no cavity was found in the 6 slices with myocardium" in oddities(np.where(ring() == 1, 2, ring()))


def test_a_ventricle_at_the_region_s_border_is_said():
    assert "touches the border of the region in 6 of 6 slices" in oddities(ring(centre=(5, 32)))


@pytest.mark.parametrize(
    ("slices", "slice_mm", "said"), [(7, 1.3, "9 mm long (7 slices of 1.3 mm)"), (7, 45, "315 mm")]
)
def test_a_length_that_no_heart_has_is_said(slices, slice_mm, said):
    text = oddities(ring(slices), spacing_mm=(slice_mm, 1.0, 1.0))
    assert f"the ventricle is {said}" in text
    assert "a heart's is 35 to 160 mm: correct the slice distance, volumes depend on it" in text


@pytest.mark.parametrize(("slices", "slice_mm"), [(4, 5.0), (5, 8.0), (12, 10.0), (100, 1.0), (7, 13.0), (15, 5.0)])
def test_few_slices_and_thin_ones_are_no_odd_length(slices, slice_mm):
    assert oddities(ring(slices), spacing_mm=(slice_mm, 1.0, 1.0)) == ""


def test_a_slice_of_cavity_without_myocardium_is_said():
    bare = ring(15)
    bare[3][bare[3] == 2] = 0
    assert oddities(bare) == (
        "slice 4 (193 mm²) of 15 has cavity and no myocardium; look whether its image is blank or damaged"
    )
    small = ring(15)
    small[14] = ring(1, radius=(5, 5))[0]  # 81 mm², as references draw at the apex
    assert oddities(small) == ""


def test_a_ventricle_at_the_image_s_edge_is_said():
    for half in (ring()[:, :, 32:], ring()[:, :, :32], ring()[:, 32:], ring()[:, :32]):
        assert "comes within 3 mm of the image's edge in 6 of 6 slices" in oddities(ring(), mask=half)
    beside = ring()[:, :, 17:]  # two columns beside the ventricle
    assert "image's edge" in oddities(ring(), mask=beside, spacing_mm=(10.0, 2.0, 1.0))
    assert "image's edge" not in oddities(ring(), mask=beside, spacing_mm=(10.0, 1.0, 2.0))


def test_a_whole_ventricle_in_a_narrow_image_is_not_cut():
    narrow = ring()[:, 14:50, 14:50]  # 4 mm beside it
    assert oddities(ring(), mask=narrow) == ""
    tapering = ring()
    tapering[3:] = ring(3, radius=(4, 8))
    assert oddities(tapering, mask=tapering[:, 18:46, 18:46]) == ""  # touched by its largest slices alone


def test_localisers_that_disagree_are_said():
    assert "the 2 localisers disagree about the ventricle's place by up to 50 mm" in oddities(
        ring(), (BOX, Box(40, 50, 80, 90))
    )


def test_a_size_that_training_never_showed_is_said():
    seen = SeenRange(
        {"ventricle_mm2": 1500, "cavity_share": 0.3, "infarction_share": 0},
        {"ventricle_mm2": 3000, "cavity_share": 0.6, "infarction_share": 0.3},
    )
    text = oddities(ring(), seen=seen)
    assert (
        "mean cross-section of the ventricle (cavity and myocardium) is 609 mm², in training 1500 mm² to 3000 mm²"
        in text
    )
    assert "cavity's share" not in text


def test_measures_of_nothing_are_not_numbers():
    assert np.isnan(list(ventricle_measures(np.zeros((2, 8, 8), np.uint8), EMIDEC_LABELS).values())).all()
    assert np.isnan(ventricle_measures(ring(), CINE_LABELS)["infarction_share"])
