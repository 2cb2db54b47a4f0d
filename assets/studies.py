"""Studies in, and who is tested on what: the two assets that every fold shares."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.parts.checks import OWNERS, check_spec
from assets.parts.inputs import open_studies
from assets.parts.pictures import split_chart, studies_sheet
from common.progress import say
from common.tables import write_csv
from engine.forge import Forge
from engine.outcome import Check, Fact, Outcome, number

if TYPE_CHECKING:
    from engine.settings import Settings


@dg.asset(
    group_name="data",
    kinds={"python", "hdf5"},
    owners=OWNERS,
    code_version="4",
    check_specs=[check_spec("few_rejected", asset="studies")],
    description="Reads and validates the source's studies and resamples them to 1 x 1 mm in plane.",
)
def studies(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Ingest the source. Its cache key holds a digest of the source's files, so that changed data is read again."""
    from engine.preflight import check_before_run
    from imaging.sources.files import source_digest
    from imaging.sources.table import source_root

    settings = forge.settings()
    root = source_root(forge.source, Path(forge.root) if forge.root else None)
    check_before_run(settings, forge.workspace)
    config = made_with(forge.source, settings, source_digest(root, settings.phantom))
    return forge.materialise(context, lambda folder: _ingest(folder, forge, root), config)


def made_with(source: str, settings: "Settings", files: str) -> dict[str, Any]:
    """Return all that decides what is read: the format, a digest of the source's files, and the settings."""
    options = settings.source.model_dump(mode="json")
    return {"source": source, "files": files, "options": options, "region": settings.region.model_dump()}


def _ingest(folder: Path, forge: Forge, root: Path | None) -> Outcome:
    from engine.settings import FOLDS
    from imaging.dataset_card import write_dataset_card
    from imaging.sources.table import read_source, source_labels
    from imaging.studies.archive import StudyArchive
    from imaging.studies.archive_writer import write_studies

    settings = forge.settings()
    items = read_source(forge.source, root, settings.phantom, settings.source)
    labels = source_labels(forge.source, settings.source)
    write_studies(folder / "studies.h5", items, labels, forge.source, minimum_patients=FOLDS)
    archive = StudyArchive.open(folder / "studies.h5")
    table = archive.table()
    write_csv(table, folder / "studies.csv")
    card = write_dataset_card(archive, folder / "dataset_card.html", settings.region)
    rejected = [{"case_id": study.case_id, "reason": study.reason} for study in archive.rejected]
    for study in archive.rejected:
        say(f"    left out {study.case_id}: {study.reason}")
    for note in archive.notes():
        say(f"    warning: {note}")
    facts = {
        "middle_slices": studies_sheet(archive, folder),
        "patients": number(table["case_id"].nunique()),
        "slices": number(int(table["slices"].sum())),
        "studies_left_out": number(len(rejected)),
        "dataset_card": Fact("file", "dataset_card.html"),
        "watch_for": Fact("markdown", "\n".join(f"* {warning}" for warning in card.warnings) or "nothing noticed"),
        "groups": Fact.table(card.groups),
        "tissues": Fact.table(card.tissues),
        "volumes_ml": Fact.table(card.volumes_ml, digits=1),
        "spacing_mm": Fact.table(card.spacing),
        "patient_list": Fact.table(card.patients.head(100)),
        "studies": Fact.table(table.head(100)),
        "rejected": Fact("table", rejected) if rejected else Fact("text", "none"),
    }
    figures = {"read": len(table), "rejected": len(rejected), "reasons": rejected}
    check = Check("few_rejected", not rejected, figures, "No study of the source had to be left out.", warning=True)
    return Outcome(facts, (check,))


@dg.asset(
    deps=["studies"],
    group_name="data",
    kinds={"python"},
    owners=OWNERS,
    code_version="1",
    check_specs=[check_spec("parts_are_disjoint", asset="patient_split", blocking=True)],
    description="Five folds by patient, stratified by normal, infarct and no-reflow, each with a validation part.",
)
def patient_split(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Split patients; no patient is in two parts of a fold, and each is tested in exactly one fold."""
    settings = forge.settings()
    config: dict[str, Any] = {"split_seed": settings.split_seed, "validation_share": settings.validation_share}
    if settings.training_patients is not None:
        config["training_patients"] = settings.training_patients
    return forge.materialise(context, lambda folder: _split(folder, forge), config)


def _split(folder: Path, forge: Forge) -> Outcome:
    from engine.settings import FOLDS
    from imaging.studies.leakage import with_fewer_patients
    from imaging.studies.split import split_patients, write_splits

    settings = forge.settings()
    archive = open_studies(forge)
    groups = archive.groups()
    splits = split_patients(groups, FOLDS, settings.validation_share, settings.split_seed)
    if (count := settings.training_patients) is not None:
        splits = [with_fewer_patients(split, groups, count, settings.split_seed) for split in splits]
    write_splits(folder / "patient_split.json", splits, settings.split_seed, archive.digest)
    rows = [
        {"fold": split.fold, "part": part, "group": groups[case], "case_id": case}
        for split in splits
        for part in ("train", "validation", "test")
        for case in getattr(split, part)
    ]
    table = pd.DataFrame(rows)
    counts = table.pivot_table(index=["fold", "part"], columns="group", values="case_id", aggfunc="count")
    twice = table[table.duplicated(["fold", "case_id"], keep=False)]
    tested = table[table["part"] == "test"]["case_id"].value_counts()
    wrong = sorted(set(tested[tested != 1].index) | (set(groups) - set(tested.index)))
    figures = {
        "patients": len(groups),
        "in_two_parts_of_a_fold": twice["case_id"].tolist(),
        "not_tested_once": wrong,
    }
    figures = {
        name: value if not isinstance(value, list) else ", ".join(value) or "none" for name, value in figures.items()
    }
    check = Check("parts_are_disjoint", twice.empty and not wrong, figures, "Every patient is in one part of a fold.")
    numbers = counts.fillna(0).astype(int)
    of_part = table.groupby(["part", "fold"])["case_id"].count().groupby("part").mean()
    facts = {
        "patients_by_part": split_chart(numbers, folder),
        "patients": number(len(groups)),
        "tested_in_a_fold": number(of_part["test"]),
        "validated_on_in_a_fold": number(of_part["validation"]),
        "patients_by_fold": Fact.table(numbers.reset_index()),
    }
    return Outcome(facts, (check,))
