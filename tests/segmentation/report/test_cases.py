import numpy as np

from imaging.labels import EMIDEC_LABELS, Tissue
from segmentation.report.cases import choose_cases, contour_tile, show_cases, slice_shown
from tests.segmentation.report.report_material import material, ventricle


def test_patients_with_lesions_are_ranked_by_their_mean_lesion_dice_of_the_gan_arm():
    made = material()
    choice = choose_cases(made)
    scores = made.scores
    dice = scores[(scores["rule"] == "positive") & (scores["metric"] == "dice")]
    own = dice[(dice["training_set"] == "real_plus_gan") & dice["tissue"].isin(["infarct", "no_reflow"])]
    expected = own.groupby("case_id")["value"].mean().sort_values(ascending=False)
    assert [name for name, _ in choice.ranking] == list(expected.index)
    assert len(choice.ranking) == 8  # two of ten are normal
    assert choice.chosen == (("best", expected.index[0]), ("median", expected.index[4]), ("worst", expected.index[-1]))
    assert "8 of its 10 test patients" in choice.rule


def test_without_any_lesion_all_patients_are_ranked_by_what_they_have():
    choice = choose_cases(material(lesions=(False, False)))
    assert len(choice.ranking) == 10
    assert "cavity and normal myocardium" in choice.rule


def test_one_and_two_patients_are_named_as_what_they_are():
    assert [place for place, _ in choose_cases(material(patients=2)).chosen] == ["the only patient"]  # one is normal
    assert [place for place, _ in choose_cases(material(patients=3)).chosen] == ["best", "worst"]


def test_with_the_gan_arm_missing_the_other_ranks_and_is_shown():
    made = material(arms=("real_only",))
    choice = choose_cases(made)
    assert "trained on real only" in choice.rule
    shown = show_cases(made, choice)[0]
    assert shown.tiles == ("image", "reference", "real only")
    assert {row[2] for row in shown.dice.bodies[0].rows} == {"–"}


def test_the_slice_with_most_lesion_is_shown():
    mask = ventricle(infarct=False)
    assert slice_shown(mask, EMIDEC_LABELS) == np.isin(mask, Tissue.NORMAL_MYOCARDIUM).sum(axis=(1, 2)).argmax()
    mask[2, 4:6, 4:6] = Tissue.NO_REFLOW
    assert slice_shown(mask, EMIDEC_LABELS) == 2
    assert slice_shown(np.zeros((5, 8, 8), np.uint8), EMIDEC_LABELS) == 2


def test_contours_have_the_tissues_colours_and_an_empty_mask_none():
    mask = ventricle()[0]
    image = np.full(mask.shape, 0.5, np.float16)
    bare, outlined = (contour_tile(image, shown, EMIDEC_LABELS) for shown in (np.zeros_like(mask), mask))
    assert np.ptp(bare) <= 1  # grey all over, but for rounding
    colours = {tuple(pixel) for pixel in outlined.reshape(-1, 3)}
    assert colours >= {EMIDEC_LABELS.colours[Tissue.INFARCT], EMIDEC_LABELS.colours[Tissue.NO_REFLOW]}
