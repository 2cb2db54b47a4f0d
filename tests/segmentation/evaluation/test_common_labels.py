from types import MappingProxyType

import numpy as np
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, CineTissue, LabelSet, Tissue
from segmentation.evaluation.external_test import common_labels, merge_labels

AORTA = LabelSet("aorta", ("background", "lumen"), ((0, 0, 0), (9, 9, 9)), MappingProxyType({"lumen": (1,)}))


def test_equal_sets_keep_all_tissues():
    assert common_labels([EMIDEC_LABELS, EMIDEC_LABELS]) is EMIDEC_LABELS
    mask = np.arange(5, dtype=np.uint8)
    np.testing.assert_array_equal(merge_labels(mask, EMIDEC_LABELS, EMIDEC_LABELS), mask)


@pytest.mark.parametrize("sets", [(EMIDEC_LABELS, CINE_LABELS), (CINE_LABELS, EMIDEC_LABELS, EMIDEC_LABELS)])
def test_scar_and_cine_have_cavity_and_myocardium_in_common_in_either_order(sets):
    assert common_labels(sets) is CINE_LABELS


def test_infarct_and_no_reflow_are_myocardium_of_cine():
    values = {
        Tissue.BACKGROUND: CineTissue.BACKGROUND,
        Tissue.CAVITY: CineTissue.CAVITY,
        Tissue.NORMAL_MYOCARDIUM: CineTissue.MYOCARDIUM,
        Tissue.INFARCT: CineTissue.MYOCARDIUM,
        Tissue.NO_REFLOW: CineTissue.MYOCARDIUM,
    }
    mask = np.array([[list(values)]], np.uint8)
    merged = merge_labels(mask, EMIDEC_LABELS, CINE_LABELS)
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, [[list(values.values())]])


def test_sets_without_a_tissue_in_common_are_named():
    with pytest.raises(InputError, match=r"label sets cine, aorta have no set of tissues in common .*aorta: lumen"):
        common_labels([CINE_LABELS, AORTA])
