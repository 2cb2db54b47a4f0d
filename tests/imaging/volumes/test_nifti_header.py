"""A header whose statements contradict each other, or the file, is refused or told with both values."""

import gzip

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from imaging.volumes.nifti import read_nifti, read_nifti_pair
from imaging.volumes.nifti_header import new_geometry, slice_distance
from tests.imaging.fake_emidec import PIXDIM, SPACING_MM, image_of, label_map, patch_header
from tests.imaging.fake_nifti_pairs import short_axis_affine, write_volume

BITPIX, VOX_OFFSET, QFORM_CODE, QUATERN_B, MAGIC = 72, 108, 252, 256, 344  # bytes of a header


@pytest.fixture
def path(tmp_path):
    write_volume(tmp_path / "a.nii.gz", image_of(label_map("Case_P002")))
    return tmp_path / "a.nii.gz"


def refused(path, message):
    with pytest.raises(InputError, match=message) as error:
        read_nifti(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_voxels_that_begin_within_the_header_are_refused(path):
    patch_header(path, VOX_OFFSET, [0.0])
    refused(path, r"its header \(type 'n\+1', vox_offset 0\) is not that of a single file, .* at 352 or later; export")


def test_the_header_of_a_pair_of_files_is_refused(path):
    patch_header(path, MAGIC, list(b"ni1\0"), "u1")
    refused(path, r"its header \(type 'ni1', vox_offset 352\) is not that of a single file")


def test_a_size_of_voxels_that_is_not_their_types_is_refused(path):
    patch_header(path, BITPIX, [8], "<i2")
    refused(path, "bitpix says 8 bits a voxel and datatype 16 says 32; export it again")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (np.complex128, r"COMPLEX128 \(datatype 1792\)"),
        ([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")], r"RGBA32 \(datatype 2304\)"),
    ],
)
def test_what_is_no_number_is_refused_by_its_name(tmp_path, kind, name):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 3), kind), short_axis_affine()), path)
    refused(path, f"its voxels are of type {name}, which are no grey values or labels; export it with")


def test_bytes_beyond_the_announced_voxels_are_told(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0" * 48))
    (note,) = read_nifti(path).notes
    assert note.startswith(f"{path}: holds 48 bytes beyond the (40, 48, 3) voxels that its header announces")


@pytest.mark.parametrize("damage", [-5, -9], ids=["checksum", "last byte of the content"])
def test_a_checksum_that_fails_is_refused_though_the_length_is_right(path, damage):
    raw = bytearray(path.read_bytes())
    raw[damage] ^= 1
    path.write_bytes(bytes(raw))
    refused(path, "not a readable NIfTI file")


@pytest.mark.parametrize("byte", [PIXDIM, PIXDIM + 4, PIXDIM + 8])
def test_one_side_that_disagrees_is_refused_with_both_values(path, byte):
    patch_header(path, byte, [3.0])
    refused(path, r"pixdim says .*\b3\b.* and its affine 1\.5 x 1\.5 x 10 \(column, row, slice as stored\), so that")


def test_a_rounding_of_a_side_is_none_of_our_business(path):
    patch_header(path, PIXDIM, [1.505])
    volume = read_nifti(path)
    assert volume.notes == ()
    assert volume.spacing_mm[2] == pytest.approx(1.505)


def test_a_qform_that_is_no_rotation_is_told_and_the_sform_taken(path):
    patch_header(path, QFORM_CODE, [1], "<i2")
    patch_header(path, QUATERN_B, [2.0])
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, short_axis_affine(), rtol=1e-6)
    (note,) = volume.notes
    assert "its qform (code 1) and its sform (code 2) disagree, since the qform is no rotation" in note


def test_what_a_library_repairs_is_not_printed(path, capfd):
    patch_header(path, 0, [300], "<i4")  # the header's own length
    patch_header(path, QFORM_CODE, [99], "<i2")
    read_nifti(path)
    assert capfd.readouterr().err == ""


def sheared(step_mm):
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    affine[0, 2] = step_mm
    return affine


@pytest.mark.parametrize(
    ("side", "step_mm", "distance"),
    [(10.0, 0.0, 10.0), (np.hypot(10, 3), 3.0, 10.0), (10.0, 3.0, 10.0), (8.0, 0.0, 8.0)],
)
def test_slices_of_a_sheared_stack_are_as_far_apart_as_their_planes(side, step_mm, distance):
    assert slice_distance(side, sheared(step_mm), 2) == pytest.approx(distance)


def test_the_volume_of_a_sheared_voxel_is_its_determinant(tmp_path):
    affine = short_axis_affine() @ np.array([[1, 0, 2.0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(image_of(label_map("Case_P002")), affine), tmp_path / "a.nii")
    assert np.prod(read_nifti(tmp_path / "a.nii").spacing_mm) == pytest.approx(abs(np.linalg.det(affine)), rel=1e-5)


def test_a_new_geometry_holds_the_affine_and_a_rotation_of_the_same_first_voxel():
    affine = short_axis_affine()
    header = new_geometry(affine, SPACING_MM)
    np.testing.assert_allclose(header.get_sform(coded=True)[0], affine, rtol=1e-6)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-4)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert tuple(header["pixdim"][1:4]) == pytest.approx(SPACING_MM)


def test_a_mask_that_lies_on_its_images_qform_alone_is_read(path):
    stored = nibabel.load(path)
    stored.header.set_qform(short_axis_affine(origin_mm=(45.0, -20.0, 35.0)), 1)
    nibabel.save(nibabel.Nifti1Image(stored.get_fdata(), None, stored.header), path.with_name("image.nii.gz"))
    mask_path = path.with_name("mask.nii.gz")
    affine = short_axis_affine(origin_mm=(45.0, -20.0, 35.0))  # as a program writes it that goes by the qform
    nibabel.save(nibabel.Nifti1Image(label_map("Case_P002"), affine), mask_path)
    image, mask = read_nifti_pair(path.with_name("image.nii.gz"), mask_path)
    assert "put voxels up to 15.0 mm apart" in image.notes[0]
    assert mask.notes == ()
    np.testing.assert_array_equal(mask.data, label_map("Case_P002").transpose())
