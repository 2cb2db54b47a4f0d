import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from imaging.box import Box
from imaging.errors import InputError
from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.prepare import reference_box
from imaging.split import FoldSplit
from imaging.study import Study
from imaging.study_archive import StudyArchive, write_studies
from segmentation.localiser import (
    box_scores,
    central_box,
    fixed_central_box,
    intersection_over_union,
    load_localiser,
    median_box,
)
from segmentation.localiser_augment import Views, draw_views, view_boxes, view_images
from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_input import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    shares_to_box,
)
from segmentation.localiser_network import LocaliserNet
from segmentation.localiser_training import localiser_loss, train_localiser
from training.compute import choose_compute
from training.report import TrainingDivergedError, silent

SMALL = LocaliserConfig(
    input_px=32, widths=(8, 16), hidden=32, steps=60, batch=16, validate_every=20, learning_rate=5e-3
)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


def ring(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
    distance = np.hypot(row - centre[0], column - centre[1])
    mask = np.where(distance < radius, Tissue.NORMAL_MYOCARDIUM, Tissue.BACKGROUND)
    return np.where(distance < radius * 0.6, Tissue.CAVITY, mask).astype(np.uint8)


def study(index: int) -> Study:
    """A bright disc with a dark ring, anywhere in a noisy image."""
    rng = np.random.default_rng(index)
    shape = (80, 96)
    centre = rng.uniform([28, 28], [52, 68])
    mask = np.stack([ring(shape, tuple(centre), 18 - 2 * place) for place in range(3)])
    image = np.choose(mask, [80.0, 200.0, 20.0, 0.0, 0.0]) + rng.normal(0, 12, mask.shape)
    return Study(
        case_id=f"P{index:02d}",
        frame="",
        group="normal",
        image=image.astype(np.float32),
        mask=mask,
        spacing_mm=(10.0, 1.0, 1.0),
        affine=np.eye(4),
        label_set=EMIDEC_LABELS.name,
        path=f"P{index:02d}",
    )


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
        archive, split, SMALL, compute, folder, 0, lambda step, _: reports.append(step), {"fold": 0}
    )
    return folder, result, reports


# Boxes and fields of view


@pytest.mark.parametrize("shape", [(3, 80, 96), (3, 96, 80), (1, 81, 97), (2, 40, 200)])
def test_box_survives_the_way_into_the_field_and_back(shape):
    box = Box(10.0, 15.0, 35.0, 70.0)
    fov_mm = field_of_view_mm([shape])
    back = shares_to_box(box_to_shares(box, shape, fov_mm).numpy(), shape, fov_mm)
    assert back == pytest.approx(box, abs=1e-4)


def test_box_is_clipped_to_a_smaller_field():
    shares = box_to_shares(Box(0.0, 0.0, 100.0, 100.0), (1, 100, 100), 50)
    assert shares.tolist() == [0, 0, 1, 1]
    assert shares_to_box(shares.numpy(), (1, 100, 100), 50) == Box(25.0, 25.0, 75.0, 75.0)


def test_letterboxed_pixels_lie_where_the_box_says():
    mask = np.zeros((1, 60, 90), np.float32)
    mask[0, 20:40, 50:80] = 1.0
    picture = letterbox(mask, 96, 96)[0, 0].numpy()
    rows, columns = np.nonzero(picture > 0.5)
    shares = box_to_shares(Box(20, 50, 40, 80), mask.shape, 96).numpy() * 96
    assert shares == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_flat_image_is_refused():
    with pytest.raises(InputError, match="flat"):
        letterbox(np.ones((2, 8, 8), np.float32), 8, 8)


def test_extreme_points_span_the_reference_box():
    mask = study(3).mask
    points = extreme_points(mask, 96)
    nothing = Views(torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 96, 96))
    expected = box_to_shares(reference_box(mask), mask.shape, 96)
    torch.testing.assert_close(view_boxes(nothing, points[None])[0], expected)


def test_image_and_box_move_together():
    config = LocaliserConfig(input_px=96, shift=0.1, noise=0.0, gamma=1.0, rotation_degrees=40, flips=True)
    mask = study(5).mask
    picture = letterbox((mask > 0).astype(np.float32), 96, 96)[:1]
    count = 24
    views = draw_views(config, count, seed=1)
    seen = view_images(views, picture.expand(count, -1, -1, -1))
    boxes = view_boxes(views, extreme_points(mask, 96).expand(count, -1, -1)) * 96
    inside = 0
    for image, box in zip(seen, boxes, strict=True):
        rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if found.min() > 0 and found.max() < 96:
            inside += 1
            assert (found - box).abs().max() < 2.0
    assert inside > count / 2


def test_views_repeat_with_their_seed():
    first, again, other = (draw_views(SMALL, 4, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.turn, other.turn)


# The network


@pytest.mark.parametrize("head", ["regression", "soft_argmax"])
def test_untrained_network_answers_with_its_anchor(head):
    network = LocaliserNet(SMALL.model_copy(update={"head": head}))
    boxes = network(torch.rand(3, 1, 32, 32))
    torch.testing.assert_close(boxes, network.anchor.expand(3, 4))


def test_published_shape_of_the_network():
    network = LocaliserNet(LocaliserConfig(input_px=256, head="regression"))
    widths = [block[0].out_channels for block in network.blocks]
    assert widths == [8, 16, 32, 64]
    dense = [layer for layer in network.head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in dense] == [512, 4]


def test_input_that_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="multiple of 16"):
        LocaliserNet(LocaliserConfig(input_px=100))


