"""How far a model's probabilities and volumes can be trusted: its temperature, calibration error, and intervals.

A temperature is fitted on the validation patients of all folds and measured on their test patients, each by the network
that has seen neither (Guo et al. 2017, arXiv:1706.04599). It divides the logarithms of the probabilities that `predict`
averages, so that the most probable tissue stays the same. Pixels that both reference and prediction leave to the
background have no say: they are most of a region, and always sure.

A volume's interval is conformal (Lei et al. 2018, doi:10.1080/01621459.2017.1307116): as wide as the residuals of nine
of ten test patients. Whether it covers is counted on one fold's patients by the residuals of the others.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from imaging.slices.part import PartSlices
from runtime.pack import Bin, Calibration, VolumeInterval
from segmentation.prediction.familiarity import Familiarity, check_familiarity, seen_range
from segmentation.prediction.plausibility import implausibilities
from segmentation.prediction.segmenter import Segmenter
from segmentation.prediction.study import tempered, tissue_volumes_ml
from segmentation.scoring.held_out import HeldOutPatients
from segmentation.scoring.scores import ScoreIdentity, score_table

LEVEL = 0.9
_BINS = 15
_COLDEST, _HOTTEST = 0.2, 10.0
_TINY = np.finfo(np.float32).tiny

Probabilities = NDArray[np.float32]


class Pixels(NamedTuple):
    """Pixels that are no agreed background: class probabilities (P, C), and the reference's labels (P,)."""

    probabilities: Probabilities
    labels: NDArray[np.uint8]

    @classmethod
    def of(cls, probabilities: Probabilities, masks: NDArray[np.uint8]) -> "Pixels":
        """Take them from slices: probabilities (N, C, H, W), label maps (N, H, W)."""
        seen = (masks > 0) | (probabilities.argmax(axis=1) > 0)
        return cls(np.moveaxis(probabilities, 1, -1)[seen], masks[seen])

    @classmethod
    def joined(cls, parts: "Sequence[Pixels]") -> "Pixels":
        """Return the pixels of several folds as one."""
        probabilities, labels = zip(*parts, strict=True)
        return cls(np.concatenate(probabilities), np.concatenate(labels))


