"""The trainings that are compared: each network on each training set, once for every seed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from assets.parts.checks import FOLDS, OWNERS, check_spec
from assets.parts.inputs import slices_file, split_file
from assets.parts.training_run import as_outcome, train_in_own_process
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, check_results_of, metadata_of
from engine.record import Record
from engine.workspace import packs_of
from segmentation.model_kind import ModelKind

if TYPE_CHECKING:
    from segmentation.training.config import TrainConfig


def segmenter(name: str) -> dg.AssetsDefinition:
    """Return the asset that trains one kind of model for each configured seed."""
    kind = ModelKind.parse(name)

    @dg.asset(
        name=name,
        deps=[kind.slices],
        partitions_def=FOLDS,
        group_name=kind.training_set,
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version="3",
        pool="gpu",
        tags={"network": kind.network, "training_set": kind.training_set},
        check_specs=[check_spec("finite_losses", asset=name, blocking=True)],
        description=kind.about,
    )
    def train(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
        from segmentation.training.start_weights import start_versions  # brings torch, which only a step needs

        fold, settings = require_fold(context), forge.settings()
        config = settings.training(kind.network, kind.training_set)
        parents: dict[str, Record | str] = {**forge.nearest(context), **start_versions(start_of(config, forge))}
        records = {}
        for seed in settings.seeds:
            build = _training(context, forge, kind, fold, seed)
            records[seed] = forge.produce(context, name, fold, seed, {**parents, "seed": str(seed)}, config, build)
        return seeds_together(records, forge)

    return train


def start_of(config: "TrainConfig", forge: Forge) -> Path | None:
    """Return the model folder whose weights a training starts from, which its configuration may name as a pack."""
    from runtime.pack import start_place

    return start_place(config.start_from, packs_of(forge.workspace.home))


def _training(
    context: dg.AssetExecutionContext, forge: Forge, kind: ModelKind, fold: int, seed: int
) -> Callable[[Path], Outcome]:
    def build(folder: Path) -> Outcome:
        inputs = {
            "training_set": slices_file(forge, kind.slices, fold),
            "real_slices": slices_file(forge, "real_slices", fold),
            "patient_split": split_file(forge),
        }
        # What the run is found by in MLflow.
        tags = {"training_set": kind.training_set, "network": kind.network, "stage": "training"}
        config = forge.settings().training(kind.network, kind.training_set)
        if start := start_of(config, forge):
            inputs["start"] = start
        result = train_in_own_process(context, forge, folder, "segmenter", inputs, config, seed, tags)
        return as_outcome(folder, result)

    return build


def seeds_together(records: dict[int, tuple[Record, Path]], forge: Forge) -> dg.MaterializeResult:
    """Return one result for all seeds: facts named by seed where there are several, checks that hold for all."""
    metadata = _of_all_seeds(records, forge) if len(records) > 1 else {}
    checks: dict[str, dict[int, Check]] = {}
    for seed, (record, folder) in records.items():
        prefix = f"seed_{seed}/" if len(records) > 1 else ""
        shown = metadata_of(record.outcome, folder, forge.links)
        metadata |= {prefix + name: value for name, value in shown.items()}
        for check in record.outcome.checks:
            checks.setdefault(check.name, {})[seed] = check
    together = [_all_seeds(name, found) for name, found in checks.items()]
    version = "+".join(record.data_version for record, _ in records.values())
    return dg.MaterializeResult(
        metadata=metadata,
        check_results=check_results_of(Outcome({}, tuple(together))),
        data_version=dg.DataVersion(version),
    )


def _all_seeds(name: str, found: dict[int, Check]) -> Check:
    """Return one check of all seeds: its figures are named by the seed's number."""
    first = next(iter(found.values()))
    if len(found) == 1:
        return first
    figures = {f"seed_{seed}/{key}": value for seed, check in found.items() for key, value in check.figures.items()}
    return Check(name, all(check.passed for check in found.values()), figures, first.description, first.warning)


def _of_all_seeds(records: dict[int, tuple[Record, Path]], forge: Forge) -> dict[str, dg.MetadataValue[Any]]:
    """Return the first seed's picture and the mean over seeds of every number, which Dagster plots as one line."""
    first, folder = next(iter(records.values()))
    pictures = [(name, fact) for name, fact in first.outcome.facts.items() if fact.kind == "image"]
    rows = [
        {name: fact.value for name, fact in record.outcome.facts.items() if fact.kind == "number"}
        for record, _ in records.values()
    ]
    means = pd.DataFrame(rows).mean(numeric_only=True)
    facts = dict(pictures[:1]) | {str(name): Fact("number", float(value)) for name, value in means.items()}
    return metadata_of(Outcome(facts), folder, forge.links)


attention_res_unet_real_only = segmenter("attention_res_unet_real_only")
halsr_net_real_only = segmenter("halsr_net_real_only")
attention_res_unet_real_plus_gan = segmenter("attention_res_unet_real_plus_gan")
halsr_net_real_plus_gan = segmenter("halsr_net_real_plus_gan")
