"""Wrong input that can be scored is told in one line a kind; sound input and poor segmentations are not accused."""

import warnings

import numpy as np
import pytest

import scarforge
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, odd_cavity
from segmentation.evaluation.cautions import Numbering, cautions, equal_in_all, reference_cautions, volume_facts
from segmentation.evaluation.evaluation import evaluate_folders
from segmentation.evaluation.label_maps import (
    ACDC,
    EMIDEC,
    REFERENCE,
    better_turned,
    find_label_maps,
    read_reference,
)
from segmentation.scoring.scores import ScoredVolume
from tests.imaging.fake_emidec import write_nifti
from tests.real_data import real_data

SPACING_MM = (8.0, 1.5, 1.5)
PATIENTS = [f"P{number}" for number in range(1, 11)]
SIZE = 48


def ventricle(patient, size=SIZE):
    """A cavity in a wall with an infarct and its no-reflow on one side, off the middle, smaller from base to apex."""
    rng = np.random.default_rng(PATIENTS.index(patient))
    row, column = size / 2 + rng.uniform(-6, 6, 2)
    rows, columns = np.mgrid[:size, :size]
    radius = np.hypot(rows - row, (columns - column) * rng.uniform(0.85, 1.15))
    angle = (np.arctan2(rows - row, columns - column) - rng.uniform(0, 2 * np.pi)) % (2 * np.pi)
    mask = np.zeros((6, size, size), np.uint8)
    for slice_, scale in enumerate(np.linspace(1, 0.5, 6) * rng.uniform(0.7, 1.1)):
        wall = (radius < 15 * scale) & (radius >= 9 * scale)
        mask[slice_][radius < 9 * scale] = 1
        mask[slice_][wall] = 2
        mask[slice_][wall & (angle < 1.6)] = 3
        mask[slice_][wall & (angle < 1.0) & (radius < 12 * scale)] = 4
    return mask


def moved(mask, pixels=1):
    return np.roll(mask, pixels, axis=2)


def renumbered(*numbers):
    return lambda mask: np.array(numbers, np.uint8)[moved(mask)]


def told(draw, labels=EMIDEC_LABELS, patients=PATIENTS):
    """What is told of ten patients whose prediction is `draw(reference, patient)`."""
    volumes = [ScoredVolume(name, "", ventricle(name), draw(ventricle(name), name), SPACING_MM) for name in patients]
    return cautions(volume_facts(volumes, labels), Numbering.of(labels))


def lines(draw, **options):
    return [caution.line for caution in told(draw, **options)]


def of_first(number, draw):
    """`draw` for the first patients, a sound prediction for the others."""
    return lambda mask, name: draw(mask) if name in PATIENTS[:number] else moved(mask)


SOUND = {
    "a pixel off": moved,
    "many pixels off": lambda mask: moved(mask, 7),
    "off across the middle": lambda mask: np.roll(mask, (-9, 8), axis=(1, 2)),
    "no no-reflow": renumbered(0, 1, 2, 3, 3),
    "no lesion": renumbered(0, 1, 2, 2, 2),
    "a lesion in place of half the wall": lambda mask: np.where(
        (mask == 2) & (np.indices(mask.shape)[2] > 24), 3, mask
    ),
    "noise": lambda mask: np.where(np.random.default_rng(0).random(mask.shape) < 0.4, 0, mask),
    "a ring too wide": lambda mask: np.where(moved(mask, 2) > 0, moved(mask, 2), 2 * (moved(mask, -2) > 0)),
}


@pytest.mark.parametrize("draw", SOUND.values(), ids=SOUND)
def test_sound_and_poor_predictions_are_not_accused(draw):
    assert lines(lambda mask, _: draw(mask).astype(np.uint8)) == []


@pytest.mark.parametrize("pixels", range(-16, 17, 4))
def test_a_moved_prediction_is_not_called_turned(pixels):
    for patient in PATIENTS[:4]:
        mask = ventricle(patient)
        assert better_turned(mask, np.roll(mask, (pixels, -pixels), axis=(1, 2))) is None


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (
            (0, 0, 1, 2, 3),
            "10 of 10 (P1, P2, P3, P4, P5 and 5 more) the predictions' 1 lies on the references' 2, 2 on 3",
        ),
        (
            (0, 2, 3, 4, 4),
            "10 of 10 (P1, P2, P3, P4, P5 and 5 more) the predictions' 2 lies on the references' 1, 3 on 2",
        ),
        ((0, 0, 0, 1, 1), "10 of 10 predictions hold only 0 and 1, their references 0, 1, 2, 3 and 4"),
        ((1, 0, 0, 0, 0), "10 of 10 predictions hold only 0 and 1, their references 0, 1, 2, 3 and 4"),
        ((0, 1, 1, 1, 1), "10 of 10 predictions hold only 0 and 1, their references 0, 1, 2, 3 and 4"),
        ((0, 0, 0, 0, 0), "10 of 10 predictions (P1, P2, P3, P4, P5 and 5 more) are empty"),
    ],
)
def test_other_numbers_are_told_once(numbers, expected):
    (line,) = lines(lambda mask, _: renumbered(*numbers)(mask))
    assert expected in line


