"""From the image of a new study to its label map, volumes and uncertainty: the way of the held-out patients.

Each step is that of `assets.slices` and `segmentation.scoring.held_out`: 1 mm grid, box, region with the percentiles of
the training, probabilities, arg-max, and back to the study's own grid. Nothing is read or written here.

One volume in, its label map out, with what is odd about the two: what `predict` and `external-test` have in common.

Nothing is read or written here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.labels import LabelSet
from imaging.slices.regions import RegionConfig, study_regions
from imaging.studies.preparation import Box, paste_region, resample_image, restore_mask, restore_probabilities
from imaging.studies.study import stack_faults
from runtime.pack import VolumeInterval
from segmentation.prediction import plausibility
from segmentation.prediction.familiarity import Familiarity, FamiliarityCheck, check_familiarity, seen_range
from segmentation.prediction.post_processing import post_process, without_unsure_lesions
from segmentation.prediction.segmenter import Segmenter


class BoxPredictor(Protocol):
    """A localiser, as far as prediction asks."""

    def predict_image_box(self, image: NDArray[np.float32]) -> Box:
        """Return the left ventricle's box of an image (S, H, W) on the 1 mm grid."""


@dataclass(frozen=True)
class TissueUncertainty:
    """How sure the models are of one tissue.

    Attributes:
        entropy: Mean predictive entropy of the pixels that were given to the tissue, as a share of the largest
            possible (all classes equally likely); None where the tissue was not found.
        spread_ml: Standard deviation over the members of the volume that each draws by itself; None for one member.
    """

    entropy: float | None
    spread_ml: float | None


@dataclass(frozen=True, eq=False)
class StudyPrediction:
    """What a model makes of one study; P is the side of a region in 1 mm pixels.

    Attributes:
        mask: (S, H, W), label values on the study's own grid.
        prepared: (S, H1, W1), the image on the 1 mm grid, scanner units.
        box: The left ventricle on that grid, the median of the localisers' boxes.
        boxes: One a localiser.
        images: (S, P, P), the regions in [0, 1] around the box's centre.
        regions: (S, P, P), their label values.
        drawn: (S, P, P), the same before post-processing.
        probabilities: (S, C, P, P), whose arg-max is `drawn`.
        entropy: (S, P, P), predictive entropy as a share of the largest possible.
        volumes_ml: By tissue and official group, on the study's own grid.
        shares_percent: Infarction and no-reflow as percent of the myocardium, None without myocardium; empty for
            label sets without lesions.
        uncertainty: By tissue.
        features: One a network, (S, D): its pooled bottleneck features of the regions.
    """

    mask: NDArray[np.uint8]
    prepared: NDArray[np.float32]
    box: Box
    boxes: tuple[Box, ...]
    images: NDArray[np.float32]
    regions: NDArray[np.uint8]
    drawn: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    entropy: NDArray[np.float32]
    volumes_ml: Mapping[str, float]
    shares_percent: Mapping[str, float | None]
    uncertainty: Mapping[str, TissueUncertainty]
    features: tuple[NDArray[np.float32], ...]


def predict_study(
    image: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    segmenter: Segmenter,
    localisers: Sequence[BoxPredictor],
    region: RegionConfig,
    source: str,
) -> StudyPrediction:
    """Segment one study.

    Args:
        image: (S, H, W), scanner units, arranged as the training studies were.
        spacing_mm: (slice, row, column).
        segmenter: One network or several.
        localisers: One or several.
        region: How the training cut its regions.
        source: Name of the study, for messages.

    Raises:
        InputError: A localiser finds no box, or the image has no contrast there.
    """
    prepared = resample_image(image, spacing_mm)
    boxes = tuple(localiser.predict_image_box(prepared) for localiser in localisers)
    box = median_box(boxes, source)
    cut, _ = study_regions(prepared, box.centre, region, source)
    images = cut.astype(np.float16).astype(np.float32)  # as slice stores keep them
    pixel_ml = np.prod(spacing_mm) * image[0].size / prepared[0].size / 1000
    probabilities, members_ml, features = _average(segmenter, images, float(pixel_ml))
    drawn = probabilities.argmax(axis=1).astype(np.uint8)
    regions = post_process(drawn, segmenter.label_set, segmenter.post_processing)
    if segmenter.sure_lesions_only:
        regions = without_unsure_lesions(regions, probabilities, np.full(len(regions), source), segmenter.label_set)
    entropy = relative_entropy(probabilities)
    mask = restore_mask(paste_region(regions, prepared.shape, box.centre), image.shape, segmenter.label_set.num_classes)
    volumes_ml = tissue_volumes_ml(mask, spacing_mm, segmenter.label_set)
    return StudyPrediction(
        mask=mask,
        prepared=prepared,
        box=box,
        boxes=boxes,
        images=images,
        regions=regions,
        drawn=drawn,
        probabilities=probabilities,
        entropy=entropy,
        volumes_ml=volumes_ml,
        shares_percent=lesion_shares_percent(volumes_ml, segmenter.label_set),
        uncertainty=_uncertainty(regions, entropy, members_ml, segmenter.label_set),
        features=features,
    )


