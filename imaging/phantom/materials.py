"""What the phantom is made of: materials, their signals, and the label that each is given."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from imaging.labels import Tissue


class Material(IntEnum):
    """Kinds of matter on the fine grid; one tissue label may hold several."""

    AIR = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    LIVER = 4
    ORGAN = 5
    FLUID = 6
    OTHER_BLOOD = 7
    OTHER_MYOCARDIUM = 8
    BLOOD = 9
    PAPILLARY = 10
    MYOCARDIUM = 11
    INFARCT = 12
    NO_REFLOW = 13


# Papillary muscles and trabeculae count as cavity, as EMIDEC's experts drew them (Lalande et al., Data 2020).
_LABELS = {
    Material.BLOOD: Tissue.CAVITY,
    Material.PAPILLARY: Tissue.CAVITY,
    Material.MYOCARDIUM: Tissue.NORMAL_MYOCARDIUM,
    Material.INFARCT: Tissue.INFARCT,
    Material.NO_REFLOW: Tissue.NO_REFLOW,
}
LABEL_OF: NDArray[np.uint8] = np.array([_LABELS.get(m, Tissue.BACKGROUND) for m in Material], np.uint8)

# Lowest and highest T1, ms, ten to fifteen minutes after gadolinium at 1.5 T, and protons relative to myocardium.
# Contrast collects in infarct and not in no-reflow (Kim et al., Circulation 1999).
_T1_MS: dict[Material, tuple[float, float]] = {
    Material.AIR: (1000, 1000),
    Material.LUNG: (380, 520),
    Material.FAT: (225, 255),
    Material.MUSCLE: (460, 560),
    Material.LIVER: (330, 440),
    Material.ORGAN: (330, 420),
    Material.FLUID: (400, 1200),
    Material.BLOOD: (300, 370),
    Material.MYOCARDIUM: (430, 500),
    Material.INFARCT: (255, 320),
    Material.NO_REFLOW: (500, 640),
}
_PROTONS = {Material.AIR: 0.0, Material.LUNG: 0.3, Material.FAT: 1.15, Material.LIVER: 0.85}
_SAME = {
    Material.OTHER_BLOOD: Material.BLOOD,
    Material.OTHER_MYOCARDIUM: Material.MYOCARDIUM,
    Material.PAPILLARY: Material.MYOCARDIUM,
}


def draw_signals(inversion_error: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one patient's T1 values and return the inversion-recovery signal of each material, fat being 1.

    The inversion time nulls normal myocardium but for the relative error: M = protons * (1 - 2 exp(-TI / T1)).
    """
    t1 = {material: rng.uniform(*span) for material, span in _T1_MS.items()}
    t1 |= {copy: t1[original] for copy, original in _SAME.items()}
    inversion_ms = t1[Material.MYOCARDIUM] * np.log(2) * (1 + inversion_error)
    signals = [_PROTONS.get(m, 1.0) * (1 - 2 * np.exp(-inversion_ms / t1[m])) for m in Material]
    return np.array(signals, np.float32) / np.float32(signals[Material.FAT])
