import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

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
    slices_outside,
)
from segmentation.localiser_augment import Views, draw_views, view_boxes, view_images, view_maps
from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_finder import Targets
from segmentation.localiser_footprint import FootprintNet, map_loss, study_map
from segmentation.localiser_heads import build_finder
from segmentation.localiser_input import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    letterbox_labels,
    shares_to_box,
)
from segmentation.localiser_map import box_of_map
from segmentation.localiser_network import LocaliserNet, box_loss
from segmentation.localiser_training import train_localiser
from training.compute import choose_compute
from training.report import TrainingDivergedError, silent

SMALL = LocaliserConfig(
    input_px=48, map_widths=(8, 16, 16), steps=120, batch=8, validate_every=40, learning_rate=5e-3, shift=0.05
)
PUBLISHED = SMALL.model_copy(update={"head": "regression", "widths": (8, 16), "hidden": 32})


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
    fov_mm = max(shape) + max(shape) % 2
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


def test_rim_outside_the_field_does_not_set_the_window():
    image = np.zeros((1, 60, 60), np.float32)
    image[0, 20:40, 20:40] = np.linspace(1, 2, 400).reshape(20, 20)
    bright_rim = np.where(image == 0, 1000.0, image).astype(np.float32)
    assert letterbox(bright_rim, 20, 20).mean() == pytest.approx(0.5, abs=0.02)


def test_field_of_view_holds_every_ventricle_with_its_margin():
    shapes, boxes = [(9, 300, 400), (9, 320, 320)], [Box(100, 150, 180, 230), Box(130, 180, 200, 260)]
    # The second box reaches 100 mm to the right of its image's centre at column 160.
    assert field_of_view_mm(shapes, boxes, margin_mm=50) == 300
    assert field_of_view_mm(shapes, boxes, margin_mm=500) == 400
    assert field_of_view_mm([(1, 81, 97)], [Box(0, 0, 81, 97)], margin_mm=0) == 98


def test_footprint_is_where_any_slice_has_labels():
    mask = study(4).mask
    labels = letterbox_labels(mask, 96, 96)
    assert labels.shape == (3, 1, 96, 96)
    together = letterbox_labels((mask > 0).any(axis=0, keepdims=True).astype(np.uint8), 96, 96)[0]
    torch.testing.assert_close(labels.amax(dim=0), together)
    assert labels.sum() == np.count_nonzero(mask)


def unchanged(size: int) -> Views:
    return Views(
        turn=torch.eye(2)[None],
        shift=torch.zeros(1, 2),
        gamma=torch.ones(1, 1, 1, 1),
        noise=torch.zeros(1, 1, size, size),
        shading=torch.ones(1, 1, 4, 4),
        window=torch.tensor([0.0, 1.0])[None, :, None, None],
    )


def test_view_that_changes_nothing_shows_the_image():
    image = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(view_images(unchanged(16), image), image)
    torch.testing.assert_close(view_maps(unchanged(16), image), image)


def test_extreme_points_span_the_reference_box():
    mask = study(3).mask
    expected = box_to_shares(reference_box(mask), mask.shape, 96)
    torch.testing.assert_close(view_boxes(unchanged(96), extreme_points(mask, 96)[None])[0], expected)


def test_image_box_and_map_move_together():
    config = LocaliserConfig(
        input_px=96, shift=0.1, noise=0.0, gamma=1.0, shading=1.0, window=0.0, rotation_degrees=40, flips=True
    )
    mask, count = study(5).mask, 24
    views = draw_views(config, count, seed=1)
    labels = letterbox_labels(mask, 96, 96)[:1].expand(count, -1, -1, -1)
    seen = view_images(views, labels)
    torch.testing.assert_close(view_maps(views, labels.repeat(1, 2, 1, 1)), seen.repeat(1, 2, 1, 1))
    boxes = view_boxes(views, extreme_points(mask[:1], 96).expand(count, -1, -1)) * 96
    inside = 0
    for image, box in zip(seen, boxes, strict=True):
        rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if found.min() > 0 and found.max() < 96:
            inside += 1
            assert (found - box).abs().max() < 2.0
    assert inside > count / 2


def test_views_vary_contrast_within_their_limits():
    config = LocaliserConfig(input_px=16, shading=1.5, window=0.2)
    views = draw_views(config, 64, seed=2)
    assert views.shading.min() >= 1 / 1.5 - 1e-6
    assert views.shading.max() <= 1.5 + 1e-6
    low, high = views.window[:, 0], views.window[:, 1]
    assert low.abs().max() <= 0.2 + 1e-6
    assert (high - 1).abs().max() <= 0.2 + 1e-6


