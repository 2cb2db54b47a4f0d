import numpy as np
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.studies.study import RejectedStudy, Study
from segmentation.comparison.statistics import BETTER_WITH_THIS_SEED, TOO_FEW
from segmentation.evaluation.external_test import ModelUnderTest, ReferenceBox, References, evaluate_tested, tabulate
from segmentation.scoring.scores import ScoreIdentity
from tests.imaging import fake_emidec
from tests.imaging.fake_emidec import image_of, label_map

SPACING_MM = (10.0, 1.5, 1.5)
CASES = fake_emidec.CASES[:9]


def study(case_id, label_set="emidec", frame=""):
    mask = label_map(case_id).transpose(2, 1, 0)
    if label_set == "cine":
        mask = np.minimum(mask, 2)
    image = image_of(mask)
    return Study(case_id, frame, "infarct", image, mask, SPACING_MM, np.eye(4), label_set, f"{case_id}.nii.gz")


def model(training_set="real_only", label_set=EMIDEC_LABELS):
    return ModelUnderTest(ScoreIdentity(None, "attention_res_unet", training_set), label_set)


def moved(mask, columns):
    return np.roll(mask, columns, axis=2)


def model_that_moves(columns, cases=CASES, training_set="real_only"):
    """A model whose maps are the references moved by some columns."""
    references, one = References(EMIDEC_LABELS), model(training_set)
    for item in map(study, cases):
        assert references.add(item)
        one.add(item, moved(item.mask, columns), ())
    return references, one


def dice(summary, tissue, rule="positive"):
    chosen = (summary["metric"] == "dice") & (summary["tissue"] == tissue) & (summary["rule"] == rule)
    return summary[chosen].iloc[0]


@pytest.mark.parametrize(
    ("of_model", "of_reference"), [(EMIDEC_LABELS, "cine"), (CINE_LABELS, "emidec"), (CINE_LABELS, "cine")]
)
def test_a_perfect_map_scores_one_whichever_side_tells_scar_from_wall(of_model, of_reference):
    references, one = References(CINE_LABELS), model(label_set=of_model)
    for case_id in CASES[:6]:
        references.add(study(case_id, of_reference))
        one.add(study(case_id), study(case_id, of_model.name).mask, ())
    tables = tabulate([one], [evaluate_tested(references, one)])
    assert set(tables.summary["tissue"]) == {"cavity", "myocardium"}
    assert set(tables.summary.loc[tables.summary["metric"] == "dice", "mean"]) == {1.0}
    assert tables.differences is None


def test_a_study_that_was_not_segmented_is_named_counted_and_in_no_score():
    references, one = model_that_moves(1)
    references.add(RejectedStudy("Case_X001", "x.nii.gz", "x.nii.gz: is no volume"))
    references.add(study("Case_P001", frame="late"))
    one.fail(study("Case_P001"), "Case_P001: no ventricle")
    one.flags["Case_P002"] = "odd"
    evaluation = evaluate_tested(references, one)
    assert (evaluation.scored, evaluation.studies) == (9, 11)
    assert evaluation.problems == ("left out Case_X001: x.nii.gz: is no volume", "Case_P001: no ventricle")
    patients = tabulate([one], [evaluation]).patients.set_index("case_id")
    assert patients.loc["Case_X001", "problem"] == "x.nii.gz: is no volume"
    assert patients.loc["Case_P002", "flags"] == "odd"
    assert set(patients["training_set"]) == {"real_only"}


def test_references_that_are_turned_are_told_beside_their_patients_and_sound_ones_are_not():
    cases = CASES[:8]  # the ninth is drawn as another
    references, one = model_that_moves(1, cases)
    assert evaluate_tested(references, one).cautions == ()
    turned = ModelUnderTest(one.identity, one.label_set)
    for item in map(study, cases):
        turned.add(item, item.mask[:, ::-1].copy(), ())
    (caution,) = evaluate_tested(references, turned).cautions
    assert caution.line.startswith("predictions fit their references far better mirrored top to bottom in 8 of 8")
    patients = tabulate([turned], [evaluate_tested(references, turned)]).patients
    assert set(patients["warnings"]) == {caution.line}


def test_a_study_that_comes_twice_counts_once():
    references = References(EMIDEC_LABELS)
    assert references.add(study("Case_P001"))
    assert not references.add(study("Case_P001"))
    assert "patient 'Case_P001', frame '' is there already" in references.problems[0]
    assert len(references.known) == 1


def test_without_any_map_the_first_reason_is_told():
    references, one = References(EMIDEC_LABELS), model()
    references.add(study("Case_P001"))
    one.fail(study("Case_P001"), "Case_P001: no ventricle")
    with pytest.raises(InputError, match="none of the 1 studies could be scored, the first because: Case_P001: no ve"):
        evaluate_tested(references, one)


def compare(cases):
    references, worse = model_that_moves(3, cases)
    _, better = model_that_moves(1, cases, training_set="real_plus_gan")
    models = [worse, better]
    return tabulate(models, [evaluate_tested(references, one) for one in models])


def test_two_models_are_paired_the_second_minus_the_first():
    tables = compare(CASES)
    assert set(tables.summary["training_set"]) == {"real_only", "real_plus_gan"}
    row = dice(tables.differences.assign(metric="dice"), "cavity")
    means = {arm: dice(rows, "cavity")["mean"] for arm, rows in tables.summary.groupby("training_set")}
    assert row["difference"] == pytest.approx(means["real_plus_gan"] - means["real_only"])
    assert (row["first_model"], row["second_model"]) == (
        "attention_res_unet real_only",
        "attention_res_unet real_plus_gan",
    )
    assert (row["pairs"], row["verdict"]) == (9, BETTER_WITH_THIS_SEED)


def test_fewer_than_eight_pairs_give_no_verdict():
    differences = compare(CASES[:5]).differences
    assert set(differences["verdict"]) == {TOO_FEW}
    assert set(differences["rule"]) == {"official", "positive", "pooled", "per_slice"}


def test_only_patients_that_both_have_segmented_are_paired():
    references, first = model_that_moves(2)
    _, second = model_that_moves(1, CASES[2:], training_set="real_plus_gan")
    models = [first, second]
    tables = tabulate(models, [evaluate_tested(references, one) for one in models])
    assert dice(tables.differences.assign(metric="dice"), "cavity")["pairs"] == 7


def test_the_reference_box_is_the_ventricle_s_on_the_1_mm_grid():
    one = study("Case_P002")
    rows, columns = np.nonzero((one.mask > 0).any(axis=0))
    box = ReferenceBox(one).predict_image_box(np.zeros((3, 72, 60), np.float32))
    expected = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) * 1.5
    np.testing.assert_allclose(box, expected, atol=1)
