"""Pure steps between a study's own grid and windowed regions on the 1 mm grid, and back; and boxes on that grid.

Conventions. Pixel `i` covers [i, i + 1) and has its centre at i + 1/2. The 1 mm grid has
`round(pixels * spacing)` pixels a side and covers *exactly* the study's field of view: outer edges coincide,
nothing shifts, and the way back needs only the study's shape. A pixel is therefore 1 mm to within half a
pixel over the whole field of view (0.2 % of 250 mm); volumes in mL are measured on the study's own grid.
Slices are never mixed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import scipy  # its `ndimage` is imported when it is first asked for: settings need none of it
from numpy.typing import NDArray

from common.errors import InputError, one_line
from common.files import of_the_disk
from common.tables import read_csv
from imaging.labels import LABEL_SETS, PATIENT_GROUPS, distinct_values
from imaging.studies.study import Study

Scalar = TypeVar("Scalar", bound=np.generic)

_CUBIC = 3
_TIE_BREAK = 1e-4  # share of a pixel; ties are exact where 1 mm centres fall midway, as at 0.75 mm


def resample_image(
    volume: NDArray[np.floating], spacing_mm: tuple[float, float, float], target_mm: float = 1.0
) -> NDArray[np.float32]:
    """Resample (S, H, W) in plane by cubic splines; returns (S, H1, W1)."""
    size = _target_size(volume.shape, spacing_mm, target_mm)
    if size == volume.shape[1:]:
        return volume.astype(np.float32)
    return np.stack([_resize(plane.astype(np.float32), size) for plane in volume])


def resample_mask(
    mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float], num_classes: int, target_mm: float = 1.0
) -> NDArray[np.uint8]:
    """Resample labels (S, H, W) in plane: each class linearly, then the heaviest class; (S, H1, W1)."""
    return _resize_labels(mask, _target_size(mask.shape, spacing_mm, target_mm), num_classes)


def restore_mask(mask_1mm: NDArray[np.uint8], shape: tuple[int, int, int], num_classes: int) -> NDArray[np.uint8]:
    """Put labels (S, H1, W1) of the 1 mm grid back onto a study's own grid of `shape` (S, H, W).

    Raises:
        InputError: The numbers of slices differ.
    """
    if mask_1mm.shape[0] != shape[0]:
        raise InputError(
            f"a mask of {mask_1mm.shape[0]} slices cannot be restored to a study of {shape[0]} slices; "
            "restore it with the shape of its own study"
        )
    return _resize_labels(mask_1mm, (shape[1], shape[2]), num_classes)


def restore_probabilities(
    probabilities: NDArray[np.float32], labels_1mm: NDArray[np.uint8], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Put class probabilities (S, C, H1, W1) of the 1 mm grid back onto a study's own grid of `shape` (S, H, W).

    Each class linearly, as labels are. Where another class would then be likelier than the one that `restore_mask`
    draws, only the pixels of that class count, so that the arg-max of the result (S, C, H, W) is the label map.

    Args:
        probabilities: Of each pixel, with a sum of 1.
        labels_1mm: Their arg-max (S, H1, W1).
        shape: Of the study.
    """
    drawn = restore_mask(labels_1mm, shape, probabilities.shape[1])
    if labels_1mm.shape == shape:
        return probabilities.copy()
    planes = zip(probabilities, labels_1mm, drawn, strict=True)
    return np.stack([_resize_probability_plane(*plane) for plane in planes])


class Box(NamedTuple):
    """Edges in 1 mm pixels: pixel `i` covers [i, i + 1), so `bottom` and `right` are exclusive."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle as (row, column), on the same edge coordinates as the sides."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    @property
    def height(self) -> float:
        """Extent along the rows."""
        return self.bottom - self.top

    @property
    def width(self) -> float:
        """Extent along the columns."""
        return self.right - self.left


def boxes_digest(boxes: Mapping[tuple[str, str], Box]) -> str:
    """Return a SHA-256 of boxes by (case_id, frame), to the last bit."""
    content = sorted([*key, *map(float.hex, map(float, box))] for key, box in boxes.items())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_boxes(path: Path) -> dict[tuple[str, str], Box]:
    """Read the table of predicted boxes (`case_id, frame, top, left, bottom, right`) by case and frame.

    Raises:
        InputError: The table cannot be read.
    """
    try:
        table = read_csv(path, dtype={"case_id": str, "frame": str}, keep_default_na=False)
        return {
            (str(row["case_id"]), str(row["frame"])): Box(*(float(row[side]) for side in Box._fields))
            for row in table.to_dict("records")
        }
    except (OSError, ValueError, KeyError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the asset 'lv_localiser'"
        ) from error


def reference_box(mask_1mm: NDArray[np.uint8]) -> Box:
    """Return the smallest box around every label above 0, over all slices of (S, H, W).

    Raises:
        InputError: The mask is empty.
    """
    rows, columns = np.nonzero((mask_1mm > 0).any(axis=0))
    if rows.size == 0:
        raise InputError("an empty mask has no reference box; reject studies without labels first")
    return Box(float(rows.min()), float(columns.min()), float(rows.max()) + 1, float(columns.max()) + 1)


def crop_region(volume: NDArray[Scalar], centre: tuple[float, float], size: int) -> NDArray[Scalar]:
    """Cut (S, size, size) around `centre` (row, column) out of (S, H, W); zero outside the volume."""
    region = np.zeros((volume.shape[0], size, size), dtype=volume.dtype)
    here, there = _overlap(volume.shape[1:], centre, size)
    region[:, *there] = volume[:, *here]
    return region


def paste_region(region: NDArray[Scalar], shape: tuple[int, int, int], centre: tuple[float, float]) -> NDArray[Scalar]:
    """Put (S, size, size) back where `crop_region` with the same `centre` cut it; zero elsewhere."""
    volume = np.zeros(shape, dtype=region.dtype)
    here, there = _overlap(shape[1:], centre, region.shape[-1])
    volume[:, *here] = region[:, *there]
    return volume


def intensity_window(
    regions: NDArray[np.floating], percentiles: tuple[float, float] = (2.0, 98.0)
) -> tuple[float, float]:
    """Return the intensities at two percentiles of all given pixels, of any shape.

    Raises:
        InputError: There is no contrast between them.
    """
    if regions.size == 0:
        raise InputError("no pixels to take an intensity window from; the region lies outside the image")
    low, high = (float(value) for value in np.percentile(regions, percentiles))
    if not low < high:
        raise InputError(
            f"percentiles {percentiles[0]:g} and {percentiles[1]:g} of the region are {low:g} and {high:g}: "
            "there is no contrast; check the image around its ventricle"
        )
    return low, high


def apply_window(regions: NDArray[np.floating], window: tuple[float, float]) -> NDArray[np.float32]:
    """Map `window` to [0, 1] and clip; the shape is kept."""
    low, high = window
    return np.clip((regions - low) / (high - low), 0.0, 1.0).astype(np.float32)


def _target_size(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], target_mm: float) -> tuple[int, int]:
    height, width = (
        max(1, round(pixels * spacing / target_mm)) for pixels, spacing in zip(shape[1:], spacing_mm[1:], strict=True)
    )
    return height, width


def _resize(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (H, W) to `size` by cubic splines, outer edges aligned (`grid_mode`) as OpenCV and `torch` do."""
    factors = (size[0] / plane.shape[0], size[1] / plane.shape[1])
    return scipy.ndimage.zoom(plane, factors, order=_CUBIC, mode="nearest", grid_mode=True)