def test_numbers_exchanged_in_some_patients_are_told_with_these():
    (caution,) = told(of_first(3, renumbered(0, 2, 1, 3, 4)))
    assert caution.line == (
        "in 3 of 10 (P1, P2, P3) the predictions' 1 lies on the references' 2, 2 on 1; "
        "number both alike (1 cavity, 2 normal myocardium, 3 infarct, 4 no reflow)"
    )
    assert caution.patients == ("P1", "P2", "P3")


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda mask: mask[:, :, ::-1], "mirrored left to right"),
        (lambda mask: mask[:, ::-1], "mirrored top to bottom"),
        (lambda mask: mask[:, ::-1, ::-1], "turned by 180 degrees"),
        (lambda mask: mask.swapaxes(1, 2), "with rows and columns exchanged"),
        (lambda mask: np.rot90(mask, 1, (1, 2)), "turned by 270 degrees"),
        (lambda mask: np.rot90(mask, -1, (1, 2)), "turned by 90 degrees"),
        (lambda mask: mask[::-1], "with the slices in the other order"),
        (lambda mask: mask[::-1, ::-1], "mirrored top to bottom and with the slices in the other order"),
    ],
)
def test_a_turned_prediction_is_told_with_the_turn_that_undoes_it(turn, words):
    (caution,) = told(of_first(3, lambda mask: turn(mask).copy()))
    assert f"far better {words} in 3 of 10 (P1, P2, P3; Dice of all labels 1.00 for 0." in caution.line
    assert caution.patients == ("P1", "P2", "P3")


def test_maps_that_are_not_square_are_turned_only_so_that_they_fit():
    mask = ventricle("P1")[:, :, 4:]
    assert better_turned(mask, mask[:, ::-1, ::-1]).where == "turned by 180 degrees"
    assert better_turned(mask, mask) is None


def test_exchanged_patients_are_told_with_whose_they_fit():
    other = {"P1": "P2", "P2": "P1"}
    (caution,) = told(lambda _, name: moved(ventricle(other.get(name, name))))
    assert "2 of 10 predictions fit another patient's reference far better than their own" in caution.line
    assert "P1 that of P2, P2 that of P1" in caution.line


def test_predictions_that_are_the_references_are_told_and_one_of_them_is_not():
    (line,) = lines(lambda mask, _: mask)
    assert line.startswith("the predictions are the references, all 10 label maps equal in every voxel")
    assert lines(of_first(9, lambda mask: mask)) == []


def test_a_reference_under_two_names_is_told_and_two_empty_ones_are_not():
    def facts(maps):
        volumes = [ScoredVolume(name, "", mask, moved(mask), SPACING_MM) for name, mask in maps.items()]
        return volume_facts(volumes, EMIDEC_LABELS)

    numbering, one = Numbering.of(EMIDEC_LABELS), ventricle("P1")
    (caution,) = reference_cautions(facts({"P1": one, "P901": one, "P2": ventricle("P2")}), numbering)
    assert caution.line.startswith("the references of P1 and P901 are equal in every voxel and count as several")
    assert caution.patients == ("P1", "P901")
    assert reference_cautions(facts({"P1": 0 * one, "P2": 0 * one}), numbering) == []


def test_one_prediction_for_two_patients_is_told():
    same = moved(ventricle("P1"))
    found = lines(lambda mask, name: same if name in ("P1", "P2") else moved(mask))
    assert any(line.startswith("the predictions of P1 and P2 are equal in every voxel") for line in found)


def test_trainings_that_drew_the_same_are_told_and_others_are_not():
    def facts(pixels):
        volumes = [ScoredVolume(n, "", ventricle(n), moved(ventricle(n), pixels), SPACING_MM) for n in PATIENTS[:3]]
        return volume_facts(volumes, EMIDEC_LABELS)

    (line,) = equal_in_all({"a/seed_0": facts(1), "a/seed_1": facts(1), "b/seed_0": facts(2)})
    assert line.startswith("the predictions of a/seed_0 and a/seed_1 (all 3 label maps) are equal in every voxel")
    assert equal_in_all({"a": facts(1), "b": facts(2)}) == []


