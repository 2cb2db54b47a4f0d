"""Dice under four rules on the fold's test patients, in each study's own grid, beside three yardsticks.

Which score tables are of today: of the very model that lies there now, and of today's data, code and settings.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.parts.checks import FOLDS, OWNERS, check_spec
from assets.parts.inputs import open_slices, open_studies
from assets.segmenters import seeds_together
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, image, number, text
from engine.record import Record
from segmentation.model_kind import ModelKind

if TYPE_CHECKING:
    from imaging.studies.split import Part
    from runtime.compute import Compute
    from segmentation.scoring.held_out import HeldOutPatients
    from segmentation.scoring.scores import ScoreIdentity


from engine.record import cache_key, is_finished, versions_of

_LEADING = ("infarct", "no_reflow", "cavity")  # of an asset's page
RULES_THAT_JUDGE = ("positive", "pooled", "per_slice")


def scores(name: str) -> dg.AssetsDefinition:
    """Return the asset that scores every seed of one kind of model."""
    kind = ModelKind.of_scores(name)

    @dg.asset(
        name=name,
        deps=[kind.name],
        partitions_def=FOLDS,
        group_name="evaluation",
        kinds={"pandas", "mlflow"},
        owners=OWNERS,
        code_version="7",
        pool="gpu",
        tags={"network": kind.network, "training_set": kind.training_set},
        check_specs=[
            check_spec("beats_all_background", asset=name),
            check_spec("beats_mean_mask", asset=name),
            check_spec("official_rule_beats_all_background", asset=name),
        ],
        description=f"Scores of {kind.name} on the fold's test patients, put back into the studies' own grids.",
    )
    def score(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
        fold, settings = require_fold(context), forge.settings()
        manifest, records = forge.manifest(), {}
        for seed in settings.seeds:
            made_of = score_inputs(forge, kind, fold, seed), score_config(seed, manifest)

            def build(folder: Path, seed: int = seed) -> Outcome:
                return _score(context, forge, folder, kind, seed)

            records[seed] = forge.produce(context, name, fold, seed, *made_of, build)
        return seeds_together(records, forge)

    return score


def score_inputs(forge: Forge, kind: ModelKind, fold: int, seed: int) -> dict[str, Record]:
    """Return the nearest input of the scores of one seed, for their cache key: the model, which names all behind it."""
    return forge.records([(kind.name, fold, seed)])


def score_config(seed: int, manifest: Mapping[str, str]) -> dict[str, Any]:
    """Return what else decides the scores of one seed, for their cache key."""
    return {"seed": seed, "manifest": dict(manifest)}


def _score(context: dg.AssetExecutionContext, forge: Forge, folder: Path, kind: ModelKind, seed: int) -> Outcome:
    from common.files import write_json
    from engine.worker.accelerator import borrowed
    from imaging.slices.part import PartSlices
    from segmentation.prediction.post_processing import judge
    from segmentation.scoring.held_out import write_predictions
    from segmentation.scoring.scores import ScoreIdentity, pixel_scores, score_table, write_scores

    fold, settings = require_fold(context), forge.settings()
    model, patients = forge.finished(kind.name, fold, seed).model(), held_out(forge, fold)
    validation = PartSlices.of_part(patients.store, "validation")
    with borrowed(settings.device, settings.precision, forge.accelerator_lock(), settings.deterministic) as compute:
        probabilities = _probabilities(model, patients.images(), compute)
        of_validation = _probabilities(model, validation.images, compute) if patients.labels.has_lesions else None
    predicted = probabilities.argmax(axis=1).astype(np.uint8)
    own = ScoreIdentity(fold, kind.network, kind.training_set, seed)
    tables = [score_table(patients.cases(predicted), own, patients.labels)]
    for yardstick, masks in patients.yardsticks(settings.split_seed).items():
        tables.append(score_table(patients.cases(masks), ScoreIdentity(fold, yardstick), patients.labels))
    table = pd.concat(tables, ignore_index=True)
    write_scores(folder / "scores.csv", table)
    write_predictions(folder / "predictions.h5", patients.predicted(predicted))
    write_json(folder / "manifest.json", forge.manifest())
    save_overlays(patients, predicted, folder / "overlays.png")
    believed = None
    if of_validation is not None:
        judgement = judge(validation, of_validation, patients.labels)
        believed = _without_unsure_lesions(forge, fold, judgement, patients, probabilities, folder, own)
    pixels = pixel_scores(patients.slices.masks, predicted, patients.labels)
    return _outcome(context, forge, folder, table, believed, pixels, kind, seed)


def _probabilities(model: Path, images: NDArray[np.float32], compute: "Compute") -> NDArray[np.float32]:
    from segmentation.prediction.segmenter import load_segmenter

    return load_segmenter(model, compute).probabilities(images)


def _without_unsure_lesions(
    forge: Forge,
    fold: int,
    judgement: dict[str, Any],
    patients: "HeldOutPatients",
    probabilities: NDArray[np.float32],
    folder: Path,
    own: "ScoreIdentity",
) -> pd.DataFrame:
    """Score the test patients once more without unsure lesions, and keep what that does to the validation patients."""
    from common.files import write_json
    from segmentation.prediction.post_processing import UNSURE_FILE, without_unsure_lesions
    from segmentation.scoring.scores import score_table, write_scores

    judgement["model"] = forge.version(ModelKind(own.network, own.training_set).name, fold, own.seed)
    drawn = probabilities.argmax(axis=1).astype(np.uint8)
    believed = without_unsure_lesions(drawn, probabilities, patients.slices.studies, patients.labels)
    table = score_table(patients.cases(believed), own, patients.labels)
    write_json(folder / UNSURE_FILE, judgement)
    write_scores(folder / "scores_without_unsure_lesions.csv", table)
    return table


def held_out(forge: Forge, fold: int, part: "Part" = "test") -> "HeldOutPatients":
    """Open the patients of a part of a fold, to be scored."""
    from imaging.slices.regions import read_regions
    from segmentation.scoring.held_out import HeldOutPatients

    return HeldOutPatients(
        open_studies(forge),
        open_slices(forge, "real_slices", fold),
        read_regions(forge.finished("real_slices", fold).file("regions.csv")),
        part,
    )


def save_overlays(patients: "HeldOutPatients", predicted: NDArray[np.uint8], path: Path) -> None:
    """Save test slices with the reference above the prediction, those with most lesion first."""
    from engine.worker.pictures import beside_reference, most_lesion

    reference, labels = patients.slices.masks, patients.labels
    chosen = most_lesion(reference, labels)
    images, cases = patients.images()[chosen], list(patients.slices.case_ids[chosen])
    beside_reference(images, reference[chosen], predicted[chosen], labels, cases).save(path, optimize=True)


def dice_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean Dice by network (or yardstick), rule and tissue."""
    dice = table[table["metric"] == "dice"]
    return dice.groupby(["network", "rule", "tissue"], sort=False)["value"].mean().rename("dice").reset_index()


