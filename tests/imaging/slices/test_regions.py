import dataclasses

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.slices.regions import (
    REGION_COLUMNS,
    RegionConfig,
    read_regions,
    study_regions,
    write_real_slices,
    write_regions,
)
from imaging.slices.store import SliceStore
from imaging.sources.emidec import read_emidec
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import Box, paste_region, reference_box, restore_mask
from imaging.studies.split import split_digest, split_patients
from tests.imaging import fake_emidec

CONFIG = RegionConfig(size_px=48)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    studies = read_emidec(fake_emidec.write_root(folder / "emidec"))
    write_studies(folder / "studies.h5", studies, EMIDEC_LABELS, "emidec")
    return StudyArchive.open(folder / "studies.h5")


@pytest.fixture(scope="module")
def split(archive):
    return split_patients(archive.groups(), folds=3)[1]


@pytest.fixture(scope="module")
def predicted(archive, split):
    """Boxes two pixels off, for validation and test patients only, as a localiser gives them."""
    boxes = {}
    for case_id in (*split.validation, *split.test):
        box = reference_box(archive.load(case_id, "").mask)
        boxes[case_id, ""] = Box(*(edge + 2 for edge in box))
    return boxes


@pytest.fixture(scope="module")
def written(tmp_path_factory, archive, split, predicted):
    path = tmp_path_factory.mktemp("store") / "real.h5"
    table = write_real_slices(path, archive, split, predicted, CONFIG, seed=7, code_version="1")
    return SliceStore.open(path), table


def test_every_slice_of_every_patient_is_there_once(archive, written):
    store, table = written
    rows = store.rows
    assert len(rows) == 3 * len(archive.keys())
    assert rows[["case_id", "slice_index"]].drop_duplicates().shape[0] == len(rows)
    assert set(rows["origin"]) == {"real"}
    assert set(rows["donor_ids"]) == {""}
    assert dict(zip(rows["case_id"], rows["group"], strict=True)) == archive.groups()
    assert table.columns.tolist() == list(REGION_COLUMNS)
    assert table["case_id"].tolist() == list(archive.groups())


def test_the_store_says_where_it_comes_from(archive, split, written):
    attributes = written[0].attributes
    assert attributes.source_digest == archive.digest
    assert attributes.parent_digests["patient_split"] == split_digest(split)
    assert (attributes.region_px, attributes.spacing_mm, attributes.label_set) == (48, 1.0, "emidec")
    assert "percentiles 2 to 98" in attributes.intensity_rule
    assert attributes.parameters["fold"] == split.fold


def test_training_regions_are_jittered_around_the_reference_and_others_are_the_predicted(
    archive, split, predicted, written
):
    moved = []
    for row in written[1].itertuples():
        assert row.part == split.part_of(row.case_id)
        centre = (row.centre_row, row.centre_col)
        if row.part == "train":
            reference = reference_box(archive.load(row.case_id, "").mask).centre
            moved.append(np.subtract(centre, reference))
        else:
            assert centre == predicted[row.case_id, ""].centre
    assert np.abs(moved).max() <= CONFIG.jitter_mm
    assert len(np.unique(np.abs(moved))) == 2 * len(moved)


def test_regions_go_back_to_the_studys_own_grid(archive, written):
    store, table = written
    for row in table.itertuples():
        study = archive.load(row.case_id, row.frame)
        masks = store.masks(np.flatnonzero(store.rows["case_id"] == row.case_id))
        pasted = paste_region(masks, study.mask.shape, (row.centre_row, row.centre_col))
        np.testing.assert_array_equal(pasted, study.mask)
        restored = restore_mask(pasted, study.native_mask.shape, 5)
        np.testing.assert_array_equal(restored, study.native_mask)


