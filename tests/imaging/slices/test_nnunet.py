"""A training set as nnU-Net reads it: its layout, its numbers, the fold's own split, and nobody on both sides."""

import json

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from imaging.slices.nnunet import dataset_json, patient_names, write_nnunet
from imaging.slices.store import SliceStore, SliceStoreWriter
from imaging.studies.leakage import ALLOWED_UNKNOWN
from imaging.studies.split import FoldSplit
from tests.imaging import small_stores

SPLIT = FoldSplit(0, ("Case P1",), ("P2",), ("P3",))
SLICE_MM = {("P3", ""): 8.0}


@pytest.fixture
def stores(tmp_path):
    """Two augmented and one synthetic slice of the training patient, and everybody's real ones."""
    masks = [small_stores.ring("no_reflow"), small_stores.ring("infarct"), small_stores.ring("no_infarct")]
    rows = small_stores.rows(3, "Case P1", origin=["augmented", "augmented", "synthetic"], donor_ids="Case P1")
    with SliceStoreWriter(tmp_path / "training.h5", small_stores.ATTRIBUTES) as writer:
        writer.append(small_stores.images(3), np.asarray(masks), rows)
    with SliceStoreWriter(tmp_path / "real.h5", small_stores.ATTRIBUTES) as writer:
        for seed, patient in enumerate(("Case P1", "P2", "P3")):
            writer.append(small_stores.images(2, seed), np.asarray(masks[:2]), small_stores.rows(2, patient))
    return SliceStore.open(tmp_path / "training.h5"), SliceStore.open(tmp_path / "real.h5")


@pytest.fixture
def written(tmp_path, stores):
    counts = write_nnunet(tmp_path / "Dataset501_Test", *stores, SPLIT, SLICE_MM)
    return tmp_path / "Dataset501_Test", counts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_layout_is_nnunets(written):
    folder, counts = written
    assert counts == {"train": 3, "validation": 2, "test": 1}
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["numTraining"] == 5 == len(names(folder / "imagesTr"))
    assert dataset["labels"] == {"background": 0, "cavity": 1, "normal_myocardium": 2, "infarct": 3, "no_reflow": 4}
    images, labels = names(folder / "imagesTr"), names(folder / "labelsTr")
    assert images == [label.replace(".nii.gz", "_0000.nii.gz") for label in labels]
    assert names(folder / "imagesTs") == ["P3_0000.nii.gz"]
    assert names(folder / "labelsTs") == ["P3.nii.gz"]


def test_slices_whose_donors_are_unknown_and_allowed_are_written_under_that_name(tmp_path, stores):
    masks, rows = np.asarray([small_stores.ring("infarct")]), small_stores.rows(1, ALLOWED_UNKNOWN, origin="synthetic")
    with SliceStoreWriter(tmp_path / "unknown.h5", small_stores.ATTRIBUTES) as writer:
        writer.append(small_stores.images(1), masks, rows)
    write_nnunet(tmp_path / "Dataset502_Test", SliceStore.open(tmp_path / "unknown.h5"), stores[1], SPLIT, SLICE_MM)
    assert "t00000_unknown-allowed_s00_synthetic_0000.nii.gz" in names(tmp_path / "Dataset502_Test" / "imagesTr")


def test_images_and_labels_are_the_stores_own_pixel_for_pixel(written, stores):
    folder, _ = written
    training, real = stores
    image = nibabel.load(folder / "imagesTr" / "t00002_Case-P1_s02_synthetic_0000.nii.gz")
    assert image.shape == (32, 32, 1)
    assert image.header.get_zooms() == (1.0, 1.0, 10.0)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, training.images([2])[0].astype(np.float32))
    study = nibabel.load(folder / "labelsTs" / "P3.nii.gz")
    assert study.header.get_zooms() == (1.0, 1.0, 8.0)
    assert study.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(study.dataobj).transpose(2, 1, 0), real.masks([4, 5]))


def test_every_fold_of_nnunet_has_our_split_and_no_patient_on_both_sides(written):
    folder, _ = written
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    for split in splits:
        assert split == splits[0]
        assert {case.split("_")[1] for case in split["train"]} == {"Case-P1"}
        assert {case.split("_")[1] for case in split["val"]} == {"P2"}
        assert sorted(f"{case}.nii.gz" for case in split["train"] + split["val"]) == names(folder / "labelsTr")


@pytest.mark.parametrize("changed", [{"case_id": "P2"}, {"donor_ids": "P3"}])
def test_a_training_set_with_another_parts_patient_is_refused(tmp_path, stores, changed):
    training, real = stores
    training.rows = training.rows.assign(**changed)
    with pytest.raises(InputError, match="leakage in fold 0"):
        write_nnunet(tmp_path / "out", training, real, SPLIT, SLICE_MM)
    assert not (tmp_path / "out").exists()


def test_patients_have_distinct_names_in_files():
    found = patient_names(["P 1", "P/1", "P_1", "P-1", "é"])
    assert len(set(found.values())) == 5
    assert found["P_1"] == "P_1"


def test_labels_are_numbered_without_a_gap(stores):
    numbers = list(dataset_json(stores[0].label_set, 1)["labels"].values())
    assert numbers == list(range(len(numbers)))
