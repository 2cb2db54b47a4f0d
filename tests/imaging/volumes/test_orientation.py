from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from nibabel.orientations import apply_orientation, inv_ornt_aff

from imaging.volumes.nifti import read_nifti, read_nifti_pair, write_label_map
from imaging.volumes.orientation import AS_STORED, Arrangement, radiological, says_nothing
from tests.imaging.fake_emidec import SHAPE, SPACING_MM, image_of, label_map
from tests.imaging.fake_nifti_pairs import short_axis_affine

ORDERS = [np.stack([axes, signs], axis=1) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
MARK = (10, 30, 1)  # column, row, slice of one voxel that differs from all others
# Columns of an affine in RAS+: where columns, rows and slices run when a volume is stored as it is read.
AXIAL = np.diag([-1.0, -1.0, -1.0])
CORONAL = np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
SAGITTAL = np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, -1.0, 0]])
PLANES = pytest.mark.parametrize(
    ("directions", "code"),
    [(AXIAL, "LPI"), (CORONAL, "LIA"), (SAGITTAL, "PIL")],
    ids=["axial", "coronal", "sagittal"],
)

arrangements = st.builds(Arrangement, st.permutations(range(3)).map(tuple), st.tuples(*[st.booleans()] * 3))
volumes = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=5))


@given(arrangements, volumes)
def test_undoing_an_arrangement_gives_the_files_own_order(arrangement, data):
    arranged = arrangement.apply(data)
    assert arranged.shape == tuple(data.shape[axis] for axis in arrangement.axes)
    np.testing.assert_array_equal(arrangement.undo(arranged), data)


@given(arrangements, volumes)
def test_arranging_what_was_undone_gives_the_same_volume(arrangement, volume):
    np.testing.assert_array_equal(arrangement.apply(arrangement.undo(volume)), volume)


def stored(order, data, affine):
    """The same voxels at the same places, in another order of axes."""
    return apply_orientation(data, order), affine @ inv_ornt_aff(order, data.shape)


def axis_aligned(directions, spacing_mm=SPACING_MM):
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing_mm)
    return affine


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(f"{axis:.0f}{sign:+.0f}" for axis, sign in order))
def test_a_study_is_the_same_in_whatever_order_it_is_stored_and_its_label_map_goes_back(tmp_path, order):
    drawn = label_map("Case_P002")
    drawn[MARK] = 4
    affine = short_axis_affine()
    mask, mask_affine = stored(order, drawn, affine)
    image, _ = stored(order, image_of(label_map("Case_P002")), affine)
    image_path, mask_path, back_path = (tmp_path / f"{name}.nii.gz" for name in ("image", "mask", "back"))
    nibabel.save(nibabel.Nifti1Image(image, mask_affine), image_path)
    nibabel.save(nibabel.Nifti1Image(mask, mask_affine), mask_path)

    volume, read = read_nifti_pair(image_path, mask_path)
    np.testing.assert_array_equal(read.data, drawn.transpose())
    np.testing.assert_array_equal(volume.data, image_of(label_map("Case_P002")).transpose())
    assert volume.spacing_mm == (10.0, 1.5, 1.5)

    only_mark = np.zeros(volume.data.shape, np.uint8)
    only_mark[MARK[::-1]] = 1
    write_label_map(back_path, only_mark, volume)
    written, original = nibabel.load(back_path), nibabel.load(image_path)
    assert written.shape == original.shape
    assert written.header.get_zooms() == original.header.get_zooms()
    np.testing.assert_array_equal(written.affine, original.affine)
    marked = np.argwhere(np.asarray(written.dataobj))
    world_mm = nibabel.affines.apply_affine(written.affine, marked)
    np.testing.assert_allclose(world_mm, [nibabel.affines.apply_affine(affine, MARK)], atol=1e-4)


