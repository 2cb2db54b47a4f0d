"""Training of the lesion judge: its examples, their corruption, and that it tells ill hearts from healthy ones."""

import numpy as np
import pytest

from imaging.labels import Tissue
from segmentation.corrector.judge import JudgeConfig
from segmentation.corrector.training import corrupted, degraded, example_of, fit_judge
from segmentation.corrector.wall import VALID
from tests.segmentation.corrector.hearts import images, masks, probabilities

SHORT = JudgeConfig(width=8, steps=80, batch=6, learning_rate=0.01, average_decay=0.8, patients_weight=2)


def example(drawn, reference=None):
    reference = drawn if reference is None else reference
    return example_of(probabilities(drawn), images(reference), reference)


def test_an_example_tells_what_the_patient_has_and_how_well_it_was_drawn():
    found = example(masks(infarct=False), masks(no_reflow=True))
    assert (found.present.tolist(), found.dice.tolist()) == ([1, 1], [0, 0])
    healthy = example(masks(infarct=False))
    assert (healthy.present.tolist(), healthy.dice.tolist()) == ([0, 0], [1, 1])
    assert found.cells[0].mean() > 0.3
    assert not healthy.cells.any()


def test_corruption_of_no_strength_turns_a_heart_and_keeps_what_was_found():
    own = example(masks(no_reflow=True))
    turned = corrupted(own, np.random.default_rng(1), 0.0)
    np.testing.assert_array_equal(turned.sureness, own.sureness)
    angles = [np.sort(one.wall[:2].sum(axis=(1, 2)), axis=-1) for one in (own, turned)]
    np.testing.assert_allclose(angles[1], angles[0], rtol=1e-5)
    assert turned.cells.sum() == pytest.approx(own.cells.sum())


def test_corrupted_segmentations_keep_their_reference_and_stay_in_the_wall():
    labels = masks(no_reflow=True)
    labels[2] = 0  # a slice without wall
    own = example(labels)
    for number in range(20):
        found = corrupted(own, np.random.default_rng(number), 1.0)
        assert np.isfinite(found.wall).all()
        assert np.abs(found.wall[:2]).max() <= 7 / 4
        assert found.wall.shape == own.wall.shape
        assert not found.wall[:, 2].any()
        assert found.cells.sum() == pytest.approx(own.cells.sum(), rel=1e-5)
        np.testing.assert_array_equal(found.wall[VALID].sum(), own.wall[VALID].sum())


def test_degraded_images_are_images():
    found = degraded(images(masks()), np.random.default_rng(0))
    assert (found.shape, found.dtype) == (masks().shape, np.float32)
    assert 0 <= found.min() < found.max() <= 1


def test_a_judge_learns_to_tell_a_lesion_from_specks_that_no_image_shows():
    """Hearts whose drawn infarct is dark in the image are healthy."""
    patients = [example(masks(slices)) for slices in (1, 4, 5)]
    patients += [example(masks(slices), masks(slices, infarct=False)) for slices in (2, 4, 6)]
    judge = fit_judge(patients, SHORT, seed=0)
    ill = judge.verdicts(probabilities(masks(3)), images(masks(3)))[Tissue.INFARCT]
    healthy = judge.verdicts(probabilities(masks(3)), images(masks(3, infarct=False)))[Tissue.INFARCT]
    assert ill.probability > 0.8 > 0.2 > healthy.probability
    assert judge.expected_dice == {Tissue.INFARCT: 1.0, Tissue.NO_REFLOW: 0.5}  # nobody has no-reflow


def test_the_same_seed_gives_the_same_judge():
    patients, short = [example(masks()), example(masks(infarct=False))], SHORT.model_copy(update={"steps": 2})
    one, same, other = (fit_judge(patients, short, seed).network.first.weight.tolist() for seed in (0, 0, 1))
    assert one == same != other
