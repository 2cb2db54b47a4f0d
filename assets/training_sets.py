"""What the segmenters train on: two arms, of the same size unless synthetic slices are added to all real ones."""

from pathlib import Path

import dagster as dg

from assets.parts.checks import FOLDS, OWNERS, check_spec, leak_check
from assets.parts.inputs import open_slices, open_split, open_varied_slices
from assets.slices import code_version_of, store_facts
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome
from imaging.slices.store import SliceStore


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
