"""The dataset card as data: tables and sentences computed from the facts of all studies."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd

from imaging.dataset_card.cautions import dataset_warnings
from imaging.dataset_card.clinical import clinical_table
from imaging.dataset_card.facts import StudyFacts
from imaging.dataset_card.tables import (
    extent_table,
    frame_table,
    group_table,
    matrix_table,
    patient_table,
    spacing_table,
    tissue_table,
    unlabelled_slices,
    volume_table,
)
from imaging.labels import LabelSet
from imaging.regions import RegionConfig
from imaging.study_archive import StudyArchive


@dataclass(frozen=True, eq=False)
class DatasetCard:
    """What an archive holds; columns are described where each table is made, in `imaging.dataset_card.tables`.

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
