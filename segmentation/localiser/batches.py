"""The studies of one part of the split as the localiser's training takes them.

Random views of slices for the localiser, drawn and applied a batch at a time on the device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError, some_of
from imaging.studies.archive import StudyArchive
from imaging.studies.box import Box
from imaging.studies.preparation import PreparedStudy, reference_box
from runtime.compute import send_together
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.input import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    letterbox_labels,
)
from segmentation.localiser.networks import Targets

_SHADING_KNOTS = 4  # a side: shading varies over a quarter of the field or slower


class Views(NamedTuple):
    """What is done to each slice of a batch: values drawn once, so that image, box and map move together."""

    turn: Tensor  # (N, 2, 2): output coordinates to input coordinates
    shift: Tensor  # (N, 2): place in the input of the output's centre
    gamma: Tensor  # (N, 1, 1, 1)
    noise: Tensor  # (N, 1, P, P)
    shading: Tensor  # (N, 1, K, K): factors on a coarse grid
    window: Tensor  # (N, 2, 1, 1): intensities that become 0 and 1

    def to(self, device: torch.device) -> "Views":
        """Return the same views on a device."""
        return Views(*send_together(self, device))


def draw_views(config: LocaliserConfig, count: int, seed: int) -> Views:
    """Draw `count` views; the same seed gives the same views on every device."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    zoom = torch.exp(uniform(count, 1, 1) * math.log(config.scale))
    angle = uniform(count) * math.radians(config.rotation_degrees)
    mirror = torch.ones(count, 2)
    if config.flips:
        angle = angle + torch.randint(4, (count,), generator=generator) * (math.pi / 2)
        mirror[:, 0] = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    strength = torch.rand((count, 1, 1, 1), generator=generator) * config.noise
    return Views(
        turn=rotation * mirror[:, None, :] * zoom,
        shift=uniform(count, 2) * 2 * config.shift,  # coordinates run from -1 to 1: a share is twice as much
        gamma=torch.exp(uniform(count, 1, 1, 1) * math.log(config.gamma)),
        noise=torch.randn((count, 1, config.input_px, config.input_px), generator=generator) * strength,
        shading=torch.exp(uniform(count, 1, _SHADING_KNOTS, _SHADING_KNOTS) * math.log(config.shading)),
        window=torch.tensor([0.0, 1.0])[:, None, None] + uniform(count, 2, 1, 1) * config.window,
    )


def view_images(views: Views, images: Tensor) -> Tensor:
    """Return the slices (N, 1, P, P) as seen in the views; outside, they are mirrored: no edge tells the shift."""
    seen = _moved(views, images)
    window = views.window
    seen = seen * F.interpolate(views.shading, size=seen.shape[-2:], mode="bicubic", align_corners=True)
    seen = (seen - window[:, :1]) / (window[:, 1:] - window[:, :1])
    return (seen.clamp(0.0, 1.0) ** views.gamma + views.noise).clamp(0.0, 1.0)


def view_maps(views: Views, maps: Tensor) -> Tensor:
    """Return maps (N, K, P, P) in [0, 1] as seen in the views, mirrored outside as the images are."""
    return _moved(views, maps).clamp(0.0, 1.0)


def view_boxes(views: Views, points: Tensor) -> Tensor:
    """Return the boxes (N, 4) in shares, clipped, around outermost points (N, K, 2) as seen in the views."""
    towards = (points - views.shift[:, None]).transpose(1, 2)
    seen = torch.linalg.solve_ex(views.turn, towards).result  # (N, 2, K); `solve` would ask a GPU whether it went well
    boxes = torch.cat([seen.amin(dim=2), seen.amax(dim=2)], dim=1)
    return ((boxes + 1) / 2).clamp(0.0, 1.0)


def _moved(views: Views, images: Tensor) -> Tensor:
    theta = torch.cat([views.turn, views.shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class LocaliserData:
    """Letterboxed studies.

    Attributes:
        slices: (N, 1, P, P), of all studies.
        labels: (N, 1, P, P) in [0, 1], where each slice has any label.
        study_of_slice: (N,), place of each slice's study.
        footprints: (studies, 1, P, P), each study's labels projected over its slices.
        points: (studies, K, 2), outermost points of each study's labels.
        boxes: (studies, 4), reference boxes in shares.
    """

    slices: Tensor
    labels: Tensor
    study_of_slice: Tensor
    footprints: Tensor
    points: Tensor
    boxes: Tensor

    def to(self, device: torch.device) -> "LocaliserData":
        """Return the same data on a device."""
        return LocaliserData(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def targets(self, views: Views, chosen: Tensor) -> Targets:
        """Return what the chosen slices (B,) should tell, seen in the views."""
        studies = self.study_of_slice[chosen]
        maps = torch.cat([self.labels[chosen], self.footprints[studies]], dim=1)
        return Targets(view_boxes(views, self.points[studies]), view_maps(views, maps))


def gather(archive: StudyArchive, case_ids: Sequence[str], config: LocaliserConfig) -> LocaliserData:
    """Letterbox all studies of some patients.

    Raises:
        InputError: The archive holds none of them, or an image has no contrast.
    """
    assert config.fov_mm is not None, "fitted before"
    side, pixels = config.fov_mm, config.input_px
    slices, labels, points, boxes = [], [], [], []
    for study in _load(archive, case_ids):
        slices.append(letterbox(study.image, side, pixels))
        labels.append(letterbox_labels(study.mask, side, pixels))
        points.append(extreme_points(study.mask, side))
        boxes.append(box_to_shares(reference_box(study.mask), study.mask.shape, side))
    return LocaliserData(
        slices=torch.cat(slices),
        labels=torch.cat(labels),
        study_of_slice=torch.repeat_interleave(torch.tensor([len(study) for study in slices])),
        footprints=torch.stack([study.amax(dim=0) for study in labels]),
        points=torch.stack(points),
        boxes=torch.stack(boxes),
    )


def fit_field_of_view(config: LocaliserConfig, archive: StudyArchive, train: Sequence[str]) -> LocaliserConfig:
    """Return the configuration with a field of view that fits the training patients, unless it names one.

    Raises:
        InputError: The archive holds none of the patients.
    """
    if config.fov_mm is not None:
        return config
    shapes: list[tuple[int, ...]] = []
    boxes: list[Box] = []
    for study in _load(archive, train):
        shapes.append(study.image.shape)
        boxes.append(reference_box(study.mask))
    return config.model_copy(update={"fov_mm": field_of_view_mm(shapes, boxes, config.margin_mm)})


def _load(archive: StudyArchive, case_ids: Sequence[str]) -> Iterator[PreparedStudy]:
    chosen = set(case_ids)
    keys = [key for key in archive.keys() if key[0] in chosen]  # noqa: SIM118
    if not keys:
        raise InputError(
            f"{archive.path}: holds none of the patients [{some_of(map(repr, sorted(chosen)))}]; check the split"
        )
    return (archive.load(*key) for key in keys)
