import numpy as np
import pytest

from common.errors import InputError
from imaging.studies.study import Study, digest_of
from segmentation.evaluation.external_test import Candidate, SeenPatients, refuse_seen

MINE, OTHER = Candidate("P1", "image one"), Candidate("P2", "image two")


def seen(names=(), images=None, unseen=None, source="emidec", identified=True):
    return [SeenPatients("model m", source, frozenset(names), images, unseen or {}, identified)]


@pytest.mark.parametrize(
    "known",
    [
        seen(),
        seen({"P9"}, frozenset({"another"})),
        seen({"P1", "P2"}, source="acdc"),  # another hospital's P1
        seen({"P1"}, frozenset(), identified=False),  # the phantom's first patient, drawn otherwise
    ],
)
def test_patients_that_nobody_has_seen_pass(known):
    refuse_seen([MINE, OTHER], "emidec", known)


@pytest.mark.parametrize(
    "known", [seen({"P1"}), seen({"X"}, frozenset({"image one"}), source="nifti"), seen({"P1", "P9"}, frozenset())]
)
def test_a_patient_is_recognised_by_name_or_by_image(known):
    with pytest.raises(InputError, match=r"model m was trained on P1 \(1 of 2 patients\).*give a folder without them"):
        refuse_seen([MINE, OTHER], "emidec", known)


@pytest.mark.parametrize(
    ("known", "source", "expected"),
    [
        (seen({"P1"}, frozenset()), "emidec", "name and image"),
        (seen({"P1"}), "emidec", "name"),
        (seen({"P1"}, frozenset()), "acdc", "image"),
        (seen({"P1"}, frozenset(), identified=False), "emidec", "image"),
        (seen(), "acdc", "source alone"),
    ],
)
def test_it_is_told_how_patients_were_told_apart(known, source, expected):
    assert known[0].told_by(source) == expected


def test_the_fold_that_has_seen_none_of_them_is_named():
    known = seen({"P1", "P2"}, unseen={0: frozenset({"P1"}), 3: frozenset({"P1", "P2", "P3"})})
    with pytest.raises(InputError, match="fold 3 has not seen any of them: name it with --fold"):
        refuse_seen([MINE, OTHER], "emidec", known)


def test_many_patients_are_counted():
    many = [Candidate(f"P{number}", "") for number in range(8)]
    with pytest.raises(InputError, match=r"P0, P1, P2, P3, P4 and 3 more \(8 of 8 patients\)"):
        refuse_seen(many, "emidec", seen({study.case_id for study in many}))


def test_the_image_tells_whatever_the_study_is_called():
    image = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    studies = [
        Study(name, "", "normal", pixels, np.zeros(image.shape, np.uint8), (8.0, 1.0, 1.0), np.eye(4), "emidec", "")
        for name, pixels in (("a", image), ("b", image.copy()), ("c", image[:, ::-1]))
    ]
    digests = [Candidate.of(study).image for study in studies]
    assert digests[0] == digests[1] == digest_of(image) != digests[2]
