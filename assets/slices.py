"""Slices: real ones around the ventricle, augmentations of the training patients', and the training sets of both arms.

What the segmenters train on: two arms, of the same size unless synthetic slices are added to all real ones.
"""

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, check_spec, class_balance, leak_check
from assets.parts.inputs import open_slices, open_split, open_studies, open_varied_slices
from assets.parts.pictures import store_preview
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, number
from imaging.slices.store import SliceStore


@dg.asset(
    deps=["lv_localiser"],
    partitions_def=FOLDS,
    group_name="data",
    kinds={"python", "hdf5"},
    owners=OWNERS,
    code_version="1",
    check_specs=[check_spec("every_patient_has_slices", asset="real_slices", blocking=True)],
    description="128 x 128 regions: around the reference box for training patients, the predicted box for others.",
)
def real_slices(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Cut the regions of every study, intensities clipped to its percentiles and brought to [0, 1]."""
    fold = require_fold(context)
    config = forge.settings().region
    return forge.materialise(context, lambda folder: _cut(folder, forge, fold, code_version_of(context)), config)


def code_version_of(context: dg.AssetExecutionContext) -> str:
    """Return the code version of the asset that is being built."""
    return context.assets_def.code_versions_by_key[context.asset_key] or ""


def _cut(folder: Path, forge: Forge, fold: int, code_version: str) -> Outcome:
    from imaging.slices.regions import write_real_slices, write_regions
    from imaging.studies.preparation import read_boxes

    archive = open_studies(forge)
    split = open_split(forge, fold)
    boxes = read_boxes(forge.finished("lv_localiser", fold).file("boxes.csv"))
    settings = forge.settings()
    path = folder / "slices.h5"
    regions = write_real_slices(path, archive, split, boxes, settings.region, settings.split_seed, code_version)
    write_regions(folder / "regions.csv", regions)
    store = SliceStore.open(path, verify=False)
    missing = sorted(set(archive.groups()) - set(store.rows["case_id"]) - set(split.left_out))
    figures = {"patients": len(archive.groups()), "without_slices": ", ".join(missing) or "none"}
    check = Check("every_patient_has_slices", not missing, figures, "Every patient of the split has slices.")
    facts = store_facts(store, folder) | {
        "slices_by_part": Fact.table(store.rows["part"].value_counts().rename("slices").reset_index())
    }
    return Outcome(facts, (check,))


def store_facts(store: SliceStore, folder: Path) -> dict[str, Fact]:
    """Return what every slice store shows: a contact sheet, its size, and the share of each tissue."""
    masks = store.masks()
    share = np.bincount(masks.ravel(), minlength=store.label_set.num_classes) / masks.size
    tissues = pd.DataFrame({"tissue": store.label_set.tissues, "share_of_pixels": share})
    rarest = [(str(name), float(of_name)) for name, of_name in zip(store.label_set.tissues, share, strict=True)][-2:]
    return {
        "slices": number(len(store)),
        **{f"share_of_{tissue}": number(of_tissue) for tissue, of_tissue in rarest},
        "dagster/row_count": number(len(store)),
        "tissues": Fact.table(tissues, digits=5),
        "preview": store_preview(store, folder),
        "digest": Fact("text", store.digest),
    }


@dg.asset(
    deps=["real_slices"],
    partitions_def=FOLDS,
    group_name="data",
    kinds={"python", "hdf5", "albumentations"},
    owners=OWNERS,
    code_version="1",
    check_specs=[
        check_spec("no_patient_leak", asset="augmented_slices", blocking=True),
        check_spec("class_balance", asset="augmented_slices"),
    ],
    description="Class-balanced augmentations of the training patients' slices.",
)
def augmented_slices(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Augment with albumentations: half the slices with infarct, 46 % with no-reflow, as the source did."""
    fold, settings = require_fold(context), forge.settings()
    config = {
        "augment": settings.augment.model_dump(mode="json"),
        "balance": settings.balance.model_dump(mode="json"),
        "slices": settings.training_slices,
    }
    return forge.materialise(context, lambda folder: _augment(folder, forge, fold, code_version_of(context)), config)


def _augment(folder: Path, forge: Forge, fold: int, code_version: str) -> Outcome:
    from common.processes import worker_processes
    from imaging.augmentation.varied import write_augmented_slices

    settings = forge.settings()
    split = open_split(forge, fold)
    real = open_slices(forge, "real_slices", fold)
    path = folder / "slices.h5"
    write_augmented_slices(
        path,
        real,
        real.rows_of("train"),
        settings.training_slices,
        settings.augment,
        settings.balance,
        settings.split_seed,
        worker_processes(settings.processes),
        code_version,
    )
    store = SliceStore.open(path, verify=False)
    checks = (leak_check(store, split), class_balance(store, settings.balance))
    return Outcome(store_facts(store, folder), checks)


@dg.asset(
    deps=["augmented_slices"],
    partitions_def=FOLDS,
    group_name="real_only",
    kinds={"hdf5"},
    owners=OWNERS,
    code_version="1",
    check_specs=[
        check_spec("no_patient_leak", asset="training_set_real_only", blocking=True),
        check_spec("size_as_configured", asset="training_set_real_only", blocking=True),
    ],
    description="The real-only arm: all augmented slices.",
)
def training_set_real_only(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Take every augmented slice."""
    return _mix(context, forge, forge.settings().arm("real_only"))


@dg.asset(
    deps=["augmented_slices", "synthesis_quality"],
    partitions_def=FOLDS,
    group_name="real_plus_gan",
    kinds={"hdf5"},
    owners=OWNERS,
    code_version="2",
    check_specs=[
        check_spec("no_patient_leak", asset="training_set_real_plus_gan", blocking=True),
        check_spec("size_as_configured", asset="training_set_real_plus_gan", blocking=True),
    ],
    description="The real-plus-GAN arm: augmented slices and synthetic slices, mixed as `mixing.protocol` says.",
)
def training_set_real_plus_gan(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Take augmented slices, part of them or all, and synthetic ones, varied by the same recipe."""
    return _mix(context, forge, forge.settings().arm("real_plus_gan"))


_SAME_SIZE = "Both arms hold the configured total, so that they differ in nothing but what they are made of."
_SIZES = {
    "replace": _SAME_SIZE,
    "synthetic_first": _SAME_SIZE,
    "add": "Both arms hold all real slices; both are trained for as many more steps as one holds synthetic slices.",
}


def _mix(context: dg.AssetExecutionContext, forge: Forge, counts: dict[str, int]) -> dg.MaterializeResult:
    return forge.materialise(context, lambda folder: _write(context, forge, folder, counts), {"counts": counts})


def _write(context: dg.AssetExecutionContext, forge: Forge, folder: Path, counts: dict[str, int]) -> Outcome:
    from imaging.slices.mixing import write_training_set

    fold, settings = require_fold(context), forge.settings()
    parts = [(_open(forge, name, fold), count) for name, count in counts.items()]
    path = folder / "slices.h5"
    write_training_set(path, parts, settings.split_seed, code_version_of(context))
    store = SliceStore.open(path, verify=False)
    split = open_split(forge, fold)
    facts = store_facts(store, folder)
    origins = store.rows["origin"].value_counts().rename_axis("origin").rename("slices").reset_index()
    facts["slices_by_origin"] = Fact.table(origins)
    size = Check(
        "size_as_configured",
        len(store) == sum(counts.values()),
        {"slices": len(store), "configured": sum(counts.values())},
        _SIZES[settings.mixing.protocol],
    )
    return Outcome(facts, (leak_check(store, split), size))


def _open(forge: Forge, name: str, fold: int) -> SliceStore:
    return open_varied_slices(forge, fold) if name == "synthetic_slices" else open_slices(forge, name, fold)