def _named(prefix: str, values: Mapping[tuple[str, str], float]) -> dict[str, float]:
    return {f"{prefix}/{rule}/{tissue}": value for (rule, tissue), value in values.items()}


DiceByName = dict[str, dict[tuple[str, str], float]]


def _by_name(means: pd.DataFrame) -> DiceByName:
    """Return the means as network → (rule, tissue) → Dice."""
    found: DiceByName = {}
    for row in means.to_dict("records"):
        found.setdefault(str(row["network"]), {})[str(row["rule"]), str(row["tissue"])] = float(row["dice"])
    return found


def _outcome(
    context: dg.AssetExecutionContext,
    forge: Forge,
    folder: Path,
    table: pd.DataFrame,
    believed: pd.DataFrame | None,
    pixels: Mapping[str, float],
    kind: ModelKind,
    seed: int,
) -> Outcome:
    from segmentation.scoring.yardsticks import absent_yardsticks

    means = dice_means(table)
    values = _by_name(means)
    own = _named("dice", values[kind.network])
    without = {} if believed is None else _by_name(dice_means(believed))[kind.network]
    wide = means.pivot_table(index=["rule", "tissue"], columns="network", values="dice", sort=False).reset_index()
    run_id = forge.track_evaluation(
        context,
        folder,
        (kind.training_set, kind.network, "scores"),
        own
        | _named("dice_without_unsure_lesions", without)
        | {f"pixels/{name}": value for name, value in pixels.items()},
        [path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".png", ".json")],
        seed=seed,
        stage="evaluation",
        network=kind.network,
        training_set=kind.training_set,
    )
    leading = [name for name in (f"dice/positive/{tissue}" for tissue in _LEADING) if name in own]
    facts = {name: number(own[name]) for name in dict.fromkeys([*leading, *own])}
    facts |= {"dice": Fact.table(wide), "overlays": image(folder / "overlays.png", folder)}
    if absent := absent_yardsticks(table):
        facts["yardsticks"] = text(" ".join(absent))
    facts["pixel_scores"] = Fact.table(pd.DataFrame(list(pixels.items()), columns=["over all pixels", "value"]))
    if believed is not None:
        facts["dice_without_unsure_lesions"] = Fact.table(dice_means(believed))
    checks = (
        _beats_yardstick("beats_all_background", values, kind.network, "all_background", RULES_THAT_JUDGE),
        _beats_yardstick("beats_mean_mask", values, kind.network, "mean_mask", RULES_THAT_JUDGE),
        _beats_yardstick(
            "official_rule_beats_all_background",
            values,
            kind.network,
            "all_background",
            ("official",),
            warning=True,
        ),
    )
    return Outcome(facts, checks, run_id)


