"""One volume in, its label map out, with what is odd about the two: what `predict` and `external-test` have in common.

Nothing is read or written here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.regions import RegionConfig
from segmentation import plausibility
from segmentation.familiarity import Familiarity, FamiliarityCheck, check_familiarity, seen_range
from segmentation.predict import Segmenter
from segmentation.study_prediction import BoxPredictor, StudyPrediction, predict_study


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
    odd = plausibility.implausibilities(found.regions, found.boxes, segmenter.label_set, seen_range(remembered))
    unlike = [check.sentence] if check and check.sentence else []
    return CheckedPrediction(found, check, (*unlike, *odd))