def test_views_repeat_with_their_seed():
    first, again, other = (draw_views(SMALL, 4, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.turn, other.turn)


# From a map to a box


def blob(top: int, left: int, bottom: int, right: int, value: float = 0.9, size: int = 40) -> np.ndarray:
    result = np.zeros((size, size))
    result[top:bottom, left:right] = value
    return result


def test_edges_lie_where_the_map_crosses_the_threshold():
    ramp = np.clip((np.arange(40) + 0.5 - 10.25) / 4 + 0.5, 0, 1)  # 0.5 at 10.25 pixels from the left
    both = np.minimum(ramp, np.clip((30.75 - np.arange(40) - 0.5) / 4 + 0.5, 0, 1))
    box = box_of_map(np.minimum.outer(both, both), 0.5) * 40
    assert box == pytest.approx([10.25, 10.25, 30.75, 30.75])


def test_box_is_drawn_around_the_heaviest_part_only():
    ventricle, speck = blob(10, 12, 25, 30), blob(2, 33, 6, 39, value=1.0)
    assert box_of_map(ventricle + speck, 0.5) == pytest.approx(box_of_map(ventricle, 0.5))


def test_part_at_the_border_ends_there():
    assert box_of_map(blob(0, 20, 12, 40), 0.5) == pytest.approx(np.array([20, 0, 40, 12]) / 40, abs=0.5 / 40)


def test_faint_map_is_cut_lower():
    strong, faint = (box_of_map(blob(10, 12, 25, 30, value), 0.5) for value in (1.0, 0.3))
    assert faint == pytest.approx(strong, abs=0.5 / 40)


def test_map_that_shows_nothing_has_no_box():
    assert box_of_map(np.zeros((8, 8)), 0.5) is None
    assert box_of_map(np.full((8, 8), 0.01), 0.5) is None


def test_map_that_is_full_has_the_whole_field():
    assert box_of_map(np.ones((8, 8)), 0.5) == pytest.approx([0, 0, 1, 1])


def test_one_slice_cannot_lift_what_no_other_slice_sees():
    ventricle = torch.from_numpy(blob(10, 12, 25, 30)).expand(8, 2, 40, 40).clone()
    before = box_of_map(study_map(ventricle).numpy(), 0.5)
    ventricle[3] = torch.from_numpy(blob(10, 12, 40, 40, value=1.0))
    after = box_of_map(study_map(ventricle).numpy(), 0.5)
    assert after == pytest.approx(before, abs=1 / 40)


def test_widest_slice_says_how_far_the_ventricle_reaches():
    narrow, wide = (torch.from_numpy(blob(12 - grow, 12 - grow, 24 + grow, 24 + grow, 1.0)) for grow in (0, 4))
    unsure = (narrow + wide) / 2 * 0.8  # every slice suspects that others are wider
    slices = torch.stack([torch.stack([own, unsure]) for own in (narrow, wide, narrow)])
    box = box_of_map(study_map(slices).numpy(), 0.5) * 40
    assert box == pytest.approx([8, 8, 28, 28], abs=0.5)


# The networks


@pytest.mark.parametrize("head", ["regression", "soft_argmax"])
def test_untrained_box_head_answers_with_its_anchor(head):
    network = build_finder(PUBLISHED.model_copy(update={"head": head}))
    boxes = network(torch.rand(3, 1, 48, 48))
    torch.testing.assert_close(boxes, network.anchor.expand(3, 4))


def test_network_that_finds_nothing_answers_with_its_anchor():
    network = build_finder(SMALL)
    network.anchor.copy_(torch.tensor([0.3, 0.35, 0.6, 0.7]))
    assert network.study_box(torch.full((5, 2, 48, 48), -20.0)) == pytest.approx([0.3, 0.35, 0.6, 0.7])


def test_published_shape_of_the_network():
    network = LocaliserNet(LocaliserConfig(input_px=256, head="regression"))
    widths = [block[0].out_channels for block in network.blocks]
    assert widths == [8, 16, 32, 64]
    dense = [layer for layer in network.head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in dense] == [512, 4]


def test_maps_have_the_size_of_the_slices_and_move_with_them():
    torch.manual_seed(0)
    network = FootprintNet(LocaliserConfig(input_px=128, map_widths=(8, 8))).eval()
    image = torch.zeros(1, 1, 128, 128)
    image[..., 56:64, 60:76] = torch.rand(8, 16)
    there, here = network(image), network(image.roll((8, -12), (2, 3)))
    assert there.shape == (1, 2, 128, 128)
    away_from_edges = slice(40, 88)
    torch.testing.assert_close(
        here[..., away_from_edges, away_from_edges],
        there.roll((8, -12), (2, 3))[..., away_from_edges, away_from_edges],
    )


@pytest.mark.parametrize("values", [{"input_px": 100}, {"input_px": 72, "head": "regression"}])
def test_input_that_cannot_be_halved_is_refused(values):
    with pytest.raises(ValidationError, match=r"cannot be halved 4 times; use a multiple of 16"):
        LocaliserConfig.model_validate(values)


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.0), ("steps", 0), ("head", "none"), ("scale", 0.9)])
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        LocaliserConfig.model_validate({name: value})