def _beats_yardstick(
    name: str,
    values: DiceByName,
    network: str,
    yardstick: str,
    rules: tuple[str, ...],
    warning: bool = False,
) -> Check:
    """Check every tissue under `rules`; a tissue that no test patient has cannot be judged and is named so."""
    rows = []
    for (rule, tissue), ours in values[network].items():
        if rule in rules:
            theirs = values[yardstick].get((rule, tissue), float("nan"))
            beaten = bool(ours > theirs or (np.isnan(ours) and np.isnan(theirs)))
            rows.append({"rule": rule, "tissue": tissue, "ours": ours, "yardstick": theirs, "beaten": beaten})
    figures: dict[str, Any] = {"tissues": [_without_nan(row) for row in rows]}
    description = f"Dice of every tissue above that of {yardstick} under {', '.join(rules)}."
    return Check(name, all(row["beaten"] for row in rows), figures, description, warning)


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}


attention_res_unet_real_only_scores = scores("attention_res_unet_real_only_scores")
halsr_net_real_only_scores = scores("halsr_net_real_only_scores")
attention_res_unet_real_plus_gan_scores = scores("attention_res_unet_real_plus_gan_scores")
halsr_net_real_plus_gan_scores = scores("halsr_net_real_plus_gan_scores")

_READ_FROM_FURTHER_UP = ("real_slices", "studies", "patient_split")


def staleness(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of today, nothing where they are.

    A model may have been trained anew since it was scored, and what the scores were made of may be gone.
    """
    from runtime.model_card import read_model_json

    if lost := _lost(forge, kind, fold, seed):
        return lost
    scored = forge.finished(kind.scores, fold, seed).file("manifest.json")
    if read_model_json(scored.parent, scored.name) != forge.manifest():
        return "made with other data, code or settings"
    return _of_another_model(forge, kind, fold, seed)


def outdated(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    """Say why the scores of one seed are not of what lies there now, whatever their settings."""
    return _lost(forge, kind, fold, seed) or _of_another_model(forge, kind, fold, seed)


def _lost(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    if not is_finished(forge.folder(kind.scores, fold, seed)):
        return "not made yet"
    read = [(kind.name, fold, seed), *((asset, fold, None) for asset in _READ_FROM_FURTHER_UP)]
    missing = [place[0] for place in read if not is_finished(forge.folder(*place))]
    if missing:
        return f"{' and '.join(missing)} they were made of {'is' if len(missing) == 1 else 'are'} gone"
    return ""


def _of_another_model(forge: Forge, kind: ModelKind, fold: int, seed: int) -> str:
    from runtime.model_card import read_model_json

    opened = forge.finished(kind.scores, fold, seed)
    if found := forge.inputs(kind.scores, {forge.key(kind.scores, fold, seed): opened.record}).outdated():
        return f"made of another {found[1].partition('/')[0]} than the present one"
    manifest = read_model_json(opened.file("manifest.json").parent, "manifest.json")
    if opened.record.cache_key == scores_key(forge, kind, fold, seed, manifest):
        return ""
    return f"made of another {kind.name} than the present one, or by other rules"


def scores_key(forge: Forge, kind: ModelKind, fold: int, seed: int, manifest: Mapping[str, str]) -> str:
    """Return the cache key of the scores of one seed made of what lies there now, with the settings of `manifest`."""
    model, config = score_inputs(forge, kind, fold, seed), score_config(seed, manifest)
    return cache_key(scoring_version(kind), versions_of(model), config)


def scoring_version(kind: ModelKind) -> str:
    """Return the code version of a scores asset: scores formed by other rules cannot be set beside each other."""
    definition: dg.AssetsDefinition = globals()[kind.scores]
    return str(definition.code_versions_by_key[definition.key])
