"""Relatives of the cases in headers: what a file says wrongly is read right, refused by name, or told; never silent."""

import gzip
import logging
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from imaging.sources.config import SourceConfig
from imaging.sources.nifti_pairs import read_nifti_pairs
from imaging.studies.study import Study
from imaging.volumes.image_files import read_pixels
from imaging.volumes.nifti import read_nifti
from tests.cases.test_pictures import write_palette

VOXELS = np.arange(30 * 28 * 8, dtype=np.int16).reshape(30, 28, 8)
SIDES = (1.457, 1.457, 8.0)
OBLIQUE, _ = np.linalg.qr(np.array([[-0.69, -0.3, 0.66], [-0.71, 0.08, -0.7], [-0.15, 0.95, 0.27]]))
AFFINE = np.vstack([np.column_stack([OBLIQUE * SIDES, [89, 199, -66]]), [0, 0, 0, 1]])


def write(path: Path, data: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, **fields: Any) -> Path:
    """Write a volume, and then whatever is said in its header."""
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header.binaryblock + bytes(raw[348:])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sform_code": 77, "qform_code": 0}, ""),
        ({"scl_slope": np.nan, "scl_inter": np.nan}, ""),
        ({"pixdim": [1, -1.457, 1.457, 8, 0, 0, 0, 0]}, "spacing 8 x 1.457 x -1.457 mm .* is not plausible"),
        ({"pixdim": [1, 1.457, 1.457, 0, 0, 0, 0, 0]}, "spacing 0 x 1.457 x 1.457 mm .* is not plausible"),
        ({"datatype": 1, "bitpix": 1}, "not a readable NIfTI file .data code 1 not supported."),
        ({"dim": [9, 30, 28, 8, 1, 1, 1, 1]}, "not a readable NIfTI file"),
        ({"sizeof_hdr": 540}, "not a readable NIfTI file"),
    ],
)
def test_no_word_of_a_library_stands_beside_the_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "images" / "a.nii.gz", **fields)
    write(tmp_path / "labels" / "a.nii.gz", np.full_like(VOXELS, 2).astype(np.uint8), **fields)
    logger = logging.getLogger("nibabel.global")
    shown, logger.handlers = logger.handlers, []  # as in a program: Python prints what nobody handles
    root, logging.getLogger().handlers = logging.getLogger().handlers, []
    try:
        if said:
            with pytest.raises(InputError, match=said):
                read_nifti(path)
        else:
            np.testing.assert_array_equal(read_nifti(path).arrangement.undo(read_nifti(path).data), VOXELS)
        list(read_nifti_pairs(tmp_path, SourceConfig()))
    finally:
        logger.handlers, logging.getLogger().handlers = shown, root
    assert capfd.readouterr() == ("", "")


def test_a_name_that_hides_compression_is_one_line_with_the_right_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    path.rename(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: .* \(compressed, unlike its name\); rename it to a\.nii\.gz$"):
        read_nifti(tmp_path / "a.nii")
    write(tmp_path / "b.nii").rename(tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match=r"b\.nii\.gz: .* \(not compressed, unlike its name\); rename it to b\.nii$"):
        read_nifti(tmp_path / "b.nii.gz")


def test_what_is_no_nifti_inside_is_said_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="it does not begin with a NIfTI header"):
        read_nifti(path)


@pytest.mark.parametrize(("depth", "told"), [(8, True), (39, True), (40, False)])
def test_a_spacing_that_nobody_wrote_is_told(tmp_path: Path, depth: int, told: bool) -> None:
    path = write(tmp_path / "a.nii.gz", np.zeros((64, 60, depth), np.uint8), np.eye(4))
    volume = read_nifti(path)
    assert volume.spacing_mm == (1, 1, 1)
    notes = [note for note in volume.notes if "pixdim and affine both say 1 x 1 x 1" in note]
    assert bool(notes) == told
    assert all("a.nii.gz: pixdim and affine both say 1 x 1 x 1, as programs write" in note for note in notes)
    assert not read_nifti(path, (8, 1.4, 1.4)).notes


