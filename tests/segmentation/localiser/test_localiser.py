import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import Box, reference_box
from imaging.studies.split import FoldSplit
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.report import TIME, TrainingDivergedError, silent
from segmentation.localiser.box_prediction import (
    box_scores,
    central_box,
    intersection_over_union,
    load_localiser,
    mean_box_size,
    slices_outside,
)
from segmentation.localiser.networks import FootprintNet
from segmentation.localiser.training import train_localiser
from tests.segmentation.localiser_studies import PUBLISHED, SMALL, ring, study


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> StudyArchive:
    path = tmp_path_factory.mktemp("studies") / "studies.h5"
    write_studies(path, [study(index) for index in range(24)], EMIDEC_LABELS, "made")
    return StudyArchive.open(path)


@pytest.fixture(scope="module")
def split() -> FoldSplit:
    names = [f"P{index:02d}" for index in range(24)]
    return FoldSplit(0, tuple(names[:16]), tuple(names[16:20]), tuple(names[20:]))


@pytest.fixture(scope="module")
def trained(archive, split, compute, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    reports: list[int] = []
    result = train_localiser(
        archive, split, SMALL, compute, folder, 0, lambda step, _: reports.append(step), ModelCard(fold=0)
    )
    return folder, result, reports


# The yardstick and the score


def test_the_yardstick_has_the_mean_size_in_the_middle(archive, split):
    boxes = [reference_box(archive.load(case, "").mask) for case in split.train]
    size = mean_box_size(archive, split.train)
    assert size == pytest.approx((np.mean([box.height for box in boxes]), np.mean([box.width for box in boxes])))
    assert central_box(*size, (3, 80, 96)).centre == (40.0, 48.0)
    with pytest.raises(InputError, match="training patients"):
        mean_box_size(archive, ["nobody"])


def test_intersection_over_union_by_hand():
    assert intersection_over_union(Box(0, 0, 2, 2), Box(0, 1, 2, 3)) == pytest.approx(1 / 3)
    assert intersection_over_union(Box(0, 0, 2, 2), Box(0, 0, 2, 2)) == 1.0
    assert intersection_over_union(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0.0
    assert central_box(100, 10, (1, 20, 20)) == Box(0.0, 5.0, 20, 15.0)


def test_slices_outside_the_region_are_counted():
    mask = np.zeros((3, 60, 60), np.uint8)
    mask[0, 25:35, 25:35] = 1
    mask[1, 25:35, 25:46] = 2
    assert slices_outside(mask, (30.0, 30.0), 32) == 0
    assert slices_outside(mask, (30.0, 29.0), 32) == 1
    assert slices_outside(mask, (5.0, 5.0), 32) == 2  # the empty slice is never outside


# Training


def test_trained_localiser_beats_the_fixed_box(archive, split, compute, trained):
    folder, result, reports = trained
    scores = box_scores(load_localiser(folder, compute), archive, split, region_px=128)
    test = scores[scores["part"] == "test"]
    assert test["iou"].mean() > test["fixed_box_iou"].mean() + 0.1
    assert set(scores["part"]) == {"train", "validation", "test"}
    validation = scores[scores["part"] == "validation"]
    assert validation["iou"].mean() == pytest.approx(result.validation_iou, abs=0.02)
    assert reports == [40, 80, 120]
    assert (test["slices"] == 3).all()
    assert (test["slices_outside"] == 0).all()


def test_slices_outside_are_counted_in_the_region_that_is_cut(archive, split, compute, trained):
    localiser = load_localiser(trained[0], compute)
    outside = {size: box_scores(localiser, archive, split, size)["slices_outside"].sum() for size in (24, 128)}
    assert outside[128] == 0
    assert outside[24] > 0  # the ventricles are up to 36 px wide


def test_model_folder_says_what_the_model_is(trained):
    folder, result, _ = trained
    card = json.loads((folder / "model_card.json").read_text())
    assert card["fold"] == 0
    assert card["fov_mm"] == 96
    assert card["validation_iou"] == result.validation_iou
    assert len(pd.read_csv(folder / "history.csv")) == 3


def test_a_training_that_is_over_is_not_repeated(archive, split, compute, trained, monkeypatch):
    folder, result, _ = trained
    monkeypatch.setattr(FootprintNet, "loss", lambda *_: pytest.fail("trains again"))
    assert (folder / "checkpoint" / "last.pt").exists()  # the boxes, which are made of the model, may fail yet
    assert train_localiser(archive, split, SMALL, compute, folder, 0, silent, ModelCard(fold=0)) == result


def test_predicted_box_follows_the_heart(archive, compute, split, trained):
    localiser = load_localiser(trained[0], compute)
    errors = []
    for case in split.test:
        item = archive.load(case, "")
        predicted = localiser.predict_box(item)
        errors.append(np.hypot(*np.subtract(predicted.centre, reference_box(item.mask).centre)))
    assert max(errors) < 4.0


def drawn(centre: tuple[float, float], count: int = 6) -> np.ndarray:
    mask = np.stack([ring((80, 96), centre, 17)] * count)
    noise = np.random.default_rng(8).normal(0, 12, mask.shape)
    return (np.choose(mask, [80.0, 200.0, 20.0, 0.0, 0.0]) + noise).astype(np.float32)


def test_shifted_ventricle_moves_the_box_by_the_same(compute, trained):
    localiser = load_localiser(trained[0], compute)
    here, there = (localiser.predict_image_box(drawn(centre)) for centre in ((36.0, 50.0), (45.0, 39.0)))
    assert np.subtract(there, here) == pytest.approx([9, -11, 9, -11], abs=2.5)


@pytest.mark.parametrize("bad", ["noise", "black", "white", "elsewhere"])
def test_one_bad_slice_hardly_moves_the_box(bad, compute, trained):
    localiser = load_localiser(trained[0], compute)
    image = drawn((34.0, 40.0))
    before = localiser.predict_image_box(image)
    noise = np.random.default_rng(9).uniform(0, 250, image[0].shape)
    image[2] = {"noise": noise, "black": 0.0, "white": 250.0, "elsewhere": drawn((60.0, 76.0))[0]}[bad]
    assert np.abs(np.subtract(localiser.predict_image_box(image), before)).max() < 4.0


def test_blank_slices_have_no_say(compute, trained):
    localiser = load_localiser(trained[0], compute)
    image = drawn((34.0, 40.0))
    blank = np.zeros_like(image[:1])
    with_blanks = localiser.predict_image_box(np.concatenate([blank, image, blank]))
    assert with_blanks == pytest.approx(localiser.predict_image_box(image), abs=1.0)


def test_published_head_trains_and_loads(archive, split, compute, tmp_path: Path):
    config = PUBLISHED.model_copy(update={"steps": 60, "batch": 16})
    train_localiser(archive, split, config, compute, tmp_path, 0, silent, ModelCard())
    scores = box_scores(load_localiser(tmp_path, compute), archive, split, region_px=128)
    assert scores["iou"].mean() > scores["fixed_box_iou"].mean()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("head", [SMALL, PUBLISHED], ids=["footprint", "regression"])
def test_killed_training_continues_exactly(head, archive, split, compute, tmp_path: Path):
    config = head.model_copy(update={"steps": 6, "validate_every": 2})

    def kill(step: int, _: object) -> None:
        if step == 4:
            raise KilledError

    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train_localiser(archive, split, config, compute, whole, 7, silent, ModelCard())
    with pytest.raises(KilledError):
        train_localiser(archive, split, config, compute, halved, 7, kill, ModelCard())
    assert (halved / "checkpoint").exists()
    train_localiser(archive, split, config, compute, halved, 7, silent, ModelCard())
    for name in ("weights.safetensors", "model_card.json"):
        assert (whole / name).read_bytes() == (halved / name).read_bytes()
    one, other = (pd.read_csv(folder / "history.csv").drop(columns=TIME) for folder in (whole, halved))
    pd.testing.assert_frame_equal(one, other)


def test_test_patients_are_never_read(archive, split, compute, tmp_path: Path, monkeypatch):
    read: set[str] = set()
    load = StudyArchive.load

    def spy(self, case_id, frame):
        read.add(case_id)
        return load(self, case_id, frame)

    monkeypatch.setattr(StudyArchive, "load", spy)
    config = SMALL.model_copy(update={"steps": 1})
    train_localiser(archive, split, config, compute, tmp_path, 0, silent, ModelCard())
    assert read == set(split.train) | set(split.validation)


def test_diverged_training_stops_at_once(archive, split, compute, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(FootprintNet, "loss", lambda *arguments: arguments[1].sum() * np.nan)
    with pytest.raises(TrainingDivergedError, match="nan at step 1"):
        train_localiser(archive, split, SMALL, compute, tmp_path, 0, silent, ModelCard())


def test_foreign_weights_are_refused(compute, trained, tmp_path: Path):
    for name in ("weights.safetensors", "model_card.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    other = SMALL.model_copy(update={"map_widths": (4, 8, 8), "fov_mm": 96})
    (tmp_path / "config.json").write_text(other.model_dump_json())
    with pytest.raises(InputError, match="rematerialise `lv_localiser`"):
        load_localiser(tmp_path, compute)
