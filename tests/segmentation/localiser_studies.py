"""Studies with a ventricle anywhere in them, and small localisers that find it in seconds."""

import numpy as np

from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.studies.study import Study
from segmentation.localiser.config import LocaliserConfig

SMALL = LocaliserConfig(
    input_px=48, map_widths=(8, 16, 16), steps=120, batch=8, validate_every=40, learning_rate=5e-3, shift=0.05
)
PUBLISHED = SMALL.model_copy(update={"head": "regression", "widths": (8, 16), "hidden": 32})


def ring(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
    distance = np.hypot(row - centre[0], column - centre[1])
    mask = np.where(distance < radius, Tissue.NORMAL_MYOCARDIUM, Tissue.BACKGROUND)
    return np.where(distance < radius * 0.6, Tissue.CAVITY, mask).astype(np.uint8)


def study(index: int) -> Study:
    """A bright disc with a dark ring, anywhere in a noisy image."""
    rng = np.random.default_rng(index)
    shape = (80, 96)
    centre = rng.uniform([28, 28], [52, 68])
    mask = np.stack([ring(shape, tuple(centre), 18 - 2 * place) for place in range(3)])
    image = np.choose(mask, [80.0, 200.0, 20.0, 0.0, 0.0]) + rng.normal(0, 12, mask.shape)
    return Study(
        case_id=f"P{index:02d}",
        frame="",
        group="normal",
        image=image.astype(np.float32),
        mask=mask,
        spacing_mm=(10.0, 1.0, 1.0),
        affine=np.eye(4),
        label_set=EMIDEC_LABELS.name,
        path=f"P{index:02d}",
    )
