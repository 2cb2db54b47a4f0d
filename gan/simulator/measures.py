"""What is measured on a mask: shares, transmurality, thickness; shared by fitting, acceptance and comparison."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.simulator.anatomy import Anatomy
from imaging.labels import Tissue

SECTORS = 36
_TOUCHED = 0.05


@dataclass(frozen=True)
class LesionMeasures:
    """One slice's lesion, no-reflow included.

    Attributes:
        infarct_share: Share of the myocardium.
        no_reflow_share: No-reflow's share of the lesion.
        transmurality: Mean share of the wall over the sectors that the lesion touches.
        extent: Share of the circumference that it touches.
        angle: Mean direction, in radians.
    """

    infarct_share: float
    no_reflow_share: float
    transmurality: float
    extent: float
    angle: float


def measure_lesion(anatomy: Anatomy, labels: NDArray[np.integer]) -> LesionMeasures:
    """Measure the lesion in a crop of labels (h, w) that lies on `anatomy`; zeros where there is none."""
    wall = anatomy.myocardium
    lesion = (labels >= Tissue.INFARCT) & wall
    count = int(lesion.sum())
    if not count:
        return LesionMeasures(0.0, 0.0, 0.0, 0.0, 0.0)
    no_reflow = float((labels == Tissue.NO_REFLOW).sum()) / count
    share = sector_shares(anatomy, lesion)
    touched = share > _TOUCHED
    angle = anatomy.angle[lesion]
    return LesionMeasures(
        infarct_share=count / float(wall.sum()),
        no_reflow_share=no_reflow,
        transmurality=float(share[touched].mean()) if touched.any() else 0.0,
        extent=float(touched.mean()),
        angle=float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()) % (2 * np.pi)),
    )


def sector_shares(anatomy: Anatomy, lesion: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each of `SECTORS` sectors of the wall that the lesion (h, w) fills."""
    wall = anatomy.myocardium
    sector = np.minimum((anatomy.angle[wall] * (SECTORS / (2 * np.pi))).astype(int), SECTORS - 1)
    total = np.bincount(sector, minlength=SECTORS)
    hit = np.bincount(sector, weights=lesion[wall].astype(float), minlength=SECTORS)
    return hit / np.maximum(total, 1)