def native_probabilities(found: StudyPrediction, temperature: float = 1.0) -> NDArray[np.float16]:
    """Return class probabilities (S, C, H, W) on the study's own grid; outside the region all is background.

    Their sum is 1 but for half precision, and their arg-max is the label map where nothing post-processed it.

    Args:
        found: The prediction.
        temperature: Of the model's calibration; 1 leaves them as the networks give them.
    """
    spread = np.moveaxis(tempered(found.probabilities, temperature), 1, 0)  # (C, S, P, P)
    prepared = found.prepared.shape
    inside = paste_region(np.ones(spread[0].shape, np.bool_), prepared, found.box.centre)
    pasted = np.stack([paste_region(one, prepared, found.box.centre) for one in spread], axis=1)
    pasted[:, 0][~inside] = 1
    drawn = paste_region(found.drawn, prepared, found.box.centre)
    restored = restore_probabilities(pasted, drawn, found.mask.shape).astype(np.float16)
    return _without_ties(restored, restore_mask(drawn, found.mask.shape, restored.shape[1]))


def tempered(probabilities: NDArray[np.float32], temperature: float, axis: int = 1) -> NDArray[np.float32]:
    """Return probabilities whose logarithms were divided by a temperature; their order stays the same.

    Args:
        probabilities: Summing to 1 over the classes.
        temperature: Above 1 makes them less sure.
        axis: Of the classes.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / np.float32(temperature)
    logits -= logits.max(axis=axis, keepdims=True)
    powers = np.where(probabilities > 0, np.exp(logits), np.float32(0))
    return (powers / powers.sum(axis=axis, keepdims=True)).astype(np.float32)


def _without_ties(probabilities: NDArray[np.float16], drawn: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Put what rounding made as likely as the drawn class (S, H, W) one step of half precision below it."""
    top = np.take_along_axis(probabilities, drawn[:, None].astype(np.intp), axis=1)
    others = np.arange(probabilities.shape[1])[:, None, None] != drawn[:, None]
    return np.where(others & (probabilities >= top), np.nextafter(top, np.float16(0)), probabilities)


def median_box(boxes: Sequence[Box], source: str) -> Box:
    """Return the box whose sides are the medians of the boxes' sides.

    Raises:
        InputError: There is none, or it has no extent.
    """
    if not boxes:
        raise InputError(f"{source}: no localiser was given; name at least one")
    box = Box(*(float(side) for side in np.median(np.asarray(boxes), axis=0)))
    if not (np.isfinite(box).all() and box.height > 0 and box.width > 0):
        raise InputError(f"{source}: no left ventricle was located (box {tuple(box)}); check that it is short-axis")
    return box


def members(segmenter: Segmenter) -> list[Segmenter]:
    """Return each network of an ensemble as a segmenter of its own."""
    return [
        Segmenter([network], segmenter.label_set, segmenter.compute, segmenter.flips) for network in segmenter.networks
    ]