def test_a_diastole_smaller_than_the_systole_is_told_of_the_side_that_has_it():
    large, small = np.minimum(ventricle("P1"), 2), np.zeros((6, SIZE, SIZE), np.uint8)
    small[:, 20:28, 20:28], small[:, 22:26, 22:26] = 2, 1

    def told_of(ed, es):
        volumes = [
            ScoredVolume("P1", "ED", large, moved(ed), SPACING_MM),
            ScoredVolume("P1", "ES", small, moved(es), SPACING_MM),
        ]
        return cautions(volume_facts(volumes, CINE_LABELS), Numbering.of(CINE_LABELS))

    (caution,) = [one for one in told_of(small, large) if "ED" in one.line and "mL" in one.line]
    millilitres = [np.count_nonzero(mask == 1) * 18 / 1000 for mask in (small, large)]
    assert caution.line == (
        "predictions of 1 of 1 patients: P1: ED {:.0f} mL is smaller than ES {:.0f} mL: are the frames exchanged?"
    ).format(*millilitres)
    assert caution.patients == ("P1",)
    assert told_of(large, small) == []


def write(folder, draw, names=PATIENTS[:3]):
    for name in names:
        write_nifti(folder / f"{name}.nii.gz", draw(ventricle(name)).transpose(2, 1, 0))


def test_references_whose_cavity_no_wall_encloses_are_one_line(tmp_path):
    write(tmp_path / "reference", lambda mask: np.array([0, 3, 0, 0, 1], np.uint8)[mask])
    write(tmp_path / "sound", lambda mask: moved(mask))
    found = evaluate_folders(tmp_path / "reference", tmp_path / "sound", EMIDEC)
    assert found.warnings[0].startswith("3 of 3 references (P1, P2, P3) look numbered otherwise: in P1 ")
    assert found.warnings_of("P2")[0] == found.warnings[0]


def test_a_permutation_that_is_told_of_all_patients_is_not_told_again(tmp_path):
    write(tmp_path / "reference", lambda mask: mask)
    write(tmp_path / "other", renumbered(0, 3, 2, 1, 4))
    found = evaluate_folders(tmp_path / "reference", tmp_path / "other", EMIDEC)
    assert "numbered otherwise: their 1 lies on the references' 3" in found.problems[0]
    assert found.warnings == []


def test_folders_in_python_warn_and_sound_ones_do_not(tmp_path):
    write(tmp_path / "reference", lambda mask: mask)
    write(tmp_path / "sound", moved)
    write(tmp_path / "turned", lambda mask: mask[:, ::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scarforge.evaluate(tmp_path / "reference", tmp_path / "sound")
        scarforge.evaluate([ventricle("P1")], [moved(ventricle("P1"))], spacing_mm=SPACING_MM)
    with pytest.warns(UserWarning, match="far better mirrored top to bottom in 3 of 3"):
        scarforge.evaluate(tmp_path / "reference", tmp_path / "turned")
    with pytest.warns(UserWarning, match="the predictions' 1 lies on the references' 2, 2 on 1"):
        scarforge.evaluate([ventricle("P1")], [renumbered(0, 2, 1, 3, 4)(ventricle("P1"))], spacing_mm=SPACING_MM)


def odd_references(root, form):
    folder = find_label_maps(root, form, REFERENCE)
    maps = [read_reference(path, form)[0] for frames in folder.files.values() for path in frames.values()]
    return len(list(filter(None, (odd_cavity(one.mask) for one in maps)))), len(maps)


@pytest.mark.parametrize(("name", "form"), [("emidec_roi", EMIDEC), ("acdc", ACDC)])
def test_references_of_real_patients_are_numbered_well(name, form):
    odd, studies = odd_references(real_data(name), form)
    assert odd == 0
    assert studies > 0


def test_a_right_ventricle_read_as_cavity_is_found_in_all_real_references():
    odd, studies = odd_references(real_data("mscmr_lge") / "labels", EMIDEC)
    assert odd == studies > 0


def test_real_predictions_are_called_turned_only_where_they_are():
    folder = find_label_maps(real_data("emidec_roi"), EMIDEC, REFERENCE)
    masks = [read_reference(path, EMIDEC)[0].mask for frames in folder.files.values() for path in frames.values()][:20]
    assert not any(better_turned(mask, moved(mask, pixels)) for mask in masks for pixels in (1, 5, 15))
    turned = [better_turned(mask, np.rot90(moved(mask), 1, (1, 2))) for mask in masks]
    assert {one.where for one in turned if one} == {"turned by 270 degrees"}
    assert len(list(filter(None, turned))) > 0.9 * len(masks)
