"""The dataset card as data: tables and sentences computed from the facts of all studies.

Summarises what a source tells about its patients beside the images.

The dataset card's tables, each from the facts of all studies; numbers stay numbers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from common.errors import some_of
from imaging.dataset_card.cautions import dataset_warnings
from imaging.dataset_card.facts import StudyFacts
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.slices.regions import RegionConfig
from imaging.studies.archive import StudyArchive

_COMMONEST = 4
_LONGEST = 40  # characters of a value
_MOST_CODES = 6
CLINICAL_COLUMNS = ("field", "patients", "summary")


def clinical_table(clinical: pd.DataFrame) -> pd.DataFrame:
    """Return one row a field with how many patients have it and what it holds.

    Numbers give median and range; whole numbers 0 to 9 with few distinct values are codes, such as a Killip class, and
    are counted as words are. A field whose values all differ is not listed: they may be names or dates.

    Args:
        clinical: `case_id` and one text column a field, empty where the patient lacks it.

    Returns:
        Columns field, patients, summary.
    """
    columns = [str(name) for name in clinical.columns if name != "case_id"]
    filled = {name: [str(text).strip() for text in clinical[name] if str(text).strip()] for name in columns}
    rows = [(name, len(values), _summary(values)) for name, values in filled.items() if values]
    return pd.DataFrame(rows, columns=list(CLINICAL_COLUMNS))


def _summary(values: Sequence[str]) -> str:
    numbers = [number for number in map(_number, values) if number is not None]
    if 2 * len(numbers) > len(values) and not _are_codes(numbers):
        return _number_summary(numbers, len(values) - len(numbers))
    counts = pd.Series(values).value_counts()
    if len(counts) == len(values) > _COMMONEST:
        return f"{len(counts)} different values"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown = [f"{_shortened(str(value))}: {count}" for value, count in ordered[:_COMMONEST]]
    rest = len(ordered) - _COMMONEST
    return ", ".join(shown) + (f" and {rest} other values" if rest > 0 else "")


def _number_summary(numbers: Sequence[float], others: int) -> str:
    low, middle, high = (f"{value:.5g}" for value in np.percentile(numbers, [0, 50, 100]))
    text = f"median {middle} ({low} to {high})" if low != high else low
    return f"{text}; {others} not a number" if others else text


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _are_codes(numbers: Sequence[float]) -> bool:
    return len(set(numbers)) <= _MOST_CODES and all(value in range(10) for value in numbers)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


ALL = "all"
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


@dataclass(frozen=True, eq=False)
class DatasetCard:
    """What an archive holds; columns are described where each table is made, in `imaging.dataset_card.summary`.

    Attributes:
        source: Name of the source.
        digest: Of the archive's content.
        label_set: Of every mask.
        region: How regions will be cut.
        unlabelled_slices: Slices that carry no label.
        groups: Patients, studies and slices by patient group; the last row is all of them.
        frames: The same by frame; no rows for LGE.
        patients: Each patient's frames and slices.
        tissues: Where each tissue is found, and its share of the regions' pixels.
        volumes_ml: Spread of each tissue's volume by group and frame.
        spacing: Of the studies' own grids, mm.
        extent_mm: Field of view, and the box around all labels.
        matrix: Matrix sizes with the number of studies.
        clinical: One row a field.
        warnings: What to watch for, the gravest first.
        rejected: `case_id` and `reason` of the studies that could not be used.
    """

    source: str
    digest: str
    label_set: LabelSet
    region: RegionConfig
    unlabelled_slices: int
    groups: pd.DataFrame
    frames: pd.DataFrame
    patients: pd.DataFrame
    tissues: pd.DataFrame
    volumes_ml: pd.DataFrame
    spacing: pd.DataFrame
    extent_mm: pd.DataFrame
    matrix: pd.DataFrame
    clinical: pd.DataFrame
    warnings: list[str]
    rejected: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name, for whoever shows them elsewhere."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, pd.DataFrame)}


def summarise(archive: StudyArchive, facts: Sequence[StudyFacts], region: RegionConfig) -> DatasetCard:
    """Compute the card of an archive from the facts of all its studies."""
    labels, groups = archive.label_set, archive.groups()
    rejected = [(_encodable(study.case_id), _encodable(study.reason)) for study in archive.rejected]
    return DatasetCard(
        source=archive.source,
        digest=archive.digest,
        label_set=labels,
        region=region,
        unlabelled_slices=unlabelled_slices(facts),
        groups=group_table(facts, groups, labels),
        frames=frame_table(facts),
        patients=patient_table(facts, groups),
        tissues=tissue_table(facts, labels),
        volumes_ml=volume_table(facts, groups, labels),
        spacing=spacing_table(facts),
        extent_mm=extent_table(facts),
        matrix=matrix_table(facts),
        clinical=clinical_table(archive.clinical()),
        warnings=dataset_warnings(
            facts, groups, labels, region, len(rejected), [_encodable(note) for note in archive.notes()]
        ),
        rejected=pd.DataFrame(rejected, columns=["case_id", "reason"]),
    )


def _encodable(text: str) -> str:
    """Return a text that pandas and UTF-8 can hold: names of files that are not UTF-8 contain lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
