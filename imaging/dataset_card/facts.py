"""What the dataset card keeps of one study: small numbers, taken while its arrays are in memory."""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.labels import LabelSet
from imaging.slices.regions import RegionConfig, study_regions
from imaging.studies.preparation import Box, PreparedStudy, crop_region, reference_box
from imaging.studies.study import digest_of

IMAGE_BINS = 512
WINDOWED_BINS = 64
_MOST_SAMPLED = 4_000_000  # voxels; of larger images every k-th row and column is taken
_TAIL_PERCENTILE = 98.0
_PLATEAU_WIDTH = 0.005  # share of a region's range; resampling ripples around a clipped area
_PLATEAU_SHARE = 0.5  # of the tail; measured: up to 0.2 in unclipped images, from 0.58 where 2 % or more are clipped


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """Facts of one study; C is the number of label values.

    Attributes:
        case_id: The patient.
        frame: `ED`, `ES` or a frame number; empty for LGE.
        group: Of this study alone.
        shape: (S, H, W) of the study's own grid.
        spacing_mm: (slice, row, column) of the study's own grid.
        field_mm: Height and width of the field of view.
        voxels: (S, C), voxels of each label in each slice of the study's own grid.
        touched: Sides of the image that labels reach.
        box: Around all labels, in 1 mm pixels; None where no label is left on the 1 mm grid.
        region_pixels: (C,), pixels of each label in the regions.
        lost_pixels: Labelled 1 mm pixels that lie outside the regions.
        padding: Share of a region that lies outside the image.
        intensities: Percentiles 2, 50 and 98 of the whole image, scanner units.
        image_edges: (IMAGE_BINS + 1,), scanner units, from percentile 0.1 to 99.9 of the whole image.
        image_counts: (IMAGE_BINS,), voxels between them; what lies outside counts at the ends.
        windowed_counts: (C, WINDOWED_BINS), pixels of each label by intensity in [0, 1]; those outside the image
            are left out.
        saturated: Share of the regions' pixels at the top intensity if it is a plateau, else 0.
        no_contrast: Why the regions cannot be windowed; empty where they can.
        image_digest: SHA-256 of the image on the 1 mm grid.
        mask_digest: SHA-256 of the label map on its own grid.
    """

    case_id: str
    frame: str
    group: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    field_mm: tuple[float, float]
    voxels: NDArray[np.int64]
    touched: tuple[str, ...]
    box: Box | None
    region_pixels: NDArray[np.int64]
    lost_pixels: int
    padding: float
    intensities: tuple[float, float, float]
    image_edges: NDArray[np.float64]
    image_counts: NDArray[np.int64]
    windowed_counts: NDArray[np.int64]
    saturated: float
    no_contrast: str
    image_digest: str
    mask_digest: str

    @property
    def name(self) -> str:
        """The study as people call it: patient and frame."""
        return study_name(self.case_id, self.frame)

    @property
    def volumes_ml(self) -> NDArray[np.float64]:
        """Volume of each label (C,) on the study's own grid."""
        return self.voxels.sum(axis=0) * float(np.prod(self.spacing_mm)) / 1000


def study_name(case_id: str, frame: str) -> str:
    """Return patient and frame as one name."""
    return f"{case_id} {frame}".strip()


def region_centre(study: PreparedStudy) -> tuple[float, float]:
    """Return the middle of the reference box (row, column), or of the image where no label is left."""
    height, width = study.mask.shape[1:]
    return reference_box(study.mask).centre if study.mask.any() else (height / 2, width / 2)


