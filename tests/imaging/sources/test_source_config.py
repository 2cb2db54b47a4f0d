import pytest
from pydantic import ValidationError

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.sources.config import SourceConfig


def test_without_names_the_numbers_are_the_label_values():
    assert SourceConfig().label_numbers() is None


def test_names_give_label_values_of_the_chosen_set_and_zero_is_background():
    names = {"85": "cavity", 170: "normal_myocardium", 255: "background"}
    assert SourceConfig(label_values=names).label_numbers() == {0: 0, 85: 1, 170: 2, 255: 0}


def test_zero_may_be_a_tissue():
    config = SourceConfig(label_set="cine", label_values={0: "myocardium", 1: "background"})
    assert config.label_numbers() == {0: 2, 1: 0}


def test_an_unknown_tissue_is_named_with_those_that_exist():
    config = SourceConfig(label_set="cine", label_values={1: "cavity", 2: "scar"})
    with pytest.raises(InputError, match=r"\['scar'\] are no tissues .*'cine'; choose from .*'cavity', 'myocardium'"):
        config.label_numbers()


def test_the_label_set_is_the_named_one():
    assert SourceConfig().labels is EMIDEC_LABELS
    assert SourceConfig(label_set="cine").labels is CINE_LABELS


@pytest.mark.parametrize("side", [0, -1, float("nan"), float("inf")])
def test_a_spacing_that_is_no_length_is_refused(side):
    with pytest.raises(ValidationError, match=r"must be positive millimetres|should be a finite number"):
        SourceConfig(spacing_mm=(8, side, 1))
