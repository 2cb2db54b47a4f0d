"""Validation while training: the `positive` Dice of each tissue, by which the checkpoint is selected.

What does not live here: the scores that are published, with all their rules; see `segmentation.scoring.scores`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.labels import LabelSet
from imaging.slices.store import SliceStore


@dataclass(frozen=True)
class ValidationData:
    """Slices of the validation patients.

    Attributes:
        images: (N, H, W) in [0, 1].
        masks: (N, H, W) label values.
        case_ids: (N,) the patient of each slice.
    """

    images: NDArray[np.floating]
    masks: NDArray[np.uint8]
    case_ids: NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.images.shape != self.masks.shape or len(self.images) != len(self.case_ids) or not len(self.images):
            raise InputError(
                f"validation images {self.images.shape}, masks {self.masks.shape} and {len(self.case_ids)} "
                "patient names must be one or more slices and agree; rematerialise real_slices"
            )

    @classmethod
    def of(cls, real: SliceStore) -> "ValidationData":
        """Take the validation patients' slices out of a store of real slices; each frame is a case of its own."""
        rows = real.rows_of("validation")
        cases = (real.rows["case_id"] + "/" + real.rows["frame"]).to_numpy(dtype=str)[rows]
        return cls(real.images(rows), real.masks(rows), cases)


def positive_dice(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], case_ids: NDArray[np.str_], labels: LabelSet
) -> dict[str, float]:
    """Return each tissue's Dice a patient in 3-D, averaged over the patients whose reference has the tissue.

    A tissue that no patient has is left out.

    Args:
        reference: (N, H, W) label values.
        prediction: (N, H, W) label values.
        case_ids: (N,) the patient of each slice.
        labels: Names of the tissues.
    """
    by_patient = [
        _dice_by_label(reference[case_ids == case], prediction[case_ids == case], labels.num_classes)
        for case in np.unique(case_ids)
    ]
    table = np.stack(by_patient)  # (patients, C), NaN where the reference lacks the class
    return {
        tissue: float(np.nanmean(table[:, value]))
        for value, tissue in labels.foreground
        if not np.isnan(table[:, value]).all()
    }


def mean_dice(dice: Mapping[str, float]) -> float:
    """Return the mean over tissues, 0 where there is none: what selects the checkpoint."""
    return float(np.mean(list(dice.values()))) if dice else 0.0


def _dice_by_label(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> NDArray[np.float64]:
    overlap = np.bincount(reference[reference == prediction].ravel(), minlength=num_classes)
    in_reference = np.bincount(reference.ravel(), minlength=num_classes)
    in_prediction = np.bincount(prediction.ravel(), minlength=num_classes)
    dice = 2 * overlap / np.maximum(in_reference + in_prediction, 1)
    return np.where(in_reference > 0, dice, np.nan)