def fit_temperature(pixels: Pixels) -> float:
    """Return the temperature under which the reference's labels are likeliest; 1 where there are no pixels."""
    if not len(pixels.labels):
        return 1.0
    logits = np.log(np.maximum(pixels.probabilities, _TINY)).astype(np.float64)
    own = np.take_along_axis(logits, pixels.labels[:, None].astype(np.intp), axis=1)[:, 0]

    def surprise(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return float((logsumexp(logits / temperature, axis=1) - own / temperature).mean())

    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    return math.exp(float(minimize_scalar(surprise, bounds=bounds, method="bounded").x))


def reliability(pixels: Pixels) -> list[Bin]:
    """Return fifteen bins of equal width of the highest probability; those without a pixel are left out."""
    confidence = pixels.probabilities.max(axis=1).astype(np.float64)
    right = pixels.probabilities.argmax(axis=1) == pixels.labels
    place = np.minimum((confidence * _BINS).astype(np.intp), _BINS - 1)
    count = np.bincount(place, minlength=_BINS)
    sums = [np.bincount(place, weights=values, minlength=_BINS) for values in (confidence, right)]
    return [
        Bin(confidence=min(sure / number, 1.0), accuracy=good / number, pixels=int(number))
        for number, sure, good in zip(count, *sums, strict=True)
        if number
    ]


def expected_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean distance of confidence from accuracy, by pixels."""
    pixels = sum(one.pixels for one in bins)
    return sum(one.pixels * abs(one.confidence - one.accuracy) for one in bins) / pixels


def calibrate(validation: Pixels, test: Pixels) -> Calibration:
    """Fit a temperature on validation pixels and measure on test pixels what it does."""
    temperature = round(fit_temperature(validation), 4)
    if not len(test.labels):
        return Calibration(temperature=temperature)
    before, after = reliability(test), reliability(Pixels(tempered(test.probabilities, temperature), test.labels))
    return Calibration(
        temperature=temperature,
        error_before=expected_error(before),
        error_after=expected_error(after),
        before=before,
        after=after,
    )


def half_width(residuals: NDArray[np.floating], level: float = LEVEL) -> float:
    """Return how far from the prediction an interval reaches that covers a further patient with probability `level`.

    That is the ceil((n + 1) level)-th smallest absolute residual; the largest where too few are known.
    """
    ordered = np.sort(np.abs(residuals))
    return float(ordered[min(math.ceil((len(ordered) + 1) * level), len(ordered)) - 1])


def volume_intervals(volumes: pd.DataFrame, level: float = LEVEL) -> dict[str, VolumeInterval]:
    """Return each tissue's and group's interval, and the share of test volumes within that of the other folds.

    Args:
        volumes: A row a test study and name: `fold`, `name`, `predicted_ml`, `reference_ml`.
        level: Of the interval.
    """
    found = {}
    for name, rows in volumes.groupby("name", sort=False):
        residuals = (rows["predicted_ml"] - rows["reference_ml"]).to_numpy(dtype=float)
        folds = rows["fold"].to_numpy()
        found[str(name)] = VolumeInterval(
            half_width_ml=half_width(residuals, level),
            coverage=_coverage(residuals, folds, level),
            volumes=len(residuals),
        )
    return found


def _coverage(residuals: NDArray[np.floating], folds: NDArray[np.integer], level: float) -> float | None:
    """Return the share of residuals within the interval of the other folds; None for a single fold."""
    if len(np.unique(folds)) < 2:
        return None
    within = [np.abs(residuals[folds == fold]) <= half_width(residuals[folds != fold], level) for fold in set(folds)]
    return float(np.concatenate(within).mean())


class HeldOut(NamedTuple):
    """What one network made of patients that it was not trained on.

    Attributes:
        validation: Pixels of the validation patients.
        test: Pixels of the test patients.
        volumes: Of the test patients, as `volume_intervals` takes them.
        flags: Whether each test study would be flagged.
        scores: Of the test patients under every rule.
    """

    validation: Pixels
    test: Pixels
    volumes: pd.DataFrame
    flags: list[bool]
    scores: pd.DataFrame


def measure_held_out(
    segmenter: Segmenter,
    remembered: Familiarity | None,
    validation: PartSlices,
    patients: HeldOutPatients,
    identity: ScoreIdentity,
) -> HeldOut:
    """Segment the validation and test patients of a fold, their regions cut around the localiser's box.

    Args:
        segmenter: One network of the fold.
        remembered: What it remembers of its training studies.
        validation: Slices of the validation patients.
        patients: The test patients.
        identity: Fold, network, training set and seed.
    """
    of_validation = Pixels.of(segmenter.probabilities(validation.images), validation.masks)
    probabilities, features = segmenter.probabilities_and_features(patients.images())
    drawn = probabilities.argmax(axis=1).astype(np.uint8)
    slices, flags = patients.slices, []
    cases = list(patients.cases(drawn))
    for (_, _, at), case in zip(slices.stacks(), cases, strict=True):
        images = slices.images[at].astype(np.float32)
        check = check_familiarity([features[at]], [remembered], images, drawn[at])
        seen = seen_range([remembered])
        odd = implausibilities(drawn[at], (), patients.labels, seen, case.prediction, case.spacing_mm)
        flags.append(bool(odd or (check and check.sentence)))
    rows: list[dict[str, Any]] = []
    for case in cases:
        maps = (case.prediction.astype(np.uint8), case.reference.astype(np.uint8))
        predicted, reference = (tissue_volumes_ml(one, case.spacing_mm, patients.labels) for one in maps)
        rows += [
            {"fold": identity.fold, "name": name, "predicted_ml": predicted[name], "reference_ml": reference[name]}
            for name in predicted
        ]
    scores = score_table(cases, identity, patients.labels)
    return HeldOut(of_validation, Pixels.of(probabilities, slices.masks), pd.DataFrame(rows), flags, scores)