def test_centimetres_are_refused_since_volumes_would_be_a_thousand_times_too_small(tmp_path: Path) -> None:
    affine = np.diag([0.1, 0.1, 0.1, 1]) @ AFFINE
    with pytest.raises(
        InputError, match=r"spacing 0\.8 x 0\.1457 x 0\.1457 mm .* is not plausible; correct the header"
    ):
        read_nifti(write(tmp_path / "a.nii.gz", affine=affine))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float32, ">i2", ">f8"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_are_the_same_in_every_number_type(tmp_path: Path, dtype: Any, kind: Any) -> None:
    mask = np.zeros(VOXELS.shape, np.uint8)
    mask[5:20, 5:20], mask[10:15, 10:15] = 2, 3
    write(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "labels").mkdir()
    image = kind(mask.astype(dtype), AFFINE, dtype=np.dtype(dtype))
    nibabel.save(image, tmp_path / "labels" / "a.nii.gz")
    (study,) = read_nifti_pairs(tmp_path, SourceConfig())
    assert isinstance(study, Study), study
    assert np.bincount(study.mask.ravel()).tolist() == [6720 - 1800, 0, 1600, 200]


@pytest.mark.parametrize(
    ("moved", "affine"),
    [
        (lambda mask: mask.transpose(1, 0, 2), AFFINE[:, [1, 0, 2, 3]]),
        (lambda mask: mask[::-1], AFFINE @ np.array([[-1, 0, 0, 29], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
        (lambda mask: mask[..., ::-1], AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 7], [0, 0, 0, 1]])),
    ],
)
def test_a_mask_in_another_order_lies_on_its_image(tmp_path: Path, moved: Any, affine: np.ndarray) -> None:
    mask = (2 + (VOXELS % 3 == 0)).astype(np.uint8)
    write(tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "labels" / "a.nii.gz", np.ascontiguousarray(moved(mask)), affine)
    (study,) = read_nifti_pairs(tmp_path, SourceConfig())
    assert isinstance(study, Study), study
    np.testing.assert_array_equal(study.mask, 2 + (study.image.astype(int) % 3 == 0))


def test_a_pixel_without_a_colour_is_not_taken_for_background(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2], [3, 3, 3]])
    write_palette(tmp_path / "a.png", numbers, [(0, 0, 0), (214, 69, 65), (65, 131, 215)])
    with pytest.raises(
        InputError, match="3 pixels have no colour, as its palette has 3 entries and they are number 3;"
    ):
        read_pixels(tmp_path / "a.png")


def ring(numbers: tuple[int, int]) -> np.ndarray:
    """(30, 28, 8): a cavity and a myocardium around it, by their numbers, and a right ventricle of number 1 beside."""
    rows, columns, _ = np.meshgrid(*map(np.arange, VOXELS.shape), indexing="ij")
    radius = np.hypot(rows - 14, columns - 10)
    mask = np.select([radius < 4, radius < 7], numbers, 0)
    if 1 not in numbers:
        mask[(np.hypot(rows - 14, columns - 20) < 6) & (mask == 0)] = 1
    return mask.astype(np.uint8)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1, 2), ""),
        ((3, 2), r"[78]\d% of the rim of the cavity \(1\) is background; look whether its numbers mean other tissues"),
        ((3, 4), r"[78]\d% of the rim of the cavity \(1\) is background"),
    ],
)
def test_another_numbering_of_the_tissues_is_told(tmp_path: Path, numbers: tuple[int, int], said: str) -> None:
    write(tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "labels" / "a.nii.gz", ring(numbers))
    (study,) = read_nifti_pairs(tmp_path, SourceConfig())
    assert isinstance(study, Study), study
    assert bool(study.notes) == bool(said)
    assert all(re.search(f"a.nii.gz: {said}", note) for note in study.notes)


def test_a_ventricle_without_a_cavity_is_told(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "labels" / "a.nii.gz", np.where(ring((1, 2)) == 1, 3, ring((1, 2))).astype(np.uint8))
    (study,) = read_nifti_pairs(tmp_path, SourceConfig())
    assert isinstance(study, Study), study
    (note,) = study.notes
    assert "a.nii.gz: no voxel is cavity (1); look whether its numbers mean other tissues" in note
