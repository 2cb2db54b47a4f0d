from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from common.errors import InputError
from imaging.volumes.nifti import read_nifti, read_nifti_pair, write_label_map
from tests.imaging.fake_emidec import DIM, SHAPE, SPACING_MM, image_of, label_map, patch_header, write_nifti
from tests.imaging.fake_nifti_pairs import short_axis_affine, write_volume

MASK = label_map("Case_P002")
PEERS = Path(data_path)
SCL_SLOPE = 112  # byte at which slope and intercept stand in a NIfTI-1 header


@pytest.fixture
def image_path(tmp_path):
    write_volume(tmp_path / "image.nii.gz", image_of(MASK))
    return tmp_path / "image.nii.gz"


def write_mask(image_path, data=MASK, affine=None, spacing_mm=SPACING_MM):
    path = image_path.with_name("mask.nii.gz")
    write_nifti(path, data, spacing_mm, short_axis_affine(spacing_mm) if affine is None else affine)
    return path


@pytest.mark.parametrize(
    "name", ["anatomical.nii", "standard.nii.gz", "reoriented_anat_moved.nii", "resampled_anat_moved.nii"]
)
def test_nibabels_own_volumes_are_read_with_its_values_and_spacing(name):
    volume, peer = read_nifti(PEERS / name), nibabel.load(PEERS / name)
    np.testing.assert_array_equal(volume.data, volume.arrangement.apply(peer.get_fdata()))
    assert volume.spacing_mm == tuple(peer.header.get_zooms()[axis] for axis in volume.arrangement.axes)
    np.testing.assert_array_equal(volume.affine, peer.affine)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"])
def test_nibabels_own_series_are_refused_with_one_line(name):
    with pytest.raises(InputError, match=r"shape \(.*\) is not a volume \(column, row, slice\); give one 3-D") as error:
        read_nifti(PEERS / name)
    assert "\n" not in str(error.value)


def test_a_surface_is_refused_with_one_line():
    with pytest.raises(InputError, match=r"not a readable NIfTI file \(it holds a Cifti2Image\); copy") as error:
        read_nifti(PEERS / "row_major.dconn.nii")
    assert "\n" not in str(error.value)


def test_nifti_2_is_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(MASK, short_axis_affine()), tmp_path / "image.nii.gz")
    volume = read_nifti(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(volume.data, MASK.transpose())
    assert volume.spacing_mm == pytest.approx((10.0, 1.5, 1.5))


@pytest.mark.parametrize("kind", [np.int16, ">i2", np.uint8, np.uint16, np.int32, np.float64])
def test_every_number_type_and_byte_order_is_read(tmp_path, kind):
    image = nibabel.Nifti1Image(MASK.astype(kind), short_axis_affine())
    if kind == ">i2":
        image = nibabel.Nifti1Image(MASK.astype(kind), image.affine, image.header.as_byteswapped(">"))
    nibabel.save(image, tmp_path / "image.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "image.nii").data, MASK.transpose())


def test_slope_and_intercept_are_applied(image_path):
    write_volume(image_path, MASK.astype(np.int16))
    patch_header(image_path, SCL_SLOPE, [2.5, -100.0])
    assert set(np.unique(nibabel.load(image_path).get_fdata())) == {-100, -97.5, -95, -92.5, -90}
    np.testing.assert_array_equal(read_nifti(image_path).data, 2.5 * MASK.transpose() - 100)


def test_an_oblique_volume_keeps_spacing_and_affine(image_path):
    volume = read_nifti(image_path)
    assert volume.spacing_mm == (10.0, 1.5, 1.5)
    np.testing.assert_allclose(volume.affine, short_axis_affine(), rtol=1e-6)
    np.testing.assert_array_equal(volume.data, image_of(MASK).transpose())


def write_in_unit(path, unit, mm):
    affine = short_axis_affine()
    affine[:3] /= mm
    image = nibabel.Nifti1Image(MASK, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


UNITS = pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 0.001), ("unknown", 1)])


