"""Writes miniature `images`, `labels` folders of oblique short-axis NIfTI, and damages pairs of files.

`python -m tests.imaging.fake_nifti_pairs DIR` writes three sound studies and one of each oddity to look at.
"""

import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.imaging.fake_emidec import DIM, PIXDIM, SPACING_MM, SROW_X, image_of, label_map, patch_header, write_nifti

# How the heart lies in the chest: columns run to the left and back, rows down, slices from base to apex (RAS+).
DIRECTIONS = np.stack(
    [np.array([-1, -1, 0]) / np.sqrt(2), np.array([1, -1, -2]) / np.sqrt(6), np.array([-1, 1, -1]) / np.sqrt(3)], axis=1
)


def short_axis_affine(spacing_mm=SPACING_MM, origin_mm=(60.0, -20.0, 35.0)):
    """Affine of a volume stored as (column, row, slice)."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS * np.asarray(spacing_mm)
    affine[:3, 3] = origin_mm
    return affine


def write_volume(path, data, spacing_mm=SPACING_MM):
    """As the scanner wrote it: header and affine agree."""
    write_nifti(path, data, spacing_mm, short_axis_affine(spacing_mm))


def image_path(root, name):
    return root / "images" / f"{name}.nii.gz"


def mask_path(root, name):
    return root / "labels" / f"{name}.nii.gz"


def write_study(root, name, mask=None):
    """The label map's lesions follow the name, as in `fake_emidec`: Case_N001, Case_P001, Case_P002."""
    mask = label_map(name) if mask is None else mask
    write_volume(image_path(root, name), image_of(label_map(name)))
    write_volume(mask_path(root, name), mask)


def _truncated(image, mask):
    image.write_bytes(image.read_bytes()[:-2000])


def _web_page(image, mask):
    image.write_bytes(b"<html>404</html>" * 50)


def _empty(image, mask):
    mask.write_bytes(b"")


def _absurd_size(image, mask):
    patch_header(image, DIM, [32767] * 3, "<i2")  # 140 TB


def _patched(byte, values, image, mask):
    patch_header(image, byte, values)


def _other_patients_mask(image, mask):
    write_volume(mask, label_map("Case_P001", (44, 48, 4)))


def _unknown_label(image, mask):
    written = np.asarray(nibabel.load(mask).dataobj).copy()
    written[0, 0, 0] = 77
    write_volume(mask, written)


def _four_dimensional(image, mask):
    write_volume(image, np.ones((40, 48, 3, 2), np.float32))


def _no_mask(image, mask):
    mask.unlink()


def _no_image(image, mask):
    image.unlink()


def _folder_for_a_file(image, mask):
    image.unlink()
    image.mkdir()


def _leads_outside(image, mask):
    outside = image.parent / ".." / ".." / f"outside_{image.name}"
    image.rename(outside)
    image.symlink_to(outside)


def _compressed_and_not(image, mask):
    nibabel.save(nibabel.load(mask), mask.with_suffix(""))


# damage to a sound pair of files: (what does it, what the reason must say)
DAMAGE = {
    "truncated": (_truncated, "not a readable NIfTI file"),
    "web_page": (_web_page, "not a readable NIfTI file"),
    "empty": (_empty, "not a readable NIfTI file"),
    "absurd_size": (_absurd_size, r"announces the shape \(32767, 32767, 32767\)"),
    "negative_spacing": (partial(_patched, PIXDIM + 8, [-10.0]), "spacing -10 x 1.5 x 1.5 mm"),
    "zero_spacing": (partial(_patched, PIXDIM, [0.0]), "spacing 10 x 1.5 x 0 mm"),
    "nan_spacing": (partial(_patched, PIXDIM + 4, [np.nan]), "spacing 10 x nan x 1.5 mm"),
    "nan_affine": (partial(_patched, SROW_X, [np.nan]), "affine is not an invertible"),
    "other_patients_mask": (_other_patients_mask, r"mask \(4, 48, 44\) and image \(3, 48, 40\)"),
    "unknown_label": (_unknown_label, r"label values \[77\]"),
    "four_dimensional": (_four_dimensional, "is not a volume"),
    "no_mask": (_no_mask, "its mask is missing"),
    "no_image": (_no_image, "its image is missing"),
    "folder_for_a_file": (_folder_for_a_file, "is missing"),
    "leads_outside": (_leads_outside, "by a symbolic link"),
    "compressed_and_not": (_compressed_and_not, "2 files are the mask of one study"),
}


def write_damaged(root, name, oddity):
    """Write a sound study, then damage it."""
    write_study(root, name)
    DAMAGE[oddity][0](image_path(root, name), mask_path(root, name))


@contextmanager
def unreadable(root, path):
    """Become, for a while, a user who may read everything below `root` but `path`; root may read all."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user who may not read")
    for folder in (root, *root.parents):
        if folder.name.startswith("pytest-") or "pytest-" in str(folder.parent):
            folder.chmod(0o755)
    path.chmod(0)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        path.chmod(0o755)


if __name__ == "__main__":
    target = Path(sys.argv[1]) / "studies"
    for kind in ("Case_N001", "Case_P001", "Case_P002"):
        write_study(target, kind)
    for number, kind in enumerate(DAMAGE):
        write_damaged(target, f"Case_P{900 + number}", kind)
