"""Writes miniature EMIDEC folders: real folder names, rings for ventricles, and deliberate oddities.

`python tests/imaging/fake_emidec.py DIR` writes twelve sound patients and one of each oddity to look at.
"""

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np

SPACING_MM = (1.5, 1.5, 10.0)  # column, row, slice, as in a NIfTI header
SHAPE = (40, 48, 3)  # columns, rows, slices: three different numbers, so that a wrong order shows
CASES = tuple(f"Case_N{number:03d}" for number in range(1, 5)) + tuple(f"Case_P{number:03d}" for number in range(1, 9))


def label_map(case_id, shape=SHAPE):
    """Rings off centre; N patients have no lesion, even P patients have no-reflow inside their infarct."""
    columns, rows, _ = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    number = int(case_id[-3:])
    column, row = columns - (shape[0] / 2 - 3), rows - (shape[1] / 2 + number % 4)
    radius = np.hypot(column, row)
    mask = np.zeros(shape, np.uint8)
    mask[radius < 11] = 2
    mask[radius < 7] = 1
    if "P" in case_id:
        mask[(mask == 2) & (column > 0)] = 3
        if number % 2 == 0:
            mask[(mask == 3) & (radius < 9.5) & (abs(row) < 6)] = 4
    return mask


def image_of(mask, seed=0):
    """Each tissue at its own brightness in scanner units, with noise and never empty air."""
    levels = np.array([300.0, 700.0, 250.0, 1200.0, 400.0])
    return (levels[mask] + np.random.default_rng(seed).normal(0, 20, mask.shape)).astype(np.float32)


def write_nifti(path, data, spacing_mm=SPACING_MM, affine=None):
    """Published files carry a unit affine and the true spacing in the header's pixel dimensions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine)
    image.header.set_zooms((*spacing_mm, 1.0)[: data.ndim])
    nibabel.save(image, path)


def write_case(root, case_id, image=None, mask=None, spacing_mm=SPACING_MM):
    """One patient as published: Images, Contours and the clinical text in Latin-1."""
    mask = label_map(case_id) if mask is None else mask
    image = image_of(np.clip(np.rint(mask), 0, 4).astype(int)) if image is None else image
    write_nifti(image_path(root, case_id), image, spacing_mm)
    write_nifti(mask_path(root, case_id), mask, spacing_mm)
    text = f"{case_id.replace('_', ' ')}\n\nGap between slices\xa0: 10 mm\nSex\xa0: M\n"
    (root / f"{case_id.replace('_', ' ')}.txt").write_bytes(text.encode("latin-1"))
    return root / case_id


def write_root(root, cases=CASES):
    for case_id in cases:
        write_case(root, case_id)
    (root / "clinical.csv").write_text("case_id,age\n")
    (root / ".DS_Store").write_bytes(b"\0")
    return root


def image_path(root, case_id):
    return root / case_id / "Images" / f"{case_id}.nii.gz"


def mask_path(root, case_id):
    return root / case_id / "Contours" / f"{case_id}.nii.gz"


def patch_header(path, offset, values, dtype="<f4"):
    """Overwrite numbers of a NIfTI header, past what nibabel's writer would let through."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    encoded = np.asarray(values, dtype).tobytes()
    raw[offset : offset + len(encoded)] = encoded
    path.write_bytes(gzip.compress(bytes(raw)))


DIM = 42  # byte at which the numbers of columns, rows and slices stand in a NIfTI-1 header
PIXDIM = 80  # byte at which column, row and slice spacing stand
SROW_X = 280  # byte at which the first row of the affine stands


def _truncated(root, case_id):
    write_case(root, case_id)
    path = image_path(root, case_id)
    path.write_bytes(path.read_bytes()[:-2000])


def _absurd_size(root, case_id):
    write_case(root, case_id)
    patch_header(image_path(root, case_id), DIM, [32767] * 3, "<i2")  # 140 TB


def _not_nifti(root, case_id):
    write_case(root, case_id)
    image_path(root, case_id).write_bytes(b"<html>404</html>" * 50)


def _empty_file(root, case_id):
    write_case(root, case_id)
    mask_path(root, case_id).write_bytes(b"")


def _other_shape(root, case_id):
    write_case(root, case_id)
    write_nifti(mask_path(root, case_id), label_map(case_id, (40, 48, 4)))


