import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from imaging.slices.regions import RegionConfig, write_real_slices
from imaging.slices.store import SliceStore
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import Box
from imaging.studies.split import FoldSplit
from imaging.studies.study import Study
from imaging.volumes.new_studies import find_studies, volumes_of
from imaging.volumes.nifti import write_label_map
from runtime.compute import choose_compute
from segmentation.networks.blocks import SegmentationOutput
from segmentation.prediction.segmenter import Segmenter
from segmentation.prediction.study import (
    lesion_shares_percent,
    median_box,
    predict_checked,
    predict_study,
    relative_entropy,
    tissue_volumes_ml,
)
from segmentation.scoring.held_out import HeldOutPatients
from tests.imaging.fake_emidec import image_of, label_map

REGION = RegionConfig(size_px=48)
SPACING_MM = (10.0, 1.5, 1.25)
# Voxels to RAS+: columns to the left and back, rows to the feet, slices from base to apex, none along an axis.
ROTATION = np.array([[-0.8, 0.0, -0.6], [-0.6, 0.0, 0.8], [0.0, -1.0, 0.0]])


class Shades(nn.Module):
    """Gives each pixel the class whose shade is nearest; `offset` makes members that differ, `sureness` how sure."""

    def __init__(self, offset: float = 0.0, sureness: float = 60) -> None:
        super().__init__()
        self.sureness = sureness
        self.register_buffer("shades", torch.tensor([0.1, 0.5, 0.0, 1.0, 0.2])[None, :, None, None] + offset)

    def forward(self, x):
        return SegmentationOutput(-self.sureness * (x - self.shades) ** 2, None)

    def encode(self, x):
        return torch.stack([x.mean(dim=(1, 2, 3)), x.std(dim=(1, 2, 3))], dim=1)

    def segment_and_encode(self, x):
        return self(x), self.encode(x)


class Fixed:
    """A localiser that always answers the same."""

    def __init__(self, *sides: float) -> None:
        self.box = Box(*sides)

    def predict_image_box(self, image):
        return self.box


LOCALISER = Fixed(18.0, 10.0, 44.0, 33.5)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


@pytest.fixture(scope="module")
def segmenter(compute):
    return Segmenter([Shades()], EMIDEC_LABELS, compute, flips=False)


def drawn(case_id="Case_P002"):
    """Return an image and its labels (S, H, W)."""
    mask = label_map(case_id)
    return image_of(mask).transpose(2, 1, 0), mask.transpose(2, 1, 0)


def predict(segmenter, image, localisers=(LOCALISER,), spacing_mm=SPACING_MM):
    return predict_study(image, spacing_mm, segmenter, localisers, REGION, "a study")


def test_the_result_is_that_of_the_held_out_path(tmp_path, segmenter):
    studies = []
    for case_id in ("Case_P001", "Case_P002", "Case_P003"):
        image, mask = drawn(case_id)
        studies.append(Study(case_id, "", "no_reflow", image, mask, SPACING_MM, np.eye(4), "emidec", case_id))
    write_studies(tmp_path / "studies.h5", studies, EMIDEC_LABELS, "toy", minimum_patients=1)
    archive = StudyArchive.open(tmp_path / "studies.h5")
    split = FoldSplit(0, ("Case_P001",), ("Case_P003",), ("Case_P002",))
    boxes = dict.fromkeys((("Case_P002", ""), ("Case_P003", "")), LOCALISER.box)
    regions = write_real_slices(tmp_path / "slices.h5", archive, split, boxes, REGION, 0, "1")
    patients = HeldOutPatients(archive, SliceStore.open(tmp_path / "slices.h5"), regions)
    (held_out,) = patients.cases(segmenter.labels(patients.images()))
    ours = predict(segmenter, studies[1].image)
    np.testing.assert_array_equal(ours.mask, held_out.prediction)
    assert ours.mask.max() > 0
    np.testing.assert_array_equal(ours.images, patients.images())
    validated = HeldOutPatients(archive, SliceStore.open(tmp_path / "slices.h5"), regions, "validation")
    assert [case.case_id for case in validated.cases(segmenter.labels(validated.images()))] == ["Case_P003"]


@pytest.mark.parametrize("order", ["RAS", "LPI", "SAR", "ILP", "PSL"])
def test_another_voxel_order_gives_the_same_labels_at_the_same_places(tmp_path, segmenter, order):
    image, _ = drawn()
    affine = np.eye(4)
    affine[:3, :3] = ROTATION * SPACING_MM[::-1]
    affine[:3, 3] = (12.0, -40.0, 77.0)
    first = nibabel.Nifti1Image(image.transpose(2, 1, 0), affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(order))
    )
    second = first.as_reoriented(turn)
    maps = []
    for name, file in (("first", first), ("second", second)):
        (tmp_path / name).mkdir()
        nibabel.save(file, tmp_path / name / "study.nii.gz")
        (found,) = find_studies([tmp_path / name / "study.nii.gz"])
        (volume,) = volumes_of(found)
        study = volume.read()
        prediction = predict(segmenter, study.volume.image, spacing_mm=study.volume.spacing_mm)
        write_label_map(tmp_path / name / "labels.nii.gz", prediction.mask, study.volume)
        maps.append(nibabel.load(tmp_path / name / "labels.nii.gz"))
        assert maps[-1].shape == file.shape
        np.testing.assert_allclose(maps[-1].affine, file.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(maps[0].as_reoriented(turn).dataobj), np.asarray(maps[1].dataobj))
    assert np.asarray(maps[0].dataobj).max() == 4