def study_facts(study: PreparedStudy, labels: LabelSet, region: RegionConfig) -> StudyFacts:
    """Take the facts of one study; the region lies around its reference box, without jitter."""
    centre = region_centre(study)
    cut = crop_region(study.mask, centre, region.size_px)
    inside = crop_region(np.ones((1, *study.mask.shape[1:]), dtype=np.bool_), centre, region.size_px)[0]
    windowed, no_contrast = _windowed_counts(study, centre, cut, inside, labels, region)
    intensities, edges, counts = _whole_image(study.image)
    slices, height, width = (int(side) for side in study.native_mask.shape)
    return StudyFacts(
        case_id=study.case_id,
        frame=study.frame,
        group=study.group,
        shape=(slices, height, width),
        spacing_mm=study.spacing_mm,
        field_mm=(height * study.spacing_mm[1], width * study.spacing_mm[2]),
        voxels=np.stack([_count(plane, labels) for plane in study.native_mask]),
        touched=_touched_sides(study.native_mask),
        box=reference_box(study.mask) if study.mask.any() else None,
        region_pixels=_count(cut, labels),
        lost_pixels=int(np.count_nonzero(study.mask) - np.count_nonzero(cut)),
        padding=float(1 - inside.mean()),
        intensities=intensities,
        image_edges=edges,
        image_counts=counts,
        windowed_counts=windowed,
        saturated=_saturated_share(crop_region(study.image, centre, region.size_px)[:, inside]),
        no_contrast=no_contrast,
        image_digest=digest_of(study.image),
        mask_digest=digest_of(study.native_mask),
    )


def _count(mask: NDArray[np.uint8], labels: LabelSet) -> NDArray[np.int64]:
    return np.bincount(mask.ravel(), minlength=labels.num_classes)


def _touched_sides(mask: NDArray[np.uint8]) -> tuple[str, ...]:
    flat = np.any(mask > 0, axis=0)
    edges = {"top": flat[0], "bottom": flat[-1], "left": flat[:, 0], "right": flat[:, -1]}
    return tuple(side for side, edge in edges.items() if edge.any())


def _windowed_counts(
    study: PreparedStudy,
    centre: tuple[float, float],
    cut: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    labels: LabelSet,
    region: RegionConfig,
) -> tuple[NDArray[np.int64], str]:
    size = labels.num_classes * WINDOWED_BINS
    try:
        images, _ = study_regions(study.image, centre, region, study_name(study.case_id, study.frame))
    except InputError as error:
        return np.zeros((labels.num_classes, WINDOWED_BINS), dtype=np.int64), str(error)
    bins = np.minimum(images[:, inside] * WINDOWED_BINS, WINDOWED_BINS - 1).astype(np.int64)
    cells = cut[:, inside].astype(np.int64) * WINDOWED_BINS + bins
    return np.bincount(cells.ravel(), minlength=size).reshape(labels.num_classes, WINDOWED_BINS), ""


def _whole_image(
    image: NDArray[np.float32],
) -> tuple[tuple[float, float, float], NDArray[np.float64], NDArray[np.int64]]:
    step = ceil(sqrt(max(1.0, image.size / _MOST_SAMPLED)))
    sample = image[:, ::step, ::step].ravel()
    lowest, low, middle, high, highest = (float(v) for v in np.percentile(sample, [0.1, 2, 50, 98, 99.9]))
    if not lowest < highest:  # a few bright voxels in a flat image
        lowest, highest = float(sample.min()), float(sample.max()) + 1.0
    edges = np.linspace(lowest, highest, IMAGE_BINS + 1)
    counts, _ = np.histogram(np.clip(sample, lowest, highest), bins=IMAGE_BINS, range=(lowest, highest))
    return (low, middle, high), edges, counts


def _saturated_share(pixels: NDArray[np.float32]) -> float:
    """Return the share of pixels on a plateau at the top of their range, 0 where there is none."""
    if pixels.size == 0:
        return 0.0
    lowest, tail_start, highest = (float(v) for v in np.percentile(pixels, [0.1, _TAIL_PERCENTILE, 99.9]))
    width = _PLATEAU_WIDTH * (highest - lowest)
    tail = np.sort(pixels[pixels >= tail_start])
    within = np.searchsorted(tail, tail + width, side="right") - np.arange(len(tail))
    densest = int(np.argmax(within))
    if within[densest] < _PLATEAU_SHARE * len(tail):
        return 0.0
    return float((pixels >= tail[densest] - width).mean())