def _foreign_label(root, case_id):
    mask = label_map(case_id)
    mask[0, 0, 0] = 7
    write_case(root, case_id, mask=mask)


def _label_beyond_uint8(root, case_id):
    mask = label_map(case_id).astype(np.int16)
    mask[0, 0, 0] = 258  # would read as 2 if it were cast without a look
    write_case(root, case_id, mask=mask)


def _fractional_label(root, case_id):
    mask = label_map(case_id).astype(np.float32)
    mask[20, 20] = 1.5
    write_case(root, case_id, mask=mask)


def _nan_volume(root, case_id):
    write_case(root, case_id, image=np.full(SHAPE, np.nan, np.float32))


def _one_infinite_voxel(root, case_id):
    image = image_of(label_map(case_id))
    image[0, 0, 0] = np.inf
    write_case(root, case_id, image=image)


def _flat_image(root, case_id):
    write_case(root, case_id, image=np.full(SHAPE, 7, np.int16))


def _negative_spacing(root, case_id):
    write_case(root, case_id)
    patch_header(image_path(root, case_id), PIXDIM, [-1.5])


def _zero_spacing(root, case_id):
    write_case(root, case_id)
    patch_header(image_path(root, case_id), PIXDIM, [0.0])


def _nan_spacing(root, case_id):
    write_case(root, case_id)
    patch_header(image_path(root, case_id), PIXDIM + 8, [np.nan])


def _nan_affine(root, case_id):
    write_case(root, case_id)
    patch_header(image_path(root, case_id), SROW_X, [np.nan])


def _spacing_differs(root, case_id):
    write_case(root, case_id)
    write_nifti(mask_path(root, case_id), label_map(case_id), (1.0, 1.0, 10.0))


def _cavity_only(root, case_id):
    write_case(root, case_id, mask=(label_map(case_id) == 1).astype(np.uint8))


def _no_mask(root, case_id):
    write_case(root, case_id)
    mask_path(root, case_id).unlink()


def _no_image(root, case_id):
    write_case(root, case_id)
    image_path(root, case_id).unlink()


def _four_dimensional(root, case_id):
    write_case(root, case_id, image=np.ones((*SHAPE, 2), np.float32))


def _empty_folder(root, case_id):
    (root / case_id).mkdir(parents=True)


# oddity: (what writes it, what the reason must say)
ODDITIES = {
    "truncated": (_truncated, "not a readable NIfTI file"),
    "absurd_size": (_absurd_size, "not a readable NIfTI file"),
    "not_nifti": (_not_nifti, "not a readable NIfTI file"),
    "empty_file": (_empty_file, "not a readable NIfTI file"),
    "other_shape": (_other_shape, r"mask \(4, 48, 40\) and image \(3, 48, 40\)"),
    "foreign_label": (_foreign_label, r"label values \[7\]"),
    "label_beyond_uint8": (_label_beyond_uint8, r"label values \[258\]"),
    "fractional_label": (_fractional_label, "3 voxels are not whole label values"),
    "nan_volume": (_nan_volume, "5760 of 5760 voxels of the image are NaN"),
    "one_infinite_voxel": (_one_infinite_voxel, "1 of 5760 voxels of the image are NaN or infinite"),
    "flat_image": (_flat_image, "every voxel of the image is 7"),
    "negative_spacing": (_negative_spacing, "spacing 10 x 1.5 x -1.5 mm"),
    "zero_spacing": (_zero_spacing, "spacing 10 x 1.5 x 0 mm"),
    "nan_spacing": (_nan_spacing, "spacing nan x 1.5 x 1.5 mm"),
    "nan_affine": (_nan_affine, "affine is not an invertible"),
    "spacing_differs": (_spacing_differs, "10 x 1 x 1 mm is not the image's 10 x 1.5 x 1.5 mm"),
    "cavity_only": (_cavity_only, "no voxel of the mask is myocardium"),
    "no_mask": (_no_mask, "is missing"),
    "no_image": (_no_image, "is missing"),
    "four_dimensional": (_four_dimensional, "is not a volume"),
    "empty_folder": (_empty_folder, "is missing"),
}


if __name__ == "__main__":
    target = write_root(Path(sys.argv[1]))
    for position, (write, _) in enumerate(ODDITIES.values()):
        write(target, f"Case_P{900 + position}")