def test_the_same_seed_writes_the_same_slices_and_another_seed_others(tmp_path, archive, split, predicted, written):
    paths = [tmp_path / "same.h5", tmp_path / "other.h5"]
    for path, seed in zip(paths, (7, 8), strict=True):
        write_real_slices(path, archive, split, predicted, CONFIG, seed=seed, code_version="1")
    same, other = map(SliceStore.open, paths)
    assert same.digest == written[0].digest
    assert other.digest != written[0].digest


def test_the_window_is_taken_over_all_slices_and_only_inside_the_image():
    config = RegionConfig(size_px=32)
    image = np.stack([np.full((20, 20), 1000.0), np.linspace(1000, 2000, 400).reshape(20, 20)])
    regions, window = study_regions(image.astype(np.float32), (10.0, 10.0), config, "P1")
    assert window == pytest.approx(tuple(np.percentile(image, [2, 98])))
    assert window[0] == 1000.0  # the 624 pixels a slice outside the image would make it 0
    assert regions.shape == (2, 32, 32)
    assert regions[0].max() == 0
    assert regions[1, 6:26, 6:26].max() == 1
    assert regions[:, :6].max() == 0


def test_outside_the_image_is_0_even_where_intensities_are_negative():
    rng = np.random.default_rng(0)
    image = rng.normal(-500, 50, (1, 20, 20)).astype(np.float32)
    regions, _ = study_regions(image, (10.0, 10.0), RegionConfig(size_px=32), "P1")
    assert regions[:, :6].max() == 0


def test_windows_do_not_depend_on_scanner_units(archive):
    study = archive.load("Case_P002", "")
    plain, _ = study_regions(study.image, (36.0, 30.0), CONFIG, "P")
    scaled, _ = study_regions(study.image * 7 + 300, (36.0, 30.0), CONFIG, "P")
    inside = plain > 0
    np.testing.assert_allclose(scaled[inside], plain[inside], atol=1e-4)


def test_a_missing_or_broken_box_is_refused_and_leaves_nothing(tmp_path, archive, split, predicted):
    case_id = split.test[0]
    for boxes in (
        {key: box for key, box in predicted.items() if key[0] != case_id},
        predicted | {(case_id, ""): Box(0, 0, float("nan"), 9)},
    ):
        with pytest.raises(InputError, match=rf"'{case_id}'.*\(test\) has the predicted box.*lv_localiser"):
            write_real_slices(tmp_path / "real.h5", archive, split, boxes, CONFIG, 0, "1")
    assert list(tmp_path.iterdir()) == []


def test_a_patient_outside_the_split_is_refused(tmp_path, archive, split, predicted):
    smaller = dataclasses.replace(split, train=split.train[1:])
    with pytest.raises(InputError, match=f"patient '{split.train[0]}' is in no part"):
        write_real_slices(tmp_path / "real.h5", archive, smaller, predicted, CONFIG, 0, "1")


def test_a_box_outside_the_image_is_refused_by_name(archive):
    with pytest.raises(InputError, match="study P9, region around row 900, column 30: no pixels"):
        study_regions(archive.load("Case_P002", "").image, (900.0, 30.0), CONFIG, "P9")


def test_the_table_of_regions_is_read_back_value_for_value(tmp_path, written):
    table = written[1].assign(case_id=[f"{number:03d}" for number in range(len(written[1]))])
    path = tmp_path / "fold_0" / "regions.csv"
    write_regions(path, table)
    pd.testing.assert_frame_equal(read_regions(path), table, check_dtype=False)
    assert read_regions(path)["frame"].tolist() == [""] * len(table)


def test_a_foreign_table_of_regions_is_refused(tmp_path):
    (tmp_path / "regions.csv").write_text("a,b\n1,2\n")
    for name in ("regions.csv", "absent.csv"):
        with pytest.raises(InputError, match="rematerialise `real_slices`"):
            read_regions(tmp_path / name)


@pytest.mark.parametrize("percentiles", [(98, 2), (5, 5), (-1, 90), (2, 101)])
def test_percentiles_must_ascend(percentiles):
    with pytest.raises(ValueError, match="must ascend"):
        RegionConfig(percentiles=percentiles)
