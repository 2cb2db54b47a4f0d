"""The tissues, their colours and their evaluation groups, for each kind of study.

Every module takes names, channels and colours from a `LabelSet`; no number of a tissue is written elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError, some_of

_COUNTED = 1 << 16  # label values below this are counted
_MANY = 12  # unknown values in one mask: nobody draws so many tissues


class Tissue(IntEnum):
    """EMIDEC's label values (Lalande et al., Data 2020)."""

    BACKGROUND = 0
    CAVITY = 1
    NORMAL_MYOCARDIUM = 2
    INFARCT = 3
    NO_REFLOW = 4


class CineTissue(IntEnum):
    """Labels of cine studies after the right ventricle has been dropped."""

    BACKGROUND = 0
    CAVITY = 1
    MYOCARDIUM = 2


@dataclass(frozen=True)
class LabelSet:
    """Names (index is the label value), RGB colours and official evaluation groups of one kind of study."""

    name: str
    tissues: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    official_groups: Mapping[str, tuple[int, ...]]

    @property
    def num_classes(self) -> int:
        """The number of label values, background included."""
        return len(self.tissues)

    @property
    def foreground(self) -> tuple[tuple[int, str], ...]:
        """Pairs of label value and tissue name, background left out."""
        return tuple(enumerate(self.tissues))[1:]

    @property
    def has_lesions(self) -> bool:
        """Whether studies can hold infarcts; those that cannot run the real-only half of the graph."""
        return "infarct" in self.tissues

    def check(self, mask: NDArray[np.integer], source: str) -> None:
        """Raise `InputError` naming `source` if `mask` holds a value outside this label set."""
        unknown = sorted(set(distinct_values(mask)) - set(range(self.num_classes)))
        if unknown:
            raise InputError(
                f"{source}: label values [{some_of(unknown)}] are not in label set {self.name!r} "
                f"(0 to {self.num_classes - 1}){smeared(unknown)}; correct the mask or choose the matching source "
                "format"
            )


def smeared(unknown: Sequence[int]) -> str:
    """Return what many unknown values in one mask hint at, for messages; empty for few."""
    return ", as in an image, or in a mask saved as JPEG or resampled" if len(unknown) > _MANY else ""


def distinct_values(mask: NDArray[np.integer]) -> list[int]:
    """Return the values that a mask of any shape holds, ascending. Counted: sorting takes far longer."""
    if mask.size and mask.min() >= 0 and mask.max() < _COUNTED:
        return np.flatnonzero(np.bincount(mask.ravel())).tolist()
    return np.unique(mask).tolist()


EMIDEC_LABELS = LabelSet(
    name="emidec",
    tissues=("background", "cavity", "normal_myocardium", "infarct", "no_reflow"),
    colours=((0, 0, 0), (214, 69, 65), (65, 131, 215), (245, 215, 66), (38, 194, 129)),
    # The challenge's evaluation groups: 2+3+4, 3+4, 4 (emidec.com).
    official_groups=MappingProxyType({"myocardium": (2, 3, 4), "infarction": (3, 4), "no_reflow": (4,)}),
)

CINE_LABELS = LabelSet(
    name="cine",
    tissues=("background", "cavity", "myocardium"),
    colours=((0, 0, 0), (214, 69, 65), (65, 131, 215)),
    official_groups=MappingProxyType({"cavity": (1,), "myocardium": (2,)}),
)

LABEL_SETS: Mapping[str, LabelSet] = MappingProxyType({s.name: s for s in (EMIDEC_LABELS, CINE_LABELS)})

PATIENT_GROUPS = ("normal", "infarct", "no_reflow")


def patient_group(mask: NDArray[np.integer], labels: LabelSet) -> str:
    """Return `no_reflow`, `infarct` or `normal` from the tissues that a patient's whole mask (S, H, W) holds."""
    present = {labels.tissues[value] for value in distinct_values(mask)}
    for group in ("no_reflow", "infarct"):
        if group in present:
            return group
    return "normal"