def relative_entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy (N, H, W) of class probabilities (N, C, H, W) as a share of log C, 0 to 1."""
    safe = np.maximum(probabilities, np.finfo(np.float32).tiny)
    nats = -(probabilities * np.log(safe)).sum(axis=1)
    return np.clip(nats / np.log(probabilities.shape[1]), 0, 1).astype(np.float32)


def tissue_volumes_ml(
    mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float], labels: LabelSet
) -> dict[str, float]:
    """Return the volume of each tissue and official group of a label map (S, H, W) on its own grid."""
    counts = np.bincount(mask.ravel(), minlength=labels.num_classes)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    groups = {tissue: (value,) for value, tissue in labels.foreground} | dict(labels.official_groups)
    return {name: float(counts[list(values)].sum() * voxel_ml) for name, values in groups.items()}


def lesion_shares_percent(volumes_ml: Mapping[str, float], labels: LabelSet) -> dict[str, float | None]:
    """Return the infarct size and the no-reflow as percent of the left ventricular myocardium."""
    if not labels.has_lesions:
        return {}
    whole = volumes_ml["myocardium"]
    return {name: 100 * volumes_ml[name] / whole if whole > 0 else None for name in ("infarction", "no_reflow")}


def interval_ml(
    volumes_ml: Mapping[str, float], intervals: Mapping[str, VolumeInterval]
) -> dict[str, tuple[float, float]]:
    """Return lower and upper end of each volume's interval; those without one are left out."""
    return {
        name: (max(0.0, value - intervals[name].half_width_ml), value + intervals[name].half_width_ml)
        for name, value in volumes_ml.items()
        if name in intervals
    }


def _average(
    segmenter: Segmenter, images: NDArray[np.float32], pixel_ml: float
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[NDArray[np.float32], ...]]:
    """Return mean probabilities (S, C, P, P), and of each of M members its classes' volumes (M, C) and features."""
    total = np.zeros((), np.float32)
    volumes_ml, found = [], []
    for member in members(segmenter):
        probabilities, features = member.probabilities_and_features(images)
        total = total + probabilities
        counts = np.bincount(probabilities.argmax(axis=1).ravel(), minlength=segmenter.label_set.num_classes)
        volumes_ml.append(counts * pixel_ml)
        found.append(features)
    return total / np.float32(len(volumes_ml)), np.stack(volumes_ml), tuple(found)


def _uncertainty(
    regions: NDArray[np.uint8], entropy: NDArray[np.float32], members_ml: NDArray[np.float64], labels: LabelSet
) -> dict[str, TissueUncertainty]:
    several = len(members_ml) > 1
    found = {}
    for value, tissue in labels.foreground:
        inside = regions == value
        found[tissue] = TissueUncertainty(
            entropy=float(entropy[inside].mean()) if inside.any() else None,
            spread_ml=float(members_ml[:, value].std(ddof=1)) if several else None,
        )
    return found


@dataclass(frozen=True, eq=False)
class CheckedPrediction:
    """What a model makes of one study, and what is odd about it.

    Attributes:
        prediction: Its labels, volumes and uncertainty.
        familiarity: Beside the training studies; None for models that remember none.
        flags: A sentence each.
    """

    prediction: StudyPrediction
    familiarity: FamiliarityCheck | None
    flags: tuple[str, ...]


def predict_checked(
    image: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    segmenter: Segmenter,
    localisers: Sequence[BoxPredictor],
    region: RegionConfig,
    remembered: Sequence[Familiarity | None],
    source: str,
) -> CheckedPrediction:
    """Segment one study, and compare it and its result with the training.

    Args:
        image: (S, H, W), scanner units, arranged as the training studies were.
        spacing_mm: (slice, row, column).
        segmenter: One network or several.
        localisers: One or several.
        region: How the training cut its regions.
        remembered: By each of the networks.
        source: Name of the study, for messages.

    Raises:
        InputError: There is no contrast or no ventricle to cut around.
    """
    found = predict_study(image, spacing_mm, segmenter, localisers, region, source)
    check = check_familiarity(found.features, remembered, found.images, found.drawn)  # as remembered: not corrected
    seen = seen_range(remembered)
    odd = plausibility.implausibilities(found.regions, found.boxes, segmenter.label_set, seen, found.mask, spacing_mm)
    unlike = [check.sentence] if check and check.sentence else []
    return CheckedPrediction(found, check, (*stack_faults(image), *unlike, *odd))
