"""One study, stored in every way a file can hold it: each command reads one array, and label maps go back onto it."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation

from imaging.sources.config import SourceConfig
from imaging.sources.nifti_pairs import read_nifti_pairs
from imaging.studies.study import Study
from imaging.volumes.dicom.volume import dicom_volume, read_dicom_slices
from imaging.volumes.new_studies import find_studies, volumes_of
from imaging.volumes.nifti import read_nifti, write_label_map
from segmentation.evaluation.label_maps import EMIDEC, read_prediction, read_reference
from tests.imaging.fake_emidec import SPACING_MM, image_of, label_map

COMMON = Path(__file__).parents[2] / "cases" / "scripts" / "common.py"
MASK = label_map("Case_P002")
MASK[10, 30, 1] = 4  # tells every order of axes from the others
IMAGE = image_of(MASK).round()
CLOSE_MM = 0.01
PLACED = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")
FEW = settings(max_examples=100, deadline=None, derandomize=True)

orders = st.sampled_from(
    [np.stack([axes, signs], axis=1) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
)
rotations = st.integers(0, 10**6).map(lambda seed: Rotation.random(random_state=seed).as_matrix())
codes = st.sampled_from([(1, 0), (0, 1), (2, 2), (1, 2), (4, 3)])
kinds = st.sampled_from(["<i2", ">i2", "<f4", ">f4", "<f8", "<u2", "<i4"])
endings = st.sampled_from([".nii", ".nii.gz"])
signs = st.tuples(*[st.sampled_from([-1, 1])] * 3)


@contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp())
    try:
        yield place
    finally:
        shutil.rmtree(place)


def placed(rotation, origin_mm=(12.5, -40.25, 7.0)):
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(SPACING_MM)
    affine[:3, 3] = origin_mm
    return affine


def store(path, data, affine, forms=(1, 1), kind="<f4", qform=None):
    """Write a volume with the codes of qform and sform; the qform may be another than the sform."""
    path.parent.mkdir(exist_ok=True, parents=True)
    header = nibabel.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    header.set_xyzt_units("mm")
    image = nibabel.Nifti1Image(data.astype(kind), None, header)
    image.header.set_qform(affine if qform is None else qform, forms[0])
    image.header.set_sform(affine, forms[1])
    nibabel.save(image, path)


def in_order(order, data, affine):
    """The same voxels at the same places, in another order of axes."""
    return apply_orientation(data, order), affine @ inv_ornt_aff(order, data.shape)


def read_everywhere(root, ending):
    """Image and mask as `run` and `external-test`, `predict` and `evaluate` read them."""
    (study,) = read_nifti_pairs(root, SourceConfig())
    assert isinstance(study, Study), study.reason
    image_path, mask_path = (root / kind / f"a{ending}" for kind in ("images", "labels"))
    ((unread,),) = (volumes_of(found) for found in find_studies([image_path]))
    new = unread.read().volume
    reference, volume = read_reference(mask_path, EMIDEC)
    own = read_prediction(mask_path, EMIDEC, volume)
    for image, spacing_mm in ((new.image, new.spacing_mm), (study.image, reference.spacing_mm)):
        np.testing.assert_array_equal(image, study.image)
        assert spacing_mm == pytest.approx(study.spacing_mm)
    for mask in (reference.mask, own.mask):
        np.testing.assert_array_equal(mask, study.mask)
    return study, new


@FEW
@given(rotations, orders, orders, codes, kinds, endings)
def test_a_study_is_one_array_in_every_command_however_it_is_stored(rotation, order, mask_order, forms, kind, ending):
    affine = placed(rotation)
    with folder() as root:
        store(root / "plain" / "images" / "a.nii", IMAGE, affine)
        store(root / "plain" / "labels" / "a.nii", MASK, affine, kind="<i2")
        store(root / "turned" / "images" / f"a{ending}", *in_order(order, IMAGE, affine), forms, kind)
        store(root / "turned" / "labels" / f"a{ending}", *in_order(order, MASK, affine), forms, kind)
        plain, _ = read_everywhere(root / "plain", ".nii")
        turned, _ = read_everywhere(root / "turned", ending)
        np.testing.assert_array_equal(turned.image, plain.image)
        np.testing.assert_array_equal(turned.mask, plain.mask)
        assert turned.spacing_mm == pytest.approx(plain.spacing_mm)
        assert turned.notes == plain.notes == ()
        store(root / "turned" / "labels" / f"a{ending}", *in_order(mask_order, MASK, affine), forms)
        (study,) = read_nifti_pairs(root / "turned", SourceConfig())
        np.testing.assert_array_equal(study.mask, plain.mask)


@FEW
@given(signs, signs, codes, kinds, endings, st.booleans())
def test_plain_affines_are_taken_as_stored_in_every_command(image_signs, mask_signs, forms, kind, ending, unit):
    affines = []
    for sides in (image_signs, mask_signs):
        sides_mm = np.ones(3) if unit else np.asarray(SPACING_MM)
        affines.append(np.diag([*sides * sides_mm, 1.0]))
    with folder() as root:
        for kind_of, data, affine in zip(("images", "labels"), (IMAGE, MASK), affines, strict=True):
            path = root / kind_of / f"a{ending}"
            store(path, data, affine, (0, 2) if unit else forms, kind)
            if unit:  # as EMIDEC is published: the sides stand in pixdim alone
                stored = nibabel.load(path)
                stored.header["pixdim"][1:4] = SPACING_MM
                again = nibabel.Nifti1Image(np.asarray(stored.dataobj), None, stored.header)
                path.unlink()
                nibabel.save(again, path)
        study, _ = read_everywhere(root, ending)
        np.testing.assert_array_equal(study.image, IMAGE.transpose())
        np.testing.assert_array_equal(study.mask, MASK.transpose())
        assert study.spacing_mm == pytest.approx(SPACING_MM[::-1])
        assert study.notes == ()


def bent(rotation, way, amount):
    """Directions as files hold them: whole, cut to three digits, or with slices that step sideways."""
    if way == "rounded":
        return rotation.round(3)
    return rotation + np.outer(rotation[:, 0], [0, 0, amount]) if way == "sheared" else rotation


def corners_mm(image):
    ends = [(0, count - 1) for count in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint(index) for index in product(*ends)])


def read_or_none(sitk, path):
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError:
        return None


@FEW
@given(
    rotations,
    st.sampled_from(["whole", "rounded", "sheared"]),
    st.floats(0.01, 0.3),
    orders,
    codes | st.just((0, 0)),
    st.floats(0, 30),
    endings,
)
def test_a_label_map_is_read_by_simpleitk_and_lies_on_its_image(rotation, way, amount, order, forms, shift_mm, ending):
    sitk = pytest.importorskip("SimpleITK")
    data, affine = in_order(order, IMAGE, placed(bent(rotation, way, amount)))
    qform = affine.copy()
    qform[:3, 3] += shift_mm
    with folder() as root:
        image_path, path = root / f"image{ending}", root / f"labels{ending}"
        store(image_path, data, affine, forms, qform=qform)
        volume = read_nifti(image_path)
        write_label_map(path, np.zeros(volume.data.shape, np.uint8), volume)
        image, labels = nibabel.load(image_path), nibabel.load(path)
        np.testing.assert_array_equal(labels.affine, image.affine)
        np.testing.assert_array_equal(labels.header["pixdim"][1:4], image.header["pixdim"][1:4])
        peer, own = read_or_none(sitk, image_path), sitk.ReadImage(str(path))
        assert own.GetSize() == labels.shape
        kept = (*PLACED, *ROWS) if peer is not None else ("sform_code", *ROWS)
        for name in kept:
            np.testing.assert_array_equal(labels.header[name], image.header[name], err_msg=name)
        if peer is not None:
            np.testing.assert_allclose(corners_mm(own), corners_mm(peer), atol=CLOSE_MM)
        else:
            assert (forms[0], way != "whole") == (0, True)  # nothing that SimpleITK could have read


def slice_file():
    """The writer of DICOM slices that the odd inputs are written with."""
    spec = importlib.util.spec_from_file_location("common", COMMON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.slice_file


AXIAL = np.eye(3)
SAGITTAL = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.one_of(rotations, st.sampled_from([AXIAL, SAGITTAL])), st.booleans(), st.permutations(range(3)), orders)
def test_a_dicom_series_beside_its_own_nifti_gives_the_same_array(directions, downwards, names, order):
    """Columns of `directions`: along the columns, along the rows, and the normal, in DICOM's world (LPS)."""
    sitk = pytest.importorskip("SimpleITK")
    write, stack = slice_file(), IMAGE.transpose(2, 1, 0).astype(np.uint16)
    step_mm = directions[:, 2] * SPACING_MM[2] * (-1 if downwards else 1)
    with folder() as root:
        for index, plane in enumerate(stack):
            position_mm = np.array([5.0, -7.0, 3.0]) + index * step_mm
            path = root / "series" / f"{names[index]}.dcm"
            write(path, plane, position_mm, directions[:, :2].T, SPACING_MM[:2], SPACING_MM[2], index + 1, "1.2.3.4")
        volume = dicom_volume(read_dicom_slices(sorted((root / "series").iterdir())))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(one.path) for one in volume.slices])
        sitk.WriteImage(reader.Execute(), str(root / "series.nii.gz"))
        beside = read_nifti(root / "series.nii.gz")
        np.testing.assert_array_equal(beside.image, volume.image)
        assert beside.spacing_mm == pytest.approx(volume.spacing_mm, rel=1e-4)
        if directions is AXIAL:  # another order of axes of a plain affine is another stored order
            return
        stored = nibabel.load(root / "series.nii.gz")
        store(root / "turned.nii.gz", *in_order(order, np.asarray(stored.dataobj), stored.affine))
        np.testing.assert_array_equal(read_nifti(root / "turned.nii.gz").image, volume.image)
