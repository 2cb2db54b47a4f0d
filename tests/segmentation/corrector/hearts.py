"""A left ventricle as a segmenter finds it: round slices, a lesion in a sector of the wall, bright as LGE shows it."""

import numpy as np

from imaging.labels import Tissue

SIDE = 64
_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
_RADIUS = np.hypot(_ROWS, _COLUMNS)
_ANGLE = np.arctan2(_ROWS, _COLUMNS)


def masks(slices=5, infarct=True, no_reflow=False):
    """Label maps (S, H, W); a lesion spans a third of the ring, its core a narrower part."""
    one = np.zeros((SIDE, SIDE), np.uint8)
    one[_RADIUS < 22] = Tissue.NORMAL_MYOCARDIUM
    one[_RADIUS < 13] = Tissue.CAVITY
    wall = one == Tissue.NORMAL_MYOCARDIUM
    if infarct:
        one[wall & (np.abs(_ANGLE) < 1)] = Tissue.INFARCT
    if no_reflow:
        one[wall & (np.abs(_ANGLE) < 0.6) & (_RADIUS < 18)] = Tissue.NO_REFLOW
    return np.repeat(one[None], slices, axis=0)


def images(labels):
    """Images (S, H, W) of label maps: blood and infarct bright, the wall and no-reflow dark."""
    grain = np.random.default_rng(0).normal(0, 0.02, labels.shape)
    return (np.choose(labels, [0.3, 0.8, 0.2, 0.9, 0.25]) + grain).clip(0, 1).astype(np.float32)


def probabilities(labels, sure=0.98):
    """Class probabilities (S, C, H, W) of a segmenter that draws these label maps."""
    found = np.full((5, *labels.shape), (1 - sure) / 4, np.float32)
    np.put_along_axis(found, labels[None].astype(np.intp), sure, axis=0)
    return np.ascontiguousarray(np.moveaxis(found, 0, 1))
