"""One study on the 1 mm grid, as archives hold it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LABEL_SETS, PATIENT_GROUPS
from imaging.prepare import resample_image, resample_mask
from imaging.study import Study


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