def test_a_good_network_finds_what_was_drawn(segmenter):
    image, mask = drawn()
    prediction = predict(segmenter, image)
    assert prediction.mask.shape == mask.shape
    assert (prediction.mask == mask)[mask > 0].mean() > 0.8
    assert prediction.regions.shape == prediction.entropy.shape == (3, 48, 48)


def test_an_unsure_lesion_is_left_out_of_the_result_and_kept_in_what_was_drawn(compute):
    image, _ = drawn()
    unsure = Shades(sureness=2)
    usual = predict(Segmenter([unsure], EMIDEC_LABELS, compute, flips=False), image)
    infarct = usual.regions >= Tissue.INFARCT
    assert infarct.any()
    careful = predict(Segmenter([unsure], EMIDEC_LABELS, compute, flips=False, sure_lesions_only=True), image)
    np.testing.assert_array_equal(careful.drawn, usual.regions)
    assert (careful.regions[infarct] == Tissue.NORMAL_MYOCARDIUM).all()
    np.testing.assert_array_equal(careful.regions[~infarct], usual.regions[~infarct])
    assert careful.volumes_ml["infarction"] == 0


def test_an_ensemble_averages_and_tells_its_spread(compute):
    image, _ = drawn()
    networks = [Shades(), Shades(0.1)]
    both = predict(Segmenter(networks, EMIDEC_LABELS, compute, flips=False), image)
    singles = [predict(Segmenter([one], EMIDEC_LABELS, compute, flips=False), image) for one in networks]
    labels = Segmenter(networks, EMIDEC_LABELS, compute, flips=False).labels(both.images)
    np.testing.assert_array_equal(both.regions, labels)
    pixel_ml = 10 * (48 * 1.5) * (40 * 1.25) / (72 * 50) / 1000
    volumes = [np.count_nonzero(one.regions == 1) * pixel_ml for one in singles]
    assert both.uncertainty["cavity"].spread_ml == pytest.approx(np.std(volumes, ddof=1))
    assert singles[0].uncertainty["cavity"].spread_ml is None


def test_the_box_is_the_median_of_the_localisers():
    boxes = [Box(0, 0, 10, 10), Box(2, 2, 12, 14), Box(40, 40, 80, 80)]
    assert median_box(boxes, "s") == Box(2, 2, 12, 14)
    with pytest.raises(InputError, match="s: no localiser was given"):
        median_box([], "s")
    for bad in (Box(3, 3, 3, 9), Box(float("nan"), 0, 1, 1)):
        with pytest.raises(InputError, match="s: no left ventricle was located"):
            median_box([bad], "s")


def test_volumes_are_counted_on_the_study_s_own_grid():
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[0, 0] = [1, 2, 3, 4]
    mask[1, 0, :2] = 3
    volumes = tissue_volumes_ml(mask, (10.0, 2.0, 5.0), EMIDEC_LABELS)
    assert volumes == pytest.approx(
        {
            "cavity": 0.1,
            "normal_myocardium": 0.1,
            "infarct": 0.3,
            "no_reflow": 0.1,
            "myocardium": 0.5,
            "infarction": 0.4,
        }
    )
    assert lesion_shares_percent(volumes, EMIDEC_LABELS) == pytest.approx({"infarction": 80.0, "no_reflow": 20.0})


def test_shares_without_myocardium_are_unknown_and_cine_has_none():
    empty = tissue_volumes_ml(np.zeros((1, 2, 2), np.uint8), (10.0, 1.0, 1.0), EMIDEC_LABELS)
    assert lesion_shares_percent(empty, EMIDEC_LABELS) == {"infarction": None, "no_reflow": None}
    assert lesion_shares_percent({"cavity": 1.0, "myocardium": 1.0}, CINE_LABELS) == {}


def test_entropy_is_one_where_all_classes_are_equally_likely_and_zero_where_one_is_certain():
    probabilities = np.zeros((1, 5, 1, 2), np.float32)
    probabilities[0, :, 0, 0] = 0.2
    probabilities[0, 3, 0, 1] = 1
    np.testing.assert_allclose(relative_entropy(probabilities), [[[1, 0]]], atol=1e-6)


def test_a_region_without_contrast_names_the_study(segmenter):
    with pytest.raises(InputError, match="a study, region around"):
        predict(segmenter, np.full((2, 40, 40), 7, np.float32))


def flags_of(segmenter, image):
    return predict_checked(image, SPACING_MM, segmenter, (LOCALISER,), REGION, [None], "a study").flags


def test_slices_that_no_scanner_gives_flag_the_study(segmenter):
    image, _ = drawn()
    assert not [flag for flag in flags_of(segmenter, image) if "export" in flag]
    doubled, holed = np.insert(image, 1, image[0], axis=0), image.copy()
    holed[1] = 0
    assert "slices 1 and 2 are the same, voxel for voxel; export the study again" in flags_of(segmenter, doubled)
    assert "slice 2 of 3 is blank; export the study again" in flags_of(segmenter, holed)


def test_the_study_s_own_grid_and_spacing_are_looked_at(segmenter, monkeypatch):
    given = []
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", lambda *all_of: given.append(all_of))
    with pytest.raises(TypeError):  # nothing is returned in place of sentences
        flags_of(segmenter, drawn()[0])
    *_, mask, spacing_mm = given[0]
    assert (mask.shape, spacing_mm) == (drawn()[1].shape, SPACING_MM)