@PLANES
def test_slices_of_the_bodys_planes_are_read_alike_in_all_orders(directions, code):
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for order in ORDERS:
        turned, affine = stored(order, data, axis_aligned(directions))
        zooms = nibabel.affines.voxel_sizes(affine)
        arranged = radiological(affine, turned.shape, zooms).apply(turned)
        np.testing.assert_array_equal(arranged, data.transpose())


def test_columns_run_left_rows_down_and_slices_from_base_to_apex():
    arrangement = radiological(short_axis_affine(), SHAPE, SPACING_MM)
    assert arrangement == AS_STORED
    turned = short_axis_affine() @ np.diag([-1, 1, -1, 1])
    assert radiological(turned, SHAPE, SPACING_MM) == Arrangement((2, 1, 0), (True, False, True))


@pytest.mark.parametrize("tilt", [-20, -5, 5, 20])
def test_a_slight_tilt_changes_nothing(tilt):
    turn = np.radians(tilt)
    tilted = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = axis_aligned(tilted @ AXIAL)
    assert radiological(affine, SHAPE, SPACING_MM) == AS_STORED


@pytest.mark.parametrize(
    ("shape", "zooms", "axis"),
    [
        ((10, 200, 200), (8.0, 1.4, 1.4), 0),  # thick
        ((200, 10, 200), (1.5, 1.5, 1.5), 1),  # few
        ((3, 200, 40), (1.4, 1.4, 8.0), 2),  # thick comes before few
        ((200, 200, 180), (1.0, 1.0, 1.0), 2),  # neither: the last
    ],
)
def test_the_slice_axis_is_the_thick_one_then_the_short_one_then_the_last(shape, zooms, axis):
    assert radiological(np.diag([*zooms, 1.0]), shape, zooms).axes[0] == axis


def write_in_order(path, order, directions):
    data, affine = stored(order, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), axis_aligned(directions))
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@PLANES
def test_simpleitk_orients_slices_of_the_bodys_planes_as_we_do(tmp_path, directions, code):
    sitk = pytest.importorskip("SimpleITK")
    for number, order in enumerate(ORDERS[::5]):
        path = tmp_path / f"{number}.nii.gz"
        write_in_order(path, order, directions)
        if says_nothing(nibabel.load(path).affine):
            continue  # kept as stored
        oriented = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code))
        np.testing.assert_array_equal(read_nifti(path).data, oriented)


@pytest.mark.parametrize("order", ORDERS[::7], ids=str)
def test_a_voxel_lies_where_simpleitk_says(tmp_path, order):
    sitk = pytest.importorskip("SimpleITK")
    data, affine = stored(order, image_of(label_map("Case_P001")), short_axis_affine())
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "image.nii.gz")
    volume, peer = read_nifti(tmp_path / "image.nii.gz"), sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    for slice_, row, column in [(0, 0, 0), (2, 47, 39), (1, 30, 12)]:
        ras_mm = nibabel.affines.apply_affine(short_axis_affine(), (column, row, slice_))
        lps_mm = (-ras_mm[0], -ras_mm[1], ras_mm[2])
        index = peer.TransformPhysicalPointToIndex(lps_mm)
        np.testing.assert_allclose(peer.TransformIndexToPhysicalPoint(index), lps_mm, atol=1e-3)
        assert peer.GetPixel(*index) == volume.data[slice_, row, column]


@pytest.mark.parametrize("order", ORDERS[::7], ids=str)
def test_simpleitk_resamples_the_file_to_our_volume(tmp_path, order):
    sitk = pytest.importorskip("SimpleITK")
    data, affine = stored(order, image_of(label_map("Case_P001")), short_axis_affine())
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "image.nii.gz")
    grid = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.float32))
    lps = np.diag([-1.0, -1.0, 1.0]) @ short_axis_affine()[:3]
    grid.SetSpacing(SPACING_MM)
    grid.SetOrigin(lps[:, 3])
    grid.SetDirection((lps[:, :3] / SPACING_MM).ravel())
    resampled = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "image.nii.gz")), grid, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(resampled), read_nifti(tmp_path / "image.nii.gz").data)
