"""The studies of one part of the split as the localiser's training takes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from imaging.box import Box
from imaging.errors import InputError, some_of
from imaging.prepare import reference_box
from imaging.prepared_study import PreparedStudy
from imaging.study_archive import StudyArchive
from segmentation.localiser_augment import Views, view_boxes, view_maps
from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_finder import Targets
from segmentation.localiser_input import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    letterbox_labels,
)


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