def _resize_labels(mask: NDArray[np.uint8], size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    if mask.shape[1:] == size:
        return mask.copy()
    return np.stack([_resize_label_plane(plane, size, num_classes) for plane in mask])


def _resize_label_plane(plane: NDArray[np.uint8], size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    # Ties go to the higher and the lower label in turn, so that no tissue grows, shrinks or moves by them.
    rows, columns = np.indices(size, sparse=True)
    turn = (_TIE_BREAK * (1 - 2 * ((rows + columns) % 2)) / num_classes).astype(np.float32)
    best = np.full(size, -1.0, dtype=np.float32)
    labels = np.zeros(size, dtype=np.uint8)
    for value in distinct_values(plane):
        assert value < num_classes, "masks are checked against their label set when they are read"
        share = cv2.resize((plane == value).astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        weight = share + turn * np.float32(value)
        wins = weight > best
        best[wins] = weight[wins]
        labels[wins] = value
    return labels


def _resize_probability_plane(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], drawn: NDArray[np.uint8]
) -> NDArray[np.float32]:
    size = (drawn.shape[0], drawn.shape[1])
    resized = _resize_linearly(probabilities, size)
    other = resized.argmax(axis=0) != drawn
    for value in distinct_values(drawn[other]):
        own, here = (labels == value).astype(np.float32), other & (drawn == value)
        resized[:, here] = (
            _resize_linearly(probabilities * own, size)[:, here] / _resize_linearly(own[None], size)[:, here]
        )
    return resized


def _resize_linearly(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes])


def _overlap(
    shape: tuple[int, ...], centre: tuple[float, float], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices in the volume and in the region of the pixels that both have."""
    here, there = [], []
    for pixels, middle in zip(shape, centre, strict=True):
        start = floor(middle - size / 2 + 0.5)
        first, last = min(max(start, 0), pixels), max(min(start + size, pixels), 0)
        last = max(first, last)
        here.append(slice(first, last))
        there.append(slice(first - start, last - start) if last > first else slice(0, 0))
    return (here[0], here[1]), (there[0], there[1])


@dataclass(frozen=True)
class PreparedStudy:
    """One study on the 1 mm grid, with its label map also on its own grid.

    Attributes:
        case_id: The patient.
        frame: `ED`, `ES` or a frame number for cine; empty for LGE.
        group: One of `imaging.labels.PATIENT_GROUPS`.
        image: (S, H1, W1), scanner units.
        mask: (S, H1, W1).
        native_mask: (S, H, W), the study's own grid.
        spacing_mm: (slice, row, column) of the study's own grid.
        affine: (4, 4), of the file's own voxel order.
    """

    case_id: str
    frame: str
    group: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    native_mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]


def prepare_study(study: Study) -> PreparedStudy:
    """Bring a study, without any change to its slices' order or number, onto the 1 mm grid."""
    num_classes = LABEL_SETS[study.label_set].num_classes
    return PreparedStudy(
        case_id=study.case_id,
        frame=study.frame,
        group=study.group,
        image=resample_image(study.image, study.spacing_mm),
        mask=resample_mask(study.mask, study.spacing_mm, num_classes),
        native_mask=study.mask,
        spacing_mm=study.spacing_mm,
        affine=study.affine,
    )


def patient_groups(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the group of each patient by `case_id`, the worst of all his entries (`case_id`, `group`)."""
    groups: dict[str, str] = {}
    for entry in entries:
        candidates = (groups.get(entry["case_id"], PATIENT_GROUPS[0]), entry["group"])
        groups[entry["case_id"]] = max(candidates, key=PATIENT_GROUPS.index)
    return dict(sorted(groups.items()))
