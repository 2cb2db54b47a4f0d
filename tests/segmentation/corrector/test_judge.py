"""Judging whether there is a lesion: what is left out, from which probability on, and what the judge's folder holds."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from imaging.labels import Tissue
from segmentation.corrector.judge import (
    LesionJudge,
    Verdict,
    WallNetwork,
    as_judged,
    read_judge,
    sureness,
    write_judge,
)
from segmentation.corrector.wall import ANGLES, CHANNELS, DEPTHS, VALID, WallCells, wall_channels
from tests.segmentation.corrector.hearts import images, masks, probabilities

DICE = {Tissue.INFARCT: 0.6, Tissue.NO_REFLOW: 0.25}


def judge(**of_patients):
    """An untrained judge, or one whose probabilities are given: `infarct`, `no_reflow`."""
    torch.manual_seed(0)
    network = WallNetwork(4).eval()
    if of_patients:
        with torch.no_grad():
            network.patients.weight.zero_()
            network.patients.bias.copy_(torch.logit(torch.tensor([of_patients["infarct"], of_patients["no_reflow"]])))
    return LesionJudge(network, DICE)


def left(found, labels):
    return as_judged(labels, found.verdicts(probabilities(labels), images(labels)))


def test_a_lesion_is_drawn_where_that_earns_more_than_leaving_it_out():
    limit = judge().limit(Tissue.NO_REFLOW)
    assert limit == pytest.approx(0.8)
    assert limit * DICE[Tissue.NO_REFLOW] == pytest.approx(1 - limit)


def test_believed_lesions_are_left_as_they_are():
    labels = masks(no_reflow=True)
    np.testing.assert_array_equal(left(judge(infarct=0.9, no_reflow=0.9), labels), labels)


def test_no_reflow_that_is_not_believed_becomes_infarct():
    labels = masks(no_reflow=True)
    expected = np.where(labels == Tissue.NO_REFLOW, Tissue.INFARCT, labels)
    np.testing.assert_array_equal(left(judge(infarct=0.9, no_reflow=0.7), labels), expected)


def test_no_reflow_goes_with_an_infarct_that_goes():
    found = judge(infarct=0.5, no_reflow=0.9)
    assert set(np.unique(left(found, masks(no_reflow=True)))) == {0, Tissue.CAVITY, Tissue.NORMAL_MYOCARDIUM}


def test_no_lesion_is_drawn_outside_the_wall_nor_invented_in_it():
    labels = masks(no_reflow=True)
    for infarct in (0.1, 0.9):
        for core in (0.1, 0.9):
            kept = left(judge(infarct=infarct, no_reflow=core), labels)
            assert ((kept >= Tissue.NORMAL_MYOCARDIUM) == (labels >= Tissue.NORMAL_MYOCARDIUM)).all()
            assert (kept <= labels).all()


@pytest.mark.parametrize("slices", [1, 2, 9])
def test_any_number_of_slices_is_judged(slices):
    labels = masks(slices)
    assert 0 < judge().verdicts(probabilities(labels), images(labels))[Tissue.INFARCT].probability < 1


def test_a_study_without_any_wall_is_judged():
    labels = np.zeros_like(masks(2))
    verdict = judge().verdicts(probabilities(labels), images(masks(2)))[Tissue.INFARCT]
    assert np.isfinite(verdict.probability)


def test_a_shorter_stack_in_a_batch_is_judged_as_alone():
    labels = masks(3, no_reflow=True)
    wall = torch.from_numpy(wall_channels(WallCells.of(labels), probabilities(labels), images(labels)))[None]
    longer = torch.cat([wall, torch.zeros(1, CHANNELS, 2, DEPTHS, ANGLES)], dim=2)
    sure = torch.from_numpy(sureness(probabilities(labels)))[None]
    network = judge().network
    torch.testing.assert_close(network(wall, sure)[1], network(longer, sure)[1])


def test_the_angle_that_a_heart_is_seen_from_does_not_matter():
    labels = masks(3, no_reflow=True)
    wall = torch.from_numpy(wall_channels(WallCells.of(labels), probabilities(labels), images(labels)))[None]
    sure = torch.from_numpy(sureness(probabilities(labels)))[None]
    network = judge().network
    torch.testing.assert_close(network(wall, sure)[1], network(wall.roll(17, dims=-1), sure)[1])


def test_what_lies_in_no_wall_is_not_read():
    wall, sure = torch.randn(1, CHANNELS, 3, DEPTHS, ANGLES), torch.zeros(1, 2)
    wall[:, VALID] = 0
    network = judge().network
    torch.testing.assert_close(network(wall, sure)[1], network(2 * wall, sure)[1])


def test_sureness_is_that_of_the_most_probable_area():
    found = probabilities(masks(1, infarct=False), sure=0.96)  # nowhere a lesion: 0.01 for each class that is not drawn
    np.testing.assert_allclose(sureness(found), np.log([0.02 / 0.98, 0.01 / 0.99]) / 4, rtol=1e-4)


def test_a_judge_is_read_as_it_was_written(tmp_path):
    labels, own = masks(no_reflow=True), judge()
    write_judge(tmp_path / "judge", own)
    read = read_judge(tmp_path / "judge")
    assert read.expected_dice == DICE
    assert read.verdicts(probabilities(labels), images(labels)) == own.verdicts(probabilities(labels), images(labels))


@pytest.mark.parametrize("damaged", ["weights.safetensors", "judge.json"])
def test_a_damaged_judge_is_refused(tmp_path, damaged):
    write_judge(tmp_path, judge())
    (tmp_path / damaged).write_bytes(b"{}")
    with pytest.raises(InputError, match=r"is not a readable judge of lesions .*; train it again"):
        read_judge(tmp_path)


def test_a_verdict_is_a_probability_and_a_decision():
    assert judge(infarct=0.7, no_reflow=0.1).verdicts(probabilities(masks()), images(masks())) == {
        Tissue.INFARCT: Verdict(pytest.approx(0.7), True),
        Tissue.NO_REFLOW: Verdict(pytest.approx(0.1), False),
    }
