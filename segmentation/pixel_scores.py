"""Pixel accuracy and F1, the figures of source B (Fakhfakh et al. 2025: "up to 98 % accuracy and F1-score").

Both count background, which fills most of a slice, and so lie far above a tissue's Dice; they serve to compare with
that paper and judge nothing here. It does not say over which pixels: here all of the regions that the network sees.
"""

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelSet
from segmentation.overlap import count_voxels, slice_confusions


def pixel_scores(reference: NDArray[np.integer], prediction: NDArray[np.integer], labels: LabelSet) -> dict[str, float]:
    """Return the share of pixels labelled rightly and the F1-score of every label, over all slices together.

    Args:
        reference: (N, H, W) label values.
        prediction: (N, H, W) label values.
        labels: Names of the label values.

    Returns:
        `accuracy`; `f1/LABEL`, background included, without labels that neither side holds; `f1/mean` over these.
    """
    confusion = slice_confusions(reference, prediction, labels.num_classes).sum(axis=0)  # (C, C), rows: reference
    counts = {name: count_voxels(confusion, [value]) for value, name in enumerate(labels.tissues)}
    f1 = {f"f1/{name}": of_label.dice() for name, of_label in counts.items() if not of_label.empty}
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        **f1,
        "f1/mean": float(np.mean(list(f1.values()))),
    }