def test_median_of_boxes_ignores_one_bad_slice():
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).repeat(5, 1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert build_finder(PUBLISHED).study_box(boxes) == pytest.approx([0.2, 0.2, 0.6, 0.6])


def test_box_loss_is_zero_for_equal_boxes_and_grows_with_distance():
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    losses = [float(box_loss(box + shift, box)) for shift in (0.0, 0.05, 0.2, 0.39)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses == sorted(losses)


def test_map_loss_by_hand():
    maps = torch.zeros(1, 2, 4, 4)
    maps[:, 0, :2] = 1.0  # the second map is empty: a slice beyond the apex
    sure = torch.where(maps > 0, 30.0, -30.0)
    assert float(map_loss(sure, maps)) == pytest.approx(0.0, abs=1e-6)
    # Undecided everywhere: log 2, and soft Dice of (2 * 4 + 1) / (16 + 1) and 1 / (8 + 1).
    undecided = float(map_loss(torch.zeros(1, 2, 4, 4), maps))
    assert undecided == pytest.approx(np.log(2) + 1 - (9 / 17 + 1 / 9) / 2)


@pytest.mark.parametrize("config", [SMALL, PUBLISHED])
def test_loss_reaches_every_weight_once_the_head_has_moved(config):
    torch.manual_seed(0)
    network = build_finder(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.01)
    targets = Targets(torch.tensor([[0.2, 0.2, 0.6, 0.6]] * 2), torch.rand(2, 2, 48, 48))
    network.loss(network(torch.rand(2, 1, 48, 48)), targets).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


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
    scores = box_scores(load_localiser(folder, compute), archive, split)
    test = scores[scores["part"] == "test"]
    assert test["iou"].mean() > test["fixed_box_iou"].mean() + 0.1
    assert set(scores["part"]) == {"train", "validation", "test"}
    validation = scores[scores["part"] == "validation"]
    assert validation["iou"].mean() == pytest.approx(result.validation_iou, abs=0.02)
    assert reports == [40, 80, 120]
    assert (test["slices"] == 3).all()
    assert (test["slices_outside"] == 0).all()


def test_model_folder_says_what_the_model_is(trained):
    folder, result, _ = trained
    card = json.loads((folder / "model_card.json").read_text())
    assert card["fold"] == 0
    assert card["fov_mm"] == 96
    assert card["validation_iou"] == result.validation_iou
    assert len(pd.read_csv(folder / "history.csv")) == 3
    assert not (folder / "checkpoint").exists()


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
    train_localiser(archive, split, config, compute, tmp_path, 0, silent, {})
    scores = box_scores(load_localiser(tmp_path, compute), archive, split)
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
    monkeypatch.setattr(FootprintNet, "loss", lambda *arguments: arguments[1].sum() * np.nan)
    with pytest.raises(TrainingDivergedError, match="nan at step 1"):
        train_localiser(archive, split, SMALL, compute, tmp_path, 0, silent, {})


def test_foreign_weights_are_refused(compute, trained, tmp_path: Path):
    for name in ("weights.safetensors", "model_card.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    other = SMALL.model_copy(update={"map_widths": (4, 8, 8), "fov_mm": 96})
    (tmp_path / "config.json").write_text(other.model_dump_json())
    with pytest.raises(InputError, match="rematerialise `lv_localiser`"):
        load_localiser(tmp_path, compute)