def test_median_ignores_one_bad_slice(compute):
    class Fake(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).repeat(len(images), 1)
            boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
            return boxes

    assert median_box(Fake(), torch.zeros(5, 1, 8, 8), compute) == pytest.approx([0.2, 0.2, 0.6, 0.6])


def test_loss_is_zero_for_equal_boxes_and_grows_with_distance():
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    losses = [float(localiser_loss(box + shift, box)) for shift in (0.0, 0.05, 0.2, 0.39)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses == sorted(losses)


# The yardstick and the score


def test_fixed_box_has_the_mean_size_in_the_middle(archive, split):
    boxes = [reference_box(archive.load(case, "").mask) for case in split.train]
    fixed = fixed_central_box(archive, split.train, (3, 80, 96))
    assert fixed.centre == (40.0, 48.0)
    assert fixed.height == pytest.approx(np.mean([box.height for box in boxes]))
    with pytest.raises(InputError, match="training patients"):
        fixed_central_box(archive, ["nobody"], (3, 80, 96))


def test_intersection_over_union_by_hand():
    assert intersection_over_union(Box(0, 0, 2, 2), Box(0, 1, 2, 3)) == pytest.approx(1 / 3)
    assert intersection_over_union(Box(0, 0, 2, 2), Box(0, 0, 2, 2)) == 1.0
    assert intersection_over_union(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0.0
    assert central_box(100, 10, (1, 20, 20)) == Box(0.0, 5.0, 20, 15.0)


# Training


def test_trained_localiser_beats_the_fixed_box(archive, split, compute, trained):
    folder, result, reports = trained
    scores = box_scores(load_localiser(folder, compute), archive, split)
    test = scores[scores["part"] == "test"]
    assert test["iou"].mean() > test["fixed_box_iou"].mean() + 0.1
    assert set(scores["part"]) == {"train", "validation", "test"}
    validation = scores[scores["part"] == "validation"]
    assert validation["iou"].mean() == pytest.approx(result.validation_iou, abs=0.02)
    assert reports == [20, 40, 60]


def test_model_folder_says_what_the_model_is(trained):
    folder, result, _ = trained
    card = json.loads((folder / "model_card.json").read_text())
    assert card["fold"] == 0
    assert card["fov_mm"] == 96
    assert card["validation_iou"] == result.validation_iou
    assert len(pd.read_csv(folder / "history.csv")) == 3
    assert not (folder / "checkpoint").exists()


def test_predicted_box_follows_the_heart(archive, compute, trained):
    localiser = load_localiser(trained[0], compute)
    errors = []
    for case, frame in archive.keys():  # noqa: SIM118
        item = archive.load(case, frame)
        predicted = localiser.predict_box(item)
        errors.append(np.hypot(*np.subtract(predicted.centre, reference_box(item.mask).centre)))
    assert np.median(errors) < 6.0


class KilledError(Exception):
    pass


def test_killed_training_continues_exactly(archive, split, compute, tmp_path: Path):
    config = SMALL.model_copy(update={"steps": 6, "validate_every": 2})

    def kill(step: int, _: object) -> None:
        if step == 4:
            raise KilledError

    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train_localiser(archive, split, config, compute, whole, 7, silent, {})
    with pytest.raises(KilledError):
        train_localiser(archive, split, config, compute, halved, 7, kill, {})
    assert (halved / "checkpoint").exists()
    train_localiser(archive, split, config, compute, halved, 7, silent, {})
    for name in ("weights.safetensors", "history.csv", "model_card.json"):
        assert (whole / name).read_bytes() == (halved / name).read_bytes()


def test_test_patients_are_never_read(archive, split, compute, tmp_path: Path, monkeypatch):
    read: set[str] = set()
    load = StudyArchive.load

    def spy(self, case_id, frame):
        read.add(case_id)
        return load(self, case_id, frame)

    monkeypatch.setattr(StudyArchive, "load", spy)
    config = SMALL.model_copy(update={"steps": 1})
    train_localiser(archive, split, config, compute, tmp_path, 0, silent, {})
    assert read == set(split.train) | set(split.validation)


def test_diverged_training_stops_at_once(archive, split, compute, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("segmentation.localiser_training.localiser_loss", lambda boxes, _: boxes.sum() * np.nan)
    with pytest.raises(TrainingDivergedError, match="nan at step 1"):
        train_localiser(archive, split, SMALL, compute, tmp_path, 0, silent, {})


def test_foreign_weights_are_refused(compute, trained, tmp_path: Path):
    for name in ("weights.safetensors", "model_card.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    other = SMALL.model_copy(update={"widths": (4, 8), "fov_mm": 96})
    (tmp_path / "config.json").write_text(other.model_dump_json())
    with pytest.raises(InputError, match="rematerialise `lv_localiser`"):
        load_localiser(tmp_path, compute)
