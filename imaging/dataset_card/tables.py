"""The dataset card's tables, each from the facts of all studies; numbers stay numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from imaging.dataset_card.facts import StudyFacts
from imaging.errors import some_of
from imaging.labels import PATIENT_GROUPS, LabelSet

ALL = "all"
_COMMONEST = 4
_DIGITS = 3  # of a millimetre: headers hold single-precision numbers


def group_table(facts: Sequence[StudyFacts], groups: Mapping[str, str], labels: LabelSet) -> pd.DataFrame:
    """Return patients, studies and slices of each patient group, and of all.

    Columns: group, patients, studies, slices, slices_minimum, slices_median, slices_maximum (per study).

    Args:
        facts: Of all studies.
        groups: Group by patient.
        labels: Groups that hold nobody are left out where there can be no lesions.
    """
    shown = [g for g in PATIENT_GROUPS if labels.has_lesions or g in groups.values()]
    rows = [{"group": g, **_sizes([f for f in facts if groups[f.case_id] == g])} for g in shown]
    return pd.DataFrame([*rows, {"group": ALL, **_sizes(facts)}])


def patient_table(facts: Sequence[StudyFacts], groups: Mapping[str, str]) -> pd.DataFrame:
    """Return each patient's studies, so that files of two patients taken for one, or of one for two, are seen.

    Columns: case_id, group, studies, frames (their names), slices (of each study, in the order of frames).

    Args:
        facts: Of all studies.
        groups: Group by patient.
    """
    own = {case_id: [f for f in facts if f.case_id == case_id] for case_id in groups}
    return pd.DataFrame(
        [
            {
                "case_id": case_id,
                "group": groups[case_id],
                "studies": len(studies),
                "frames": some_of(f.frame for f in studies) if any(f.frame for f in studies) else "",
                "slices": some_of(f.shape[0] for f in studies),
            }
            for case_id, studies in own.items()
        ]
    )


def frame_table(facts: Sequence[StudyFacts]) -> pd.DataFrame:
    """Return the same for each frame of cine studies; without rows for LGE."""
    rows = [{"frame": frame, **_sizes([f for f in facts if f.frame == frame])} for frame in frames_of(facts) if frame]
    return pd.DataFrame(rows, columns=["frame", *_sizes(facts)])


def frames_of(facts: Iterable[StudyFacts]) -> list[str]:
    """Return the frames there are, numbers by their value."""
    return sorted({f.frame for f in facts}, key=lambda frame: (int(frame) if frame.isdecimal() else -1, frame))


def tissue_table(facts: Sequence[StudyFacts], labels: LabelSet) -> pd.DataFrame:
    """Return where each tissue is found, background included.

    Columns: tissue, patients, studies, slices, share_of_slices, share_of_region (of the pixels of all regions; pixels
    outside the image are background).
    """
    pixels = np.sum([f.region_pixels for f in facts], axis=0)
    slices = sum(f.shape[0] for f in facts)
    rows = []
    for value, tissue in enumerate(labels.tissues):
        present = [int(np.count_nonzero(f.voxels[:, value])) for f in facts]
        having = [f.case_id for f, count in zip(facts, present, strict=True) if count]
        row = {"tissue": tissue, "patients": len(set(having)), "studies": len(having), "slices": sum(present)}
        share = float(pixels[value] / pixels.sum())
        rows.append(row | {"share_of_slices": sum(present) / slices, "share_of_region": share})
    return pd.DataFrame(rows)


def volume_table(facts: Sequence[StudyFacts], groups: Mapping[str, str], labels: LabelSet) -> pd.DataFrame:
    """Return the spread of each tissue's volume in mL on the studies' own grids, over the studies of a group.

    Official evaluation groups that join several labels follow the tissues they join. Studies without the tissue count
    as 0 mL.

    Columns: tissue, frame, group, studies, with_tissue, minimum, quartile_1, median, quartile_3, maximum.
    """
    rows = []
    for tissue, values in _volumed(labels).items():
        for frame in frames_of(facts):
            for group in _groups_shown(groups):
                chosen = [f for f in facts if f.frame == frame and group in (ALL, groups[f.case_id])]
                volumes = [float(f.volumes_ml[list(values)].sum()) for f in chosen]
                if volumes:
                    rows.append({"tissue": tissue, "frame": frame, "group": group, **_spread(volumes)})
    return pd.DataFrame(rows)


def spacing_table(facts: Sequence[StudyFacts]) -> pd.DataFrame:
    """Return the spacing of the studies' own grids, in mm, between slices, rows and columns.

    Columns: between, distinct (to 0.001 mm), minimum, median, maximum, commonest (value and number of studies).
    """
    return pd.DataFrame(
        [
            {"between": name, **_distinct([f.spacing_mm[axis] for f in facts])}
            for axis, name in enumerate(("slices", "rows", "columns"))
        ]
    )


def extent_table(facts: Sequence[StudyFacts]) -> pd.DataFrame:
    """Return height and width in mm of the field of view and of the box around all labels of a study.

    Columns: extent, minimum, median, maximum.
    """
    boxes = [f.box for f in facts if f.box]
    extents = {
        "field of view, height": [f.field_mm[0] for f in facts],
        "field of view, width": [f.field_mm[1] for f in facts],
        "labels, height": [box.height for box in boxes],
        "labels, width": [box.width for box in boxes],
    }
    return pd.DataFrame([{"extent": name, **_range(values)} for name, values in extents.items() if values])


def matrix_table(facts: Sequence[StudyFacts]) -> pd.DataFrame:
    """Return the matrix sizes with the number of studies that have them, commonest first."""
    counts = Counter(f.shape[1:] for f in facts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [{"rows": height, "columns": width, "studies": count} for (height, width), count in ordered]
    return pd.DataFrame(rows)


def unlabelled_slices(facts: Iterable[StudyFacts]) -> int:
    """Return how many slices carry no label at all."""
    return sum(int(np.count_nonzero(f.voxels[:, 1:].sum(axis=1) == 0)) for f in facts)


def _sizes(facts: Sequence[StudyFacts]) -> dict[str, float]:
    slices = [f.shape[0] for f in facts]
    counts = {"patients": len({f.case_id for f in facts}), "studies": len(facts), "slices": sum(slices)}
    return counts | {f"slices_{name}": value for name, value in _range(slices).items()}


def _range(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [0, 50, 100]) if values else [np.nan] * 3
    return {"minimum": float(low), "median": float(middle), "maximum": float(high)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    names = ("minimum", "quartile_1", "median", "quartile_3", "maximum")
    spread = dict(zip(names, np.percentile(values, [0, 25, 50, 75, 100]).tolist(), strict=True))
    return {"studies": len(values), "with_tissue": int(np.count_nonzero(values)), **spread}


def _distinct(values: Sequence[float]) -> dict[str, float | str]:
    counts = Counter(round(value, _DIGITS) for value in values)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    commonest = some_of((f"{value:g} ({count})" for value, count in ordered), _COMMONEST)
    return {"distinct": len(counts), **_range(values), "commonest": commonest}


def _volumed(labels: LabelSet) -> dict[str, tuple[int, ...]]:
    joined = {name: values for name, values in labels.official_groups.items() if len(values) > 1}
    return {tissue: (value,) for value, tissue in labels.foreground} | joined


def _groups_shown(groups: Mapping[str, str]) -> list[str]:
    present = [group for group in PATIENT_GROUPS if group in groups.values()]
    return present if len(present) == 1 else [ALL, *present]
