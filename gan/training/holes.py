"""The holes that a generator of lesions learns to fill: lesions' own, and pseudo-lesions in healthy wall.

A slice's own lesion is painted again, and wall from which the shape of another slice's lesion was cut is painted
again as the wall that it is: so the generator can paint a lesion, and the wall where one was.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.seeds import random_generator
from gan.generation.hole import lesion_hole
from gan.simulator.anatomy import Anatomy, read_anatomy
from gan.simulator.fusion import roll_up, unroll
from gan.training.config import Pix2PixConfig
from imaging.labels import Tissue

VARIANTS = 8  # one bit each of the byte that a pixel takes
_FEWEST_PX = 12  # of a pseudo-lesion
_TRIES = 4

Labels = NDArray[np.uint8]


def training_holes(masks: Labels, config: Pix2PixConfig, seed: int) -> NDArray[np.uint8]:
    """Return the holes (N, H, W) of label maps (N, H, W): bit `v` of a pixel tells whether variant `v` holds it.

    Even variants of a slice with a lesion hold that lesion alone; all others hold a pseudo-lesion as well. Each has a
    margin of its own within the wall. A slice whose wall bears no lesion has no hole, and one whose lesion cannot be
    seen in wall coordinates has holes in even variants alone.

    Raises:
        InputError: No slice has a lesion whose shape can be lent, or none has all its holes.
    """
    read = [read_anatomy(mask) for mask in masks]
    anatomies = [anatomy if anatomy is not None and anatomy.bears_lesions else None for anatomy in read]
    shapes = [
        unroll(anatomy, mask[anatomy.box])
        for anatomy, mask in zip(anatomies, masks, strict=True)
        if anatomy is not None and (mask >= Tissue.INFARCT).any()
    ]
    if not shapes:
        raise InputError(
            f"none of {len(masks)} training slices shows a lesion in a wall around a cavity, which "
            "pix2pix.paint=lesion learns from; use pix2pix.paint=ventricle, or add patients with infarct"
        )
    holes = np.zeros(masks.shape, dtype=np.uint8)
    for row, (mask, anatomy) in enumerate(zip(masks, anatomies, strict=True)):
        rng = random_generator(seed, "pix2pix lesion holes", row)
        for variant in range(VARIANTS):
            holes[row] |= _hole(mask, anatomy, shapes, variant, config, rng) << variant
    if not complete_rows(holes).any():
        raise InputError(f"none of {len(masks)} training slices has wall enough for a hole; check the masks")
    return holes


def complete_rows(holes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which slices (N,) have a hole in every variant: those that can be trained on."""
    return np.bitwise_or.reduce(holes, axis=(1, 2)) == 2**VARIANTS - 1


def _hole(
    mask: Labels,
    anatomy: Anatomy | None,
    shapes: list[Labels],
    variant: int,
    config: Pix2PixConfig,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    region = mask >= Tissue.INFARCT
    if anatomy is not None and (variant % 2 or not region.any()):
        region[anatomy.box] |= draw_pseudo_lesion(anatomy, shapes, rng)
    margin = config.hole_margin_px + int(rng.integers(config.hole_spread_px + 1))
    return lesion_hole(region, mask >= Tissue.NORMAL_MYOCARDIUM, margin)


def draw_pseudo_lesion(anatomy: Anatomy, shapes: list[Labels], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where in an anatomy's crop (h, w) one of some unrolled lesions comes to lie, turned by any angle."""
    for _ in range(_TRIES):
        shape = shapes[rng.integers(len(shapes))]
        found = roll_up(shape, anatomy, float(rng.uniform(0, 2 * np.pi))) >= Tissue.INFARCT
        if found.sum() >= _FEWEST_PX:
            break
    return np.asarray(found)
