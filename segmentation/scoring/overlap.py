"""How a class of the prediction overlaps that of the reference, from counted voxels.

Empty cases are fixed here: a class that both sides lack is found perfectly and scores 1 (only the official rule counts
it, see `rules`); what is empty on one side only scores 0, precision and recall included.

Volumes, lesion shares, transmurality and ejection fraction: what a clinician reads off a label map.

Empty cases: without myocardium there is no lesion, so a share is 0 %; without a lesion transmurality is 0 %, and with a
lesion but no slice on which it can be measured NaN; without a cavity at end diastole the ejection fraction is NaN.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.dice import dice
from imaging.labels import LabelSet


class Counts(NamedTuple):
    """Voxels of one class: hit, predicted in error, and missed."""

    tp: int
    fp: int
    fn: int

    @property
    def empty(self) -> bool:
        """Whether neither reference nor prediction holds the class."""
        return self.tp + self.fp + self.fn == 0

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def in_reference(self) -> bool:
        """Whether the reference holds the class."""
        return self.reference > 0

    def dice(self) -> float:
        """Return 2 TP / (2 TP + FP + FN), and 1 where both sides are empty."""
        return float(dice(self.tp, self.reference, self.prediction))

    def overlap(self) -> dict[str, float]:
        """Return `dice`, `jaccard`, `precision` and `recall`."""
        wholes = {"jaccard": self.tp + self.fp + self.fn, "precision": self.prediction, "recall": self.reference}
        return {"dice": self.dice()} | {name: self._share(whole) for name, whole in wholes.items()}

    def _share(self, whole: int) -> float:
        if self.empty:
            return 1.0
        return self.tp / whole if whole else 0.0


def slice_confusions(
    reference: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Return for each slice how often each reference label met each predicted one, (S, C, C)."""
    pairs = reference.astype(np.int64) * num_classes + prediction
    size = num_classes * num_classes
    counted = [np.bincount(pairs_of_slice.ravel(), minlength=size) for pairs_of_slice in pairs]
    return np.reshape(counted, (-1, num_classes, num_classes)).astype(np.int64)


def count_voxels(confusion: NDArray[np.int64], values: Iterable[int]) -> Counts:
    """Return the counts of the class that joins the label `values`, from a confusion matrix (C, C)."""
    joined = list(values)
    tp = int(confusion[np.ix_(joined, joined)].sum())
    return Counts(tp, int(confusion[:, joined].sum()) - tp, int(confusion[joined].sum()) - tp)


def positive_dice(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], studies: NDArray[np.str_], labels: LabelSet
) -> dict[str, float]:
    """Return each tissue's Dice a patient in 3-D, averaged over the patients whose reference has the tissue.

    A tissue that no patient has is left out. It selects the checkpoint of a training and its post-processing.

    Args:
        reference: (N, H, W) label values.
        prediction: (N, H, W) label values.
        studies: (N,) the study of each slice.
        labels: Names of the tissues.
    """
    by_study = [
        _dice_by_label(reference[studies == study], prediction[studies == study], labels.num_classes)
        for study in np.unique(studies)
    ]
    table = np.stack(by_study)  # (studies, C), NaN where the reference lacks the class
    return {
        tissue: float(np.nanmean(table[:, value]))
        for value, tissue in labels.foreground
        if not np.isnan(table[:, value]).all()
    }


def mean_dice(dice_of: Mapping[str, float]) -> float:
    """Return the mean over tissues, 0 where there is none: what selects the checkpoint."""
    return float(np.mean(list(dice_of.values()))) if dice_of else 0.0


