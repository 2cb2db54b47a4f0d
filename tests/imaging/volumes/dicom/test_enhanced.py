"""Enhanced multi-frame MR objects, whose frames are slices as files are."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from common.errors import InputError
from imaging.volumes.dicom.folder import read_folder
from imaging.volumes.dicom.slice_file import read_dicom_slice
from imaging.volumes.dicom.volume import dicom_volume
from imaging.volumes.new_studies import find_studies, volumes_of
from tests.imaging.fake_dicom import item, stack, write_enhanced, write_stack

PLACES = [{"place": place} for place in range(4)]


def volumes_in(folder):
    (found,) = find_studies([folder])
    return {volume.case_id: volume.read().volume for volume in volumes_of(found)}


def as_filed(volume):
    return volume.arrangement.undo(volume.image).transpose(2, 1, 0)


def test_an_enhanced_object_is_the_volume_that_its_slices_would_be(tmp_path):
    write_enhanced(tmp_path / "one" / "IM.dcm", stack(), PLACES)
    write_stack(tmp_path / "many")
    (one,), (many,) = volumes_in(tmp_path / "one").values(), volumes_in(tmp_path / "many").values()
    np.testing.assert_array_equal(one.image, many.image)
    np.testing.assert_allclose(one.affine, many.affine, atol=1e-5)
    assert one.spacing_mm == pytest.approx(many.spacing_mm)
    assert one.notes == ()


def test_frames_in_any_order_are_sorted_by_place_and_scaled_by_their_own_slope(tmp_path):
    order = [2, 0, 3, 1]
    write_enhanced(
        tmp_path / "IM.dcm", stack()[order], [{"place": place, "slope": 1 + place} for place in order], SeriesNumber=5
    )
    ((_, volume),) = volumes_in(tmp_path).items()
    np.testing.assert_array_equal(as_filed(volume), stack() * np.arange(1, 5)[:, None, None])


@pytest.mark.parametrize(
    ("magnitude", "phase"),
    [
        ({"component": "MAGNITUDE"}, {"component": "PHASE"}),
        ({"kind": ["ORIGINAL", "PRIMARY", "M_IR", "NONE"]}, {"kind": ["ORIGINAL", "PRIMARY", "P_IR", "NONE"]}),
    ],
)
def test_magnitude_and_phase_at_the_same_places_are_told_apart(tmp_path, magnitude, phase):
    write_enhanced(
        tmp_path / "IM.dcm",
        np.concatenate([stack(seed=1), stack(seed=2)]),
        [one | kind for kind in (magnitude, phase) for one in PLACES],
        SeriesNumber=10,
    )
    found = volumes_in(tmp_path)
    names = sorted(found)
    assert len(names) == 2
    assert all("series10_" in name for name in names)
    first, second = (as_filed(found[name]) for name in names)
    np.testing.assert_array_equal(first, stack(seed=1))
    np.testing.assert_array_equal(second, stack(seed=2))


@pytest.mark.parametrize("told", ["trigger_ms", "time"])
def test_frames_of_one_time_are_one_phase(tmp_path, told):
    times = {"trigger_ms": (0, 31.5), "time": (1, 2)}[told]
    frames = [{"place": place, told: time} for place in range(4) for time in times]
    write_enhanced(tmp_path / "IM.dcm", np.stack([stack(seed=1), stack(seed=2)], axis=1).reshape(8, 20, 24), frames)
    found = volumes_in(tmp_path)
    assert [name.rpartition("_")[2] for name in found] == ["frame01", "frame02"]
    for volume, seed in zip(found.values(), (1, 2), strict=True):
        np.testing.assert_array_equal(as_filed(volume), stack(seed=seed))


def test_frames_at_one_place_that_nothing_tells_apart_are_refused(tmp_path):
    write_enhanced(tmp_path / "IM.dcm", np.concatenate([stack(), stack()]), [*PLACES, *PLACES])
    with pytest.raises(InputError, match="8 slices at 4 places cannot be told"):
        volumes_in(tmp_path)


def test_frames_that_are_no_slices_are_left_out_with_a_count(tmp_path):
    maps = [{"place": 0, "kind": ["DERIVED", "PRIMARY", "T1", "T1"]}] * 2
    write_enhanced(tmp_path / "IM.dcm", np.concatenate([stack(), stack(2)]), [*PLACES, *maps])
    (volume,) = volumes_in(tmp_path).values()
    np.testing.assert_array_equal(as_filed(volume), stack())
    assert "2 DICOM files are left out: 2 ImageType DERIVED\\PRIMARY\\T1\\T1" in volume.notes[0]


def test_an_object_for_each_slice_makes_one_volume(tmp_path):
    for number, pixels in enumerate(stack()):
        write_enhanced(tmp_path / f"IM{number}.dcm", pixels[None], [{"place": number}])
    (volume,) = volumes_in(tmp_path).values()
    np.testing.assert_array_equal(as_filed(volume), stack())


def test_a_copy_of_an_object_is_left_out(tmp_path):
    path = write_enhanced(tmp_path / "IM.dcm", stack(), PLACES)
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    (series,) = read_folder(tmp_path, [path, tmp_path / "copy.dcm"])
    np.testing.assert_array_equal(as_filed(dicom_volume(series.slices)), stack())
    assert "4 files are copies" in series.notes[0]


def test_frames_that_are_not_described_are_refused(tmp_path):
    path = write_enhanced(tmp_path / "IM.dcm", stack(), PLACES, NumberOfFrames=10**9)
    with pytest.raises(InputError, match="announces 1000000000 frames and describes 4 of them; export it again"):
        read_folder(tmp_path, [path])


def test_frames_beyond_the_pixels_are_refused_in_one_line(tmp_path):
    path = write_enhanced(tmp_path / "IM.dcm", stack()[:2], PLACES)
    with pytest.raises(InputError, match=r"IM\.dcm: not a readable DICOM file [^\n]+"):
        volumes_in(path.parent)


def test_a_frame_without_a_place_names_what_is_missing(tmp_path):
    bare = {"ImageType": ["ORIGINAL", "PRIMARY", "CARDIAC"], "PerFrameFunctionalGroupsSequence": [item()]}
    path = write_enhanced(tmp_path / "IM.dcm", stack(1), PLACES[:1], **bare)
    with pytest.raises(InputError, match="ImagePositionPatient is missing"):
        read_folder(tmp_path, [path])


def test_compressed_frames_are_read_one_by_one(tmp_path):
    path = write_enhanced(tmp_path / "IM.dcm", stack(), PLACES)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    (volume,) = volumes_in(tmp_path).values()
    np.testing.assert_array_equal(as_filed(volume), stack())


def test_where_one_slice_is_asked_for_many_frames_are_refused(tmp_path):
    path = write_enhanced(tmp_path / "IM.dcm", stack(), PLACES)
    with pytest.raises(InputError, match=r"is a multi-frame \(enhanced\) MR object"):
        read_dicom_slice(path)
