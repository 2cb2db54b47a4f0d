"""Which metric exists under which rule, for which structures, and in which unit: the one table.

official: per patient in 3-D, EMIDEC's and ACDC's groups; a class that both sides lack scores 1 (distances: 0 mm).
positive: per patient in 3-D, only patients whose reference has the structure; distances to an empty prediction do not
exist and are left out. pooled: over all voxels of all patients. per_slice: slices with the tissue on either side.

EMIDEC's challenge scores Dice, volume difference (mm3), volume difference / reference myocardium volume and, for the
myocardium alone, Hausdorff distance. It has no distance of an empty mask (its code stops); here that is NaN.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from imaging.labels import LabelSet

RULES = ("official", "positive", "pooled", "per_slice")

COUNT_METRICS = ("tp_voxels", "fp_voxels", "fn_voxels")
OVERLAP = ("dice", "jaccard", "precision", "recall")
SURFACE = ("hausdorff", "hausdorff_95", "average_surface_distance")
VOLUMES = ("volume", "reference_volume", "volume_difference_ml")
CHALLENGE_VOLUMES = ("volume_difference", "volume_difference_ratio")
SHARES = ("share_of_myocardium", "reference_share_of_myocardium", "share_of_myocardium_difference")
TRANSMURALITY = tuple(
    name
    for kind in ("mean", "maximum")
    for name in (f"{kind}_transmurality", f"reference_{kind}_transmurality", f"{kind}_transmurality_difference")
)
EJECTION = ("ejection_fraction", "reference_ejection_fraction", "ejection_fraction_difference")
DETECTION = ("sensitivity", "specificity")  # of "this patient has it"; a single voxel is enough


class Structures(StrEnum):
    """What is scored: see `structures`."""

    TISSUES = "tissues"
    GROUPS = "groups"
    JOINED = "joined"
    OUTLINED = "outlined"
    LESIONS = "lesions"
    SCAR = "scar"
    CAVITY = "cavity"


class Level(StrEnum):
    """What one row of the table of scores stands for."""

    STUDY = "study"
    SLICE = "slice"
    PATIENT = "patient"  # both frames of a cine patient together
    ALL = "all"  # all patients together


class Entry(NamedTuple):
    """Metrics that exist under a rule."""

    rule: str
    level: Level
    structures: Structures
    metrics: tuple[str, ...]


METRIC_TABLE = (
    Entry("official", Level.STUDY, Structures.GROUPS, OVERLAP + CHALLENGE_VOLUMES + VOLUMES),
    Entry("official", Level.STUDY, Structures.OUTLINED, SURFACE),
    Entry("official", Level.STUDY, Structures.LESIONS, SHARES),
    Entry("official", Level.STUDY, Structures.SCAR, TRANSMURALITY),
    Entry("official", Level.PATIENT, Structures.CAVITY, EJECTION),
    Entry("official", Level.ALL, Structures.LESIONS, DETECTION),
    Entry("positive", Level.STUDY, Structures.TISSUES, OVERLAP + SURFACE + VOLUMES),
    Entry("positive", Level.STUDY, Structures.JOINED, SURFACE + VOLUMES),
    Entry("positive", Level.STUDY, Structures.LESIONS, SHARES),
    Entry("positive", Level.STUDY, Structures.SCAR, TRANSMURALITY),
    Entry("pooled", Level.STUDY, Structures.TISSUES, COUNT_METRICS),
    Entry("pooled", Level.ALL, Structures.TISSUES, OVERLAP),
    Entry("per_slice", Level.SLICE, Structures.TISSUES, OVERLAP),
)

UNITS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(OVERLAP + DETECTION + ("volume_difference_ratio",), "")
    | dict.fromkeys(COUNT_METRICS, "voxels")
    | dict.fromkeys(SURFACE, "mm")
    | dict.fromkeys(VOLUMES, "mL")
    | {"volume_difference": "mm3"}
    | dict.fromkeys(SHARES + TRANSMURALITY + EJECTION, "%")
)


def metric_bounds(metric: str) -> tuple[float, float]:
    """Return what the mean of a metric cannot leave: 0 to 1 or 0 to 100 % for shares, 0 upwards for what has a size.

    Differences are absolute. A predicted ejection fraction may be negative, and so differ by more than 100 %.
    """
    if metric in EJECTION:
        difference = metric.endswith("_difference")
        return (0.0, math.inf) if difference else (-math.inf, 100.0)
    whole = 1.0 if metric in OVERLAP + DETECTION else 100.0 if UNITS[metric] == "%" else math.inf
    return 0.0, whole


def entries(level: Level, rule: str | None = None) -> list[Entry]:
    """Return the rows of the table for one level, of one rule or of all."""
    return [entry for entry in METRIC_TABLE if entry.level == level and rule in (None, entry.rule)]


def structures(which: Structures, labels: LabelSet) -> dict[str, tuple[int, ...]]:
    """Return the label values by name of what is scored.

    Tissues are single labels and groups the official ones. Joined groups have several labels. Outlined groups are those
    whose surface the challenge measures: EMIDEC's myocardium, ACDC's cavity and myocardium. Lesions are the groups
    without normal tissue, and the scar the widest of these. Cine has neither; the cavity counts where frames do.
    """
    groups = {name: tuple(values) for name, values in labels.official_groups.items()}
    tissues: dict[str, tuple[int, ...]] = {name: (value,) for value, name in labels.foreground}
    lesions = {name: values for name, values in groups.items() if name in ("infarction", "no_reflow")}
    chosen: Mapping[Structures, dict[str, tuple[int, ...]]] = {
        Structures.TISSUES: tissues,
        Structures.GROUPS: groups,
        Structures.JOINED: {name: values for name, values in groups.items() if len(values) > 1},
        Structures.OUTLINED: {"myocardium": groups["myocardium"]} if labels.has_lesions else groups,
        Structures.LESIONS: lesions,
        Structures.SCAR: {name: values for name, values in lesions.items() if name == "infarction"},
        Structures.CAVITY: {"cavity": tissues["cavity"]},
    }
    return chosen[which]