@UNITS
def test_spacing_and_affine_are_in_mm_whatever_the_headers_unit(tmp_path, unit, mm):
    write_in_unit(tmp_path / "image.nii.gz", unit, mm)
    volume = read_nifti(tmp_path / "image.nii.gz")
    assert volume.spacing_mm == pytest.approx((10.0, 1.5, 1.5))
    np.testing.assert_allclose(volume.affine, short_axis_affine(), rtol=1e-6)
    np.testing.assert_array_equal(volume.data, MASK.transpose())


@UNITS
def test_simpleitk_finds_a_label_map_where_it_finds_the_image(tmp_path, unit, mm):
    sitk = pytest.importorskip("SimpleITK")
    image_path, labels_path = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    write_in_unit(image_path, unit, mm)
    write_label_map(labels_path, np.ascontiguousarray(MASK.transpose()), read_nifti(image_path))
    image, labels = sitk.ReadImage(str(image_path)), sitk.ReadImage(str(labels_path))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(labels, what)(), getattr(image, what)(), atol=1e-5)


def test_a_mask_stored_the_other_way_round_lies_on_the_same_voxels(image_path):
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = np.array(SHAPE[:2]) - 1
    mask_path = write_mask(image_path, MASK[::-1, ::-1], short_axis_affine() @ flip)
    _, mask = read_nifti_pair(image_path, mask_path)
    np.testing.assert_array_equal(mask.data, MASK.transpose())


def test_a_mask_with_another_order_of_axes_lies_on_the_same_voxels(image_path):
    affine = short_axis_affine()[:, [2, 0, 1, 3]]
    mask_path = write_mask(image_path, MASK.transpose(2, 0, 1), affine, (10.0, 1.5, 1.5))
    _, mask = read_nifti_pair(image_path, mask_path)
    np.testing.assert_array_equal(mask.data, MASK.transpose())


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])])
def test_a_mask_whose_affine_says_nothing_lies_as_its_image(image_path, affine):
    _, mask = read_nifti_pair(image_path, write_mask(image_path, affine=affine))
    np.testing.assert_array_equal(mask.data, MASK.transpose())


@pytest.mark.parametrize("shift_mm", [2.0, 30.0])
def test_a_mask_that_lies_elsewhere_is_refused(image_path, shift_mm):
    affine = short_axis_affine(origin_mm=(60.0 + shift_mm, -20.0, 35.0))
    with pytest.raises(InputError, match=rf"affine puts it {shift_mm:.1f} mm away from the image; give the mask"):
        read_nifti_pair(image_path, write_mask(image_path, affine=affine))


def test_a_mask_that_is_off_by_a_rounding_is_read(image_path):
    affine = short_axis_affine(origin_mm=(60.05, -20.0, 35.0))
    _, mask = read_nifti_pair(image_path, write_mask(image_path, affine=affine))
    np.testing.assert_array_equal(mask.data, MASK.transpose())


def test_a_mask_turned_in_its_plane_is_refused(image_path):
    turn = np.array([[0.0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(InputError, match=r"mask \(3, 40, 48\) and image \(3, 48, 40\).*differ in shape"):
        read_nifti_pair(image_path, write_mask(image_path, affine=short_axis_affine() @ turn))


def test_a_huge_header_is_refused_before_memory_is_taken(image_path):
    patch_header(image_path, DIM, [30000, 30000, 300], "<i2")  # 2 TB as float64
    with pytest.raises(InputError, match=r"header announces the shape \(30000, 30000, 300\)"):
        read_nifti(image_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_label_map_is_written_whole_and_leaves_nothing_beside_it(tmp_path, image_path, suffix):
    volume = read_nifti(image_path)
    path = tmp_path / "out" / f"labels{suffix}"
    write_label_map(path, np.ascontiguousarray(MASK.transpose()), volume)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert nibabel.load(path).get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), MASK)
    np.testing.assert_array_equal(read_nifti(path).data, MASK.transpose())
