"""The tissues, their colours and their evaluation groups, for each kind of study.

Every module takes names, channels and colours from a `LabelSet`; no number of a tissue is written elsewhere.

From the numbers in a file's mask to the tissues of a label set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of

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


# The words of reports on late enhancement: there an infarct is all that is infarcted, no-reflow (microvascular
# obstruction, MVO) included, which the data set calls infarction.
_CLINICAL_TERMS: Mapping[str, str] = MappingProxyType(
    {
        "cavity": "LV blood pool",
        "normal_myocardium": "LV myocardium without scar",
        "infarct": "scar",
        "no_reflow": "MVO",
        "infarction": "total infarct = scar + MVO",
        "myocardium": "LV myocardium, all of it",
    }
)


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

    def css_colour(self, value: int) -> str:
        """Return the colour of a label value as pages write it."""
        return "#{:02x}{:02x}{:02x}".format(*self.colours[value])

    def clinical_term(self, name: str) -> str:
        """Return what the clinic calls a tissue or official group; a dash where it has no other word."""
        return _CLINICAL_TERMS.get(name, "–")

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

# How much a pixel of each tissue weighs in a loss (Cairo University 2025); cine's one wall tissue as the normal wall.
PUBLISHED_TISSUE_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "background": 1.0,
        "cavity": 7.0,
        "normal_myocardium": 11.0,
        "infarct": 26.0,
        "no_reflow": 90.0,
        "myocardium": 11.0,
    }
)

PATIENT_GROUPS = ("normal", "infarct", "no_reflow")


def patient_group(mask: NDArray[np.integer], labels: LabelSet) -> str:
    """Return `no_reflow`, `infarct` or `normal` from the tissues that a patient's whole mask (S, H, W) holds."""
    present = {labels.tissues[value] for value in distinct_values(mask)}
    for group in ("no_reflow", "infarct"):
        if group in present:
            return group
    return "normal"


_ROUNDING = 1e-3  # how far a label stored as a float may lie from a whole number
_MOST_OPEN = 0.6  # of a cavity's rim: a right ventricle's is more, basal slices with the outflow tract are less
_LARGEST = 2.0**53  # beyond it, neighbouring whole numbers are one float64


def to_labels(
    mask: NDArray[Any], labels: LabelSet, source: str, values: Mapping[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return label values of `labels` (same shape) from a mask as a file holds it.

    Args:
        mask: Whole numbers, perhaps stored as floats.
        labels: The label set.
        source: The file, for messages.
        values: Label value by the number in the file; None where the file's numbers are the label values.

    Raises:
        InputError: A voxel is not whole, or holds a number that stands for no tissue.
    """
    numbers = _whole(mask, source)
    if values is None:
        labels.check(numbers, source)
        return np.ascontiguousarray(numbers, dtype=np.uint8)
    unknown = sorted(set(distinct_values(numbers)) - set(values))
    if unknown:
        raise InputError(
            f"{source}: label values [{some_of(unknown)}] stand for no tissue; known are [{some_of(sorted(values))}]"
            f"{smeared(unknown)}: correct the mask, "
            "choose the matching source format, or name them in source.label_values"
        )
    translated = np.zeros(numbers.shape, dtype=np.uint8)
    for number, label in values.items():
        translated[numbers == number] = label
    return translated


def numbering_note(mask: NDArray[np.uint8], source: str) -> tuple[str, ...]:
    """Return a sentence where label values (S, H, W) look like another numbering, see `odd_cavity`."""
    what = odd_cavity(mask)
    return (f"{source}: {what}; look whether its numbers mean other tissues, which no score would tell",) * bool(what)


def odd_cavity(mask: NDArray[np.uint8]) -> str:
    """Return what is odd about the cavity of label values (S, H, W): none, or one that no myocardium encloses.

    ACDC's and M&Ms' right ventricle, or a left one that is called infarct, would pass as tissues of another set.
    """
    cavity = mask == CineTissue.CAVITY
    if not cavity.any():
        return "" if len(mask) == 1 else "no voxel is cavity (1)"  # one slice may lie beyond the apex of the cavity
    padded = np.pad(cavity, ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    rim = mask[beside & ~cavity]
    open_share = np.count_nonzero(rim == 0) / max(len(rim), 1)
    return f"{open_share:.0%} of the rim of the cavity (1) is background" if open_share > _MOST_OPEN else ""


def _whole(mask: NDArray[Any], source: str) -> NDArray[np.int64]:
    if mask.dtype.kind != "f":
        return mask.astype(np.int64)
    bad = int(np.count_nonzero(~np.isfinite(mask)))
    if bad:
        raise InputError(f"{source}: {bad} voxels are NaN or infinite; save the mask with whole label values")
    whole = np.rint(mask)
    off = int(np.count_nonzero((np.abs(mask - whole) > _ROUNDING) | (np.abs(whole) > _LARGEST)))
    if off:
        unit = bool(mask.min() >= 0 and mask.max() <= 1)
        hint = " (all are 0 to 1: it looks like probabilities or an image)" * unit
        raise InputError(
            f"{source}: {off} voxels are not whole label values{hint}; save the mask without interpolation"
        )
    return whole.astype(np.int64)


def labels_by_colour(pixels: NDArray[Any], labels: LabelSet, source: str) -> NDArray[np.uint8]:
    """Return label values (pages, H, W) from a mask drawn in the colours of its label set.

    Args:
        pixels: (pages, H, W, 3), red, green and blue from 0 to 255.
        labels: The label set.
        source: The file, for messages.

    Raises:
        InputError: A pixel has another colour.
    """
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    packed = (red << 16) | (green << 8) | blue
    known = [(red << 16) | (green << 8) | blue for red, green, blue in labels.colours]
    other = ~np.isin(packed, known)
    if other.any():
        found = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed[other])]
        table = ", ".join(f"{name} {colour}" for name, colour in zip(labels.tissues, labels.colours, strict=True))
        raise InputError(
            f"{source}: {np.count_nonzero(other)} pixels are coloured; {some_of(found)} are no colours of label set "
            f"{labels.name!r}: save a mask as grey values or with a palette of its colours ({table})"
        )
    return np.select([packed == colour for colour in known], range(len(known))).astype(np.uint8)
