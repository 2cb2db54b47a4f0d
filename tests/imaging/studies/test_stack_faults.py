"""Slices that no scanner gives: the same ones again, blank ones between others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imaging.phantom import PhantomConfig
from imaging.sources.table import read_source
from imaging.studies.study import Study, read_or_reject, stack_faults
from tests.imaging.fake_emidec import image_of, label_map
from tests.real_data import real_data


def stack(slices=15):
    return np.random.default_rng(0).normal(300, 20, (slices, 12, 10)).astype(np.float32)


def blank(image, *places):
    image[list(places)] = 0
    return image


FAULTY = {
    "each twice": (
        np.repeat(stack(7), 2, axis=0),
        (
            "slices 1 and 2; 3 and 4; 5 and 6; 7 and 8; 9 and 10; and 2 more are the same, voxel for voxel; "
            "export the study again"
        ),
    ),
    "one doubled": (
        np.insert(stack(), 3, stack()[2], axis=0),
        "slices 3 and 4 are the same, voxel for voxel; export the study again",
    ),
    "far apart": (
        np.concatenate([stack(4), stack(1)]),
        "slices 1 and 5 are the same, voxel for voxel; export the study again",
    ),
    "one throughout": (
        np.repeat(stack(1), 7, axis=0),
        "slices 1, 2, 3, 4, 5 and 2 more are the same, voxel for voxel; export the study again",
    ),
    "a blank one": (blank(stack(), 3), "slice 4 of 15 is blank; export the study again"),
    "two blank ones, and padding": (blank(stack(), 0, 3, 5, 14), "slices 4, 6 of 15 are blank; export the study again"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_fault_names_the_slices(kind):
    image, said = FAULTY[kind]
    assert stack_faults(image) == [said]


@pytest.mark.parametrize("padding", [(), (0,), (14,), (0, 1, 13, 14)])
def test_other_slices_and_padding_are_no_fault(padding):
    assert stack_faults(blank(stack(), *padding)) == []
    assert stack_faults(stack(1)) == []


def study(image):
    mask = label_map("Case_P001").transpose(2, 1, 0)
    return Study("A", "", "infarct", image, mask, (10.0, 1.5, 1.5), np.eye(4), "emidec", "a.nii.gz")


def test_a_study_with_labels_carries_the_fault_as_a_note_with_its_file():
    image = image_of(label_map("Case_P001")).transpose(2, 1, 0)
    assert read_or_reject("A", Path("a.nii.gz"), lambda: study(image)).notes == ()
    twice = image.copy()
    twice[2] = image[1]
    given = replace(study(twice), notes=("said before",))
    assert read_or_reject("A", Path("a.nii.gz"), lambda: given).notes == (
        "said before",
        "a.nii.gz: slices 2 and 3 are the same, voxel for voxel; export the study again",
    )


@pytest.mark.parametrize(("source", "folder"), [("emidec", "emidec_native"), ("mscmr_lge", "mscmr_lge")])
def test_real_studies_have_no_such_slices(source, folder):
    studies = [item for item in read_source(source, real_data(folder), PhantomConfig()) if isinstance(item, Study)]
    assert studies
    assert [fault for one in studies for fault in stack_faults(one.image)] == []
