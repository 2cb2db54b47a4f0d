"""The localiser in use: the left ventricle's box of a study, and its score beside a fixed central box."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from common.errors import InputError
from imaging.studies.archive import StudyArchive
from imaging.studies.box import Box
from imaging.studies.preparation import PreparedStudy, crop_region, reference_box
from imaging.studies.split import FoldSplit
from runtime.compute import Compute
from runtime.model_folder import load_weights, read_config
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.input import letterbox, shares_to_box
from segmentation.localiser.networks import BoxFinder, build_finder

_BLANK = 0.02  # share of the study's intensity window


@dataclass(frozen=True)
class Localiser:
    """A trained localiser on a device."""

    network: BoxFinder
    config: LocaliserConfig
    compute: Compute

    def predict_box(self, study: PreparedStudy) -> Box:
        """Return the left ventricle's box of a study on the 1 mm grid."""
        return self.predict_image_box(study.image)

    def predict_image_box(self, image: NDArray[np.float32]) -> Box:
        """Return the box of an image (S, H, W) on the 1 mm grid, such as a new study's."""
        assert self.config.fov_mm is not None, "the training has fitted the field of view"
        slices = letterbox(image, self.config.fov_mm, self.config.input_px)
        shares = study_box(self.network, slices.to(self.compute.device), self.compute)
        return shares_to_box(shares, image.shape, self.config.fov_mm)


def study_box(network: BoxFinder, slices: torch.Tensor, compute: Compute) -> NDArray[np.float64]:
    """Return the box (4,) in shares of the study of the slices (S, 1, P, P); a blank slice has no say."""
    network.eval()
    with torch.inference_mode(), compute.fabric.autocast():
        outputs = network(_without_blanks(slices).to(memory_format=compute.memory_format))
    return network.study_box(outputs)


def _without_blanks(slices: torch.Tensor) -> torch.Tensor:
    """Return the slices that are not all one grey, or all of them where none has contrast."""
    contrast = slices.amax(dim=(1, 2, 3)) - slices.amin(dim=(1, 2, 3))
    seen = contrast > _BLANK
    return slices[seen] if bool(seen.any()) else slices


def load_localiser(folder: Path, compute: Compute) -> Localiser:
    """Load a localiser from its model folder.

    Raises:
        InputError: The folder is incomplete or holds another model.
    """
    config = read_config(folder, LocaliserConfig)
    try:
        network = load_weights(lambda: build_finder(config), folder)
    except RuntimeError as error:
        raise InputError(f"{folder}: weights do not fit config.json; rematerialise `lv_localiser`") from error
    network.to(compute.device).to(memory_format=compute.memory_format).eval()
    return Localiser(network, config, compute)


def mean_box_size(archive: StudyArchive, case_ids: Iterable[str]) -> tuple[float, float]:
    """Return the mean height and width in mm of the reference boxes of all studies of the given patients."""
    chosen = set(case_ids)
    boxes = [reference_box(archive.load(*key).mask) for key in archive.keys() if key[0] in chosen]  # noqa: SIM118
    if not boxes:
        raise InputError(f"{archive.path}: holds none of the {len(chosen)} training patients; check the split")
    return float(np.mean([box.height for box in boxes])), float(np.mean([box.width for box in boxes]))


def central_box(height: float, width: float, shape: tuple[int, ...]) -> Box:
    """Return a box of the given size in the middle of an image (S, H, W), clipped to it."""
    rows, columns = shape[-2:]
    top, left = (rows - height) / 2, (columns - width) / 2
    return Box(max(top, 0.0), max(left, 0.0), min(top + height, rows), min(left + width, columns))


def intersection_over_union(first: Box, second: Box) -> float:
    """Return the overlap of two boxes, 0 to 1."""
    sides = [torch.tensor([[b.left, b.top, b.right, b.bottom]], dtype=torch.float64) for b in (first, second)]
    return float(box_iou(*sides))


def slices_outside(mask: NDArray[np.uint8], centre: tuple[float, float], region_px: int) -> int:
    """Return how many slices (S, H, W) have a labelled pixel outside the square region cut around a centre."""
    labelled = mask > 0
    inside = crop_region(labelled, centre, region_px)
    return int(np.count_nonzero(inside.sum(axis=(1, 2)) < labelled.sum(axis=(1, 2))))


def box_scores(localiser: Localiser, archive: StudyArchive, split: FoldSplit, region_px: int) -> pd.DataFrame:
    """Score the predicted box of every study beside the fixed central box.

    Args:
        localiser: Boxes every study of the archive.
        archive: The studies.
        split: The parts; its training patients give the fixed box.
        region_px: Side of the region that is cut around the predicted centre, 1 mm pixels.

    Returns:
        `case_id`, `frame`, `part`, `iou`, `centre_error_mm`, `fixed_box_iou`, `fixed_box_error_mm`, `slices`,
        `slices_outside` (slices with a labelled pixel outside the region), and the predicted box (`top`, `left`,
        `bottom`, `right`, 1 mm pixels).
    """
    height, width = mean_box_size(archive, split.train)
    rows = []
    for case_id, frame in archive.keys():  # noqa: SIM118
        if case_id in split.left_out:
            continue
        study = archive.load(case_id, frame)
        reference, predicted = reference_box(study.mask), localiser.predict_box(study)
        fixed = central_box(height, width, study.image.shape)
        rows.append(
            {
                "case_id": case_id,
                "frame": frame,
                "part": split.part_of(case_id),
                "iou": intersection_over_union(predicted, reference),
                "centre_error_mm": float(np.hypot(*np.subtract(predicted.centre, reference.centre))),
                "fixed_box_iou": intersection_over_union(fixed, reference),
                "fixed_box_error_mm": float(np.hypot(*np.subtract(fixed.centre, reference.centre))),
                "slices": len(study.mask),
                "slices_outside": slices_outside(study.mask, predicted.centre, region_px),
            }
            | predicted._asdict()
        )
    return pd.DataFrame(rows)
