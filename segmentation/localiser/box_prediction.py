"""The left ventricle's box of a study, as a trained localiser predicts it, and its score beside a fixed central box.

What goes into the localiser and what comes out: square fields of view, and boxes in their coordinates. Boxes inside the
network are (left, top, right, bottom) in shares of the square field of view, as `torchvision.ops` orders them; outside
they are `imaging.studies.preparation.Box` on the study's 1 mm grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.ops import box_iou

from common.errors import InputError
from imaging.studies.archive import StudyArchive
from imaging.studies.preparation import Box, PreparedStudy, crop_region, reference_box
from imaging.studies.split import FoldSplit
from runtime.compute import Compute
from runtime.model_folder import load_weights, read_config
from segmentation.localiser.config import LocaliserConfig
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
    if config.fov_mm is None:
        raise InputError(f"{folder}/config.json: lacks the field of view that a training fits; name another localiser")
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


_PERCENTILES = (1.0, 99.0)


def field_of_view_mm(shapes: Sequence[tuple[int, ...]], boxes: Sequence[Box], margin_mm: float) -> int:
    """Return the side of a central square that holds every box with a margin, and is no larger than the images.

    The ventricle lies near the middle of native fields of view: their rim costs pixels and holds none.

    Args:
        shapes: Of the studies (S, H, W) on the 1 mm grid.
        boxes: Their ventricles.
        margin_mm: Beyond the outermost box.

    Returns:
        Whole even mm.
    """
    longest = max(max(shape[-2:]) for shape in shapes)
    reach = max(_reach(box, shape) for box, shape in zip(boxes, shapes, strict=True))
    side = min(longest, ceil(2 * (reach + margin_mm)))
    return side + side % 2


def letterbox(image: NDArray[np.float32], fov_mm: int, input_px: int) -> torch.Tensor:
    """Window a study (S, H, W) on the 1 mm grid to [0, 1] and put it, centred, into squares.

    A larger study loses its border, a smaller one is padded with its darkest value. Intensities are windowed by what
    the square holds of the study.

    Returns:
        (S, 1, input_px, input_px), float32.

    Raises:
        InputError: The image has no contrast.
    """
    inside = _central(np.ones((1, *image.shape[-2:]), np.bool_), fov_mm)[0]
    square = _central(image, fov_mm)
    low, high = (float(value) for value in np.percentile(square[:, inside], _PERCENTILES))
    if not high > low:
        raise InputError(f"the image is flat ({low:g} everywhere): there is no heart to find; check the study")
    return _shrunk((np.clip((square - low) / (high - low), 0.0, 1.0) * inside).astype(np.float32), input_px)


def letterbox_labels(mask: NDArray[np.uint8], fov_mm: int, input_px: int) -> torch.Tensor:
    """Return (S, 1, input_px, input_px): the share of each pixel that any label of (S, H, W) covers.

    The pixels are those of `letterbox`.
    """
    return _shrunk(_central(mask > 0, fov_mm).astype(np.float32), input_px)


def box_to_shares(box: Box, shape: tuple[int, ...], fov_mm: int) -> torch.Tensor:
    """Return (4,): a box on the 1 mm grid of a study (S, H, W), in shares of its field of view, clipped."""
    top, left = _origin(shape, fov_mm)
    sides = (box.left - left, box.top - top, box.right - left, box.bottom - top)
    return (torch.tensor(sides) / fov_mm).clamp(0.0, 1.0)


def shares_to_box(shares: NDArray[np.floating], shape: tuple[int, ...], fov_mm: int) -> Box:
    """Return the box on the 1 mm grid, the inverse of `box_to_shares`, clipped to the study's image."""
    top, left = _origin(shape, fov_mm)
    x0, y0, x1, y1 = (float(side) * fov_mm for side in shares)
    height, width = shape[-2:]
    return Box(
        top=min(max(y0 + top, 0.0), height),
        left=min(max(x0 + left, 0.0), width),
        bottom=min(max(y1 + top, 0.0), height),
        right=min(max(x1 + left, 0.0), width),
    )


def extreme_points(mask: NDArray[np.uint8], fov_mm: int, directions: int = 64) -> torch.Tensor:
    """Return the outermost points of all labels of a study, in every direction.

    Rotated and scaled, they give the box of the rotated and scaled mask without touching its pixels.

    Args:
        mask: (S, H, W) on the 1 mm grid, not empty.
        fov_mm: Side of the field of view.
        directions: Number of points.

    Returns:
        (directions, 2): x and y in [-1, 1], the coordinates of `grid_sample` with `align_corners=False`.
    """
    rows, columns = np.nonzero((mask > 0).any(axis=0))
    corners = np.concatenate([np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)]).astype(
        np.float64
    )
    angles = np.arange(directions) * 2 * np.pi / directions
    outward = np.stack([np.cos(angles), np.sin(angles)])
    outermost = corners[np.argmax(corners @ outward, axis=0)]
    top, left = _origin(mask.shape, fov_mm)
    shares = (outermost - np.array([left, top])) / fov_mm
    return torch.from_numpy(shares * 2 - 1).float()


def _central(volume: NDArray[Any], side: int) -> NDArray[Any]:
    return crop_region(volume, _image_centre(volume.shape), side)


def _shrunk(squares: NDArray[np.float32], input_px: int) -> torch.Tensor:
    """Return (S, 1, input_px, input_px) from (S, side, side)."""
    tensor = torch.from_numpy(squares)[:, None]
    if tensor.shape[-1] == input_px:
        return tensor
    return F.interpolate(tensor, size=(input_px, input_px), mode="bilinear", antialias=True)


def _reach(box: Box, shape: tuple[int, ...]) -> float:
    """Return how far a box reaches from the image's centre, along rows or columns."""
    row, column = _image_centre(shape)
    return max(row - box.top, box.bottom - row, column - box.left, box.right - column)


def _image_centre(shape: tuple[int, ...]) -> tuple[float, float]:
    return shape[-2] / 2, shape[-1] / 2


def _origin(shape: tuple[int, ...], fov_mm: int) -> tuple[int, int]:
    """Return the row and column of the image where the field of view starts, as `crop_region` places it."""
    row, column = (int(np.floor(middle - fov_mm / 2 + 0.5)) for middle in _image_centre(shape))
    return row, column
