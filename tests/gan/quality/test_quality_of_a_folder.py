"""Slices of a folder are judged without a generator, and held against all patients, those of the test too."""

from dataclasses import replace

import numpy as np
import pytest

from assets.quality import quality_checks
from engine.settings import load_settings
from gan.generation.hole import own_hole
from gan.quality.page import render_quality_page
from gan.quality.proof import assess_quality
from imaging.slices.part import PartSlices
from tests.gan.quality_material import drawn_well, instruments, material, patients, store_of
from tests.part_slices import part_slices

FOLDER = ["synthesis.method=folder", "synthesis.root=DIR"]


@pytest.fixture
def made(tmp_path):
    """A faithful folder: no generator, and every patient searched."""
    plain = material(tmp_path)
    return replace(plain, redrawn=None, searched=joined(plain.training, plain.validation, patients(8, seed=5)))


def joined(*parts: PartSlices) -> PartSlices:
    whole = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "masks", "case_ids"))
    images, masks, cases = whole
    return part_slices(images, masks, cases.tolist(), np.concatenate([part.slice_index for part in parts]))


def judged(made):
    report = assess_quality(made, replace(instruments(made.validation), draw=None))
    checks = {check.name: check for check in quality_checks(report, load_settings("quick", FOLDER))}
    return report, checks


def with_images(made, path, images, holes=None):
    store = store_of(made.training.painted_as(images), path / "folder.h5", holes)
    return replace(made, synthetic=store)


def test_a_faithful_folder_passes_and_says_what_was_not_judged(made):
    report, checks = judged(made)
    assert not {name for name, check in checks.items() if not check.passed}
    for name in ("told_apart", "beats_mean_paint_frechet", "beats_mean_paint_likeness"):
        assert "Not judged: slices of a folder come without a generator" in checks[name].description
    assert "pix2pix" not in set(report.table["subject"])
    page = render_quality_page(report, "a folder", [(c.name, c.passed, c.description) for c in checks.values()])
    assert "without a generator that could draw others" in page
    assert "they are held against all patients, those of validation and test too" in page


def test_copies_of_training_slices_are_refused(made, tmp_path):
    _, checks = judged(with_images(made, tmp_path, made.training.images))
    assert not checks["no_copies"].passed
    assert checks["no_copies"].figures["copied_share"] > 0.9


def test_repainted_hearts_are_no_copies(made, tmp_path):
    holes = own_hole(made.training.masks, "lesion", 1)
    drawn = np.where(holes > 0, drawn_well(made.training.masks, 3), made.training.images)
    report, checks = judged(with_images(made, tmp_path, drawn, holes))
    assert checks["no_copies"].passed, checks["no_copies"].figures
    assert report.value("copies/copied", "hole", "synthetic") <= 0.03


def test_one_outright_copy_of_a_test_patient_is_one_too_many(made, tmp_path):
    images, masks = drawn_well(made.training.masks, 3), made.training.masks.copy()
    tested = made.searched.at(np.array([len(made.searched) - 1]))
    images[7], masks[7] = tested.images[0], tested.masks[0]
    synthetic = store_of(replace(made.training, masks=masks, images=images), tmp_path / "folder.h5")
    report, checks = judged(replace(made, synthetic=synthetic))
    assert report.value("copies/copied", "ventricle", "synthetic") <= 0.03
    assert report.value("copies/of_held_out", "ventricle", "synthetic") == pytest.approx(1 / len(masks))
    assert not checks["no_copies"].passed
    assert "of training, validation or test" in checks["no_copies"].description


def test_real_slices_are_not_taken_for_copies_of_themselves(made):
    report, _ = judged(made)
    assert report.value("copies/copied", "ventricle", "real") <= 0.05
