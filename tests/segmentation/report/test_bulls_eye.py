import numpy as np
import pytest

from imaging.labels import EMIDEC_LABELS, Tissue
from segmentation.report.bulls_eye import (
    Ventricle,
    base_to_apex,
    bulls_eye,
    bulls_eye_picture,
    scar_shares,
    sector_map,
    segment_map,
)
from segmentation.report.material import Arm, Case
from tests.segmentation.report.report_material import ventricle

VENTRICLE = Ventricle.of(EMIDEC_LABELS)
ARM = Arm("halsr_net", "real_only", 0)


def case(reference, **drawn):
    predictions = {Arm("halsr_net", arm, 0): mask for arm, mask in drawn.items()}
    return Case("P1", "", None, reference, predictions)


@pytest.mark.parametrize(
    ("sectors", "at", "expected"),
    [
        (6, (2, 10), 0),  # upwards: anterior
        (6, (5, 2), 1),  # up and left: anteroseptal
        (6, (15, 2), 2),
        (6, (18, 10), 3),  # downwards: inferior
        (6, (15, 18), 4),
        (6, (5, 18), 5),
        (4, (10, 2), 1),  # left: septal
        (4, (10, 18), 3),
    ],
)
def test_sectors_run_counter_clockwise_from_above(sectors, at, expected):
    cavity = np.zeros((21, 21), bool)
    cavity[9:12, 9:12] = True
    assert sector_map(cavity, sectors)[at] == expected


def test_an_infarct_above_lies_in_the_first_segment_of_each_level_alone():
    mask = ventricle(no_reflow=False)
    shares = scar_shares(mask, segment_map(mask, VENTRICLE), VENTRICLE)
    assert shares[[0, 6, 12]].min() > 80
    assert shares[[2, 3, 4, 8, 9, 10, 14]].max() == 0
    assert np.isnan(shares[16])


def test_a_turned_stack_gives_the_same_bulls_eye():
    mask = ventricle()
    flipped = mask[::-1]
    assert base_to_apex(mask, VENTRICLE) == [0, 1, 2, 3]
    assert base_to_apex(flipped, VENTRICLE) == [3, 2, 1, 0]
    one, other = (scar_shares(m, segment_map(m, VENTRICLE), VENTRICLE) for m in (mask, flipped))
    np.testing.assert_array_equal(one, other)


def test_the_last_slice_without_cavity_is_the_apex():
    mask = ventricle(infarct=False)
    mask[3][mask[3] == Tissue.CAVITY] = Tissue.INFARCT
    segments = segment_map(mask, VENTRICLE)
    assert set(np.unique(segments[3])) == {16}
    assert 0 < scar_shares(mask, segments, VENTRICLE)[16] < 100


def test_a_perfect_prediction_has_the_references_shares_and_no_error():
    mask = ventricle()
    found = bulls_eye([case(mask, real_only=mask)], EMIDEC_LABELS)
    np.testing.assert_array_equal(found.reference, found.predicted["halsr_net", "real_only"])
    assert found.error["halsr_net", "real_only"] == 0
    assert (found.patients, found.too_few_slices, found.with_apex) == (1, 0, 0)


def test_a_prediction_of_nothing_has_no_share_and_no_error_and_can_be_drawn():
    mask = ventricle()
    found = bulls_eye([case(mask, real_only=np.zeros_like(mask))], EMIDEC_LABELS)
    assert np.isnan(found.predicted["halsr_net", "real_only"]).all()
    assert np.isnan(found.error["halsr_net", "real_only"])
    assert bulls_eye_picture(found).src.startswith("data:image/svg+xml")


def test_studies_of_two_slices_are_left_out_and_counted():
    short = ventricle(slices=2)
    found = bulls_eye([case(short, real_only=short), case(ventricle())], EMIDEC_LABELS)
    assert (found.patients, found.too_few_slices) == (1, 1)
    assert bulls_eye([], EMIDEC_LABELS).patients == 0


def test_seeds_and_patients_are_averaged():
    mask, healthy = ventricle(no_reflow=False), ventricle(infarct=False)
    drawn = {Arm("halsr_net", "real_only", seed): each for seed, each in enumerate((mask, healthy))}
    found = bulls_eye([Case("P1", "", None, mask, drawn), case(healthy)], EMIDEC_LABELS)
    np.testing.assert_allclose(found.reference[0], scar_shares(mask, segment_map(mask, VENTRICLE), VENTRICLE)[0] / 2)
    np.testing.assert_allclose(found.predicted["halsr_net", "real_only"][0], found.reference[0])