def _dice_by_label(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> NDArray[np.float64]:
    shared, in_reference, in_prediction = (
        np.bincount(values.ravel(), minlength=num_classes)
        for values in (reference[reference == prediction], reference, prediction)
    )
    return np.where(in_reference > 0, dice(shared, in_reference, in_prediction), np.nan)


SECTORS = 72  # of 5 degrees
RAYS_A_SECTOR = 5
MM3_PER_ML = 1000.0

Mask = NDArray[np.bool_]


class Transmurality(NamedTuple):
    """Extent of a lesion through the wall in %, over the sectors that hold any of it."""

    mean: float
    maximum: float


def volumes_ml(counts: Counts, voxel_mm3: float) -> dict[str, float]:
    """Return `volume` (of the prediction), `reference_volume` and `volume_difference_ml`, the absolute difference."""
    return {
        "volume": counts.prediction * voxel_mm3 / MM3_PER_ML,
        "reference_volume": counts.reference * voxel_mm3 / MM3_PER_ML,
        "volume_difference_ml": abs(counts.fp - counts.fn) * voxel_mm3 / MM3_PER_ML,
    }


def challenge_volumes(counts: Counts, myocardium: Counts, voxel_mm3: float) -> dict[str, float]:
    """Return EMIDEC's `volume_difference` (mm3) and `volume_difference_ratio` (to the reference's myocardium).

    Without reference myocardium there is no ratio.
    """
    difference_mm3, whole_mm3 = abs(counts.fp - counts.fn) * voxel_mm3, myocardium.reference * voxel_mm3
    ratio = {"volume_difference_ratio": difference_mm3 / whole_mm3} if whole_mm3 > 0 else {}
    return {"volume_difference": difference_mm3} | ratio


def shares(counts: Counts, myocardium: Counts) -> dict[str, float]:
    """Return a lesion's `share_of_myocardium`, `reference_share_of_myocardium` and their absolute difference in %."""
    predicted = _percent(counts.prediction, myocardium.prediction)
    reference = _percent(counts.reference, myocardium.reference)
    return {
        "share_of_myocardium": predicted,
        "reference_share_of_myocardium": reference,
        "share_of_myocardium_difference": abs(predicted - reference),
    }


def ejection_fraction(end_diastolic_ml: float, end_systolic_ml: float) -> float:
    """Return (ED - ES) / ED of the cavity in %; NaN without a cavity at end diastole."""
    if end_diastolic_ml <= 0:
        return float("nan")
    return 100 * (end_diastolic_ml - end_systolic_ml) / end_diastolic_ml


def transmurality(cavity: Mask, wall: Mask, lesion: Mask, spacing_mm: tuple[float, float, float]) -> Transmurality:
    """Measure how far a lesion reaches through the wall, along rays from the cavity's centre of mass.

    On each slice 360 rays run from the cavity's centre of mass; along a ray, the wall lies between endocardium and
    epicardium. The extent of one of 72 sectors is the length of lesion on its five rays as % of the length of wall.
    Only sectors with any lesion count. It is the transmural extent of Kim et al. (NEJM 2000; 343: 1445), who read it in
    twelve sectors a slice. Slices without a closed ring around a cavity are left out: there, no ray tells the wall's
    thickness.

    Args:
        cavity: (S, H, W).
        wall: (S, H, W), the whole myocardium, lesions included.
        lesion: (S, H, W), infarct and no-reflow, inside the wall.
        spacing_mm: (slice, row, column).
    """
    if not lesion.any():
        return Transmurality(0.0, 0.0)
    extents = [
        _sector_extents(cavity[index], wall[index], lesion[index], spacing_mm[1:])
        for index in np.flatnonzero(lesion.any(axis=(1, 2)))
        if has_closed_ring(cavity[index], wall[index])
    ]
    found = np.concatenate([np.empty(0), *extents])
    if not len(found):
        return Transmurality(float("nan"), float("nan"))
    return Transmurality(float(found.mean()), float(found.max()))


def has_closed_ring(cavity: Mask, wall: Mask) -> bool:
    """Whether the wall (H, W) encloses the whole cavity; wall pixels that touch at a corner close it."""
    if not cavity.any():
        return False
    enclosed = ndimage.binary_fill_holes(wall)
    return bool(enclosed[cavity].all())


def _sector_extents(cavity: Mask, wall: Mask, lesion: Mask, pixel_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the extent in % of each sector of a slice (H, W) that holds lesion."""
    rows, columns = _ray_points(cavity, wall, pixel_mm)
    inside = (rows >= 0) & (rows < wall.shape[0]) & (columns >= 0) & (columns < wall.shape[1])
    rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 0)
    thickness, scar = (
        (mask[rows, columns] & inside).reshape(SECTORS, -1).sum(axis=1).astype(float) for mask in (wall, lesion)
    )
    held = scar > 0
    return 100 * scar[held] / thickness[held]


def _ray_points(cavity: Mask, wall: Mask, pixel_mm: tuple[float, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pixels under the points of each ray, rows and columns (rays, points): half a pixel side apart."""
    centre = np.asarray(ndimage.center_of_mass(cavity))
    reach = np.linalg.norm((np.argwhere(wall) - centre) * pixel_mm, axis=1).max() + max(pixel_mm)
    radii = np.arange(0.0, reach, min(pixel_mm) / 2)
    rays = SECTORS * RAYS_A_SECTOR
    angles = (np.arange(rays)[:, None] + 0.5) * 2 * np.pi / rays
    rows = np.rint(centre[0] + radii * np.sin(angles) / pixel_mm[0]).astype(np.intp)
    columns = np.rint(centre[1] + radii * np.cos(angles) / pixel_mm[1]).astype(np.intp)
    return rows, columns


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
