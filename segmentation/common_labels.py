"""The label set that several label sets have in common, and label maps brought into it.

A tissue of the common set is what the other set calls so, be it a tissue or one of its evaluation groups: the
myocardium of a cine study is EMIDEC's group of normal myocardium, infarct and no-reflow.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import LabelSet


def common_labels(label_sets: Iterable[LabelSet]) -> LabelSet:
    """Return the finest of the label sets in which label maps of all of them can be written.

    Raises:
        InputError: There is none.
    """
    sets = {labels.name: labels for labels in label_sets}
    for onto in sorted(sets.values(), key=lambda labels: -labels.num_classes):
        if all(_values(labels, name) for labels in sets.values() for _, name in onto.foreground):
            return onto
    told = "; ".join(f"{labels.name}: {', '.join(labels.tissues[1:])}" for labels in sets.values())
    raise InputError(f"label sets {', '.join(sets)} have no set of tissues in common ({told}); test models of one kind")


def merge_labels(mask: NDArray[np.uint8], labels: LabelSet, onto: LabelSet) -> NDArray[np.uint8]:
    """Return a label map of any shape with the values of a coarser label set; tissues that it lacks are background.

    Args:
        mask: Values of `labels`.
        labels: Its label set.
        onto: From `common_labels`.
    """
    table = np.zeros(labels.num_classes, np.uint8)
    for value, tissue in onto.foreground:
        table[list(_values(labels, tissue))] = value
    return table[mask]


def _values(labels: LabelSet, name: str) -> tuple[int, ...]:
    """Return the label values that a set calls so, group or tissue; none where it knows no such name."""
    tissues = {tissue: (value,) for value, tissue in labels.foreground}
    return tuple(labels.official_groups.get(name, tissues.get(name, ())))
