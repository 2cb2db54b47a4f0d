"""Whether synthetic slices are fit to train on: realism, agreement with their mask, and the yardstick."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from assets.checks import beats
from assets.folds import FOLDS, OWNERS
from assets.inputs import open_slices, open_split, open_studies
from pipeline.forge import Forge, require_fold
from pipeline.outcome import Check, Fact, Outcome, image, number

if TYPE_CHECKING:
    from gan.config import Pix2PixConfig
    from gan.mean_paint import MeanPaint
    from gan.quality import PairedSlices, QualityReport
    from pipeline.settings import QualitySettings
    from segmentation.predict import Segmenter
    from training.compute import Compute

JUDGE = "attention_res_unet_real_only"
Features = Callable[[NDArray[np.floating[Any]]], NDArray[np.floating[Any]]]


@dg.asset(
    deps=["synthetic_slices", "real_slices", "pix2pix", "augmented_slices", "patient_split", JUDGE],
    partitions_def=FOLDS,
    group_name="synthesis",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version="2",
    pool="gpu",
    check_specs=[
        dg.AssetCheckSpec("adherence", asset="synthesis_quality", blocking=True),
        dg.AssetCheckSpec("beats_mean_paint_frechet", asset="synthesis_quality"),
        dg.AssetCheckSpec("beats_mean_paint_ssim", asset="synthesis_quality"),
    ],
    description="Realism of the synthetic slices and their agreement with the mask they were drawn from.",
)
def synthesis_quality(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Measure Fréchet distance, SSIM and PSNR beside painted tissue means, and Dice of a judge trained on real data."""
    config = forge.settings().quality
    return forge.materialise(context, lambda folder: _assess(context, forge, folder), config)


def _assess(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Outcome:
    from gan.generate import redraw
    from gan.mean_paint import mean_paint
    from gan.quality import assess_quality
    from segmentation.predict import load_segmenter
    from training.compute import choose_compute

    fold, settings = require_fold(context), forge.settings()
    compute = choose_compute(settings.device, settings.precision)
    judge = load_segmenter(forge.folder(JUDGE, fold, settings.seeds[0]), compute)
    features, features_name = _features(settings.quality.vgg16_weights, judge, compute)
    training, validation = _real_slices_with_ventricle(forge, fold)
    painter = mean_paint(open_slices(forge, "augmented_slices", fold))
    redrawn = redraw(forge.folder("pix2pix", fold), validation.images, validation.masks, compute, settings.split_seed)
    painted = _painted(painter, validation, settings.pix2pix)
    report = assess_quality(
        open_slices(forge, "synthetic_slices", fold),
        training,
        validation,
        redrawn,
        painted,
        features,
        features_name,
        judge.labels,
        settings.split_seed,
        settings.quality.slices,
    )
    report.table.to_csv(folder / "quality.csv", index=False)
    save_pairs(validation, redrawn, painted, forge, folder / "pairs.png")
    return _outcome(context, forge, folder, report)


def _real_slices_with_ventricle(forge: Forge, fold: int) -> tuple["PairedSlices", "PairedSlices"]:
    """Return training and validation patients' slices that show the ventricle; without one there is nothing to draw."""
    from gan.quality import PairedSlices

    split = open_split(forge, fold)
    store = open_slices(forge, "real_slices", fold)
    cases, masks = store.rows["case_id"], store.masks()
    seen = masks.any(axis=(1, 2))
    parts = []
    for patients in (split.train, split.validation):
        index = np.flatnonzero(cases.isin(patients).to_numpy() & seen)
        parts.append(PairedSlices(store.images(index).astype(np.float32), masks[index]))
    return parts[0], parts[1]


def _painted(painter: "MeanPaint", validation: "PairedSlices", config: "Pix2PixConfig") -> NDArray[np.float32]:
    """Paint the validation masks; where Pix2Pix is given the real background, the yardstick is given it too."""
    if not config.context:
        return painter(validation.masks)
    return painter.in_context(validation.images, validation.masks, config.hole_margin_px)


def save_pairs(
    validation: "PairedSlices",
    redrawn: NDArray[np.float32],
    painted: NDArray[np.float32],
    forge: Forge,
    path: Path,
) -> None:
    """Save validation slices in three rows: real, drawn by Pix2Pix from the same mask, painted with means."""
    from imaging.overlay import contact_sheet

    labels = open_studies(forge).label_set
    chosen = np.argsort(-(validation.masks > 2).sum(axis=(1, 2)), kind="stable")[:6]
    images = np.concatenate([part[chosen] for part in (validation.images, redrawn, painted)])
    titles = [name for name in ("real", "Pix2Pix", "painted means") for _ in chosen]
    sheet = contact_sheet(images, np.zeros(images.shape, np.uint8), labels, columns=len(chosen), titles=titles)
    sheet.save(path, optimize=True)


def _features(weights: str, judge: "Segmenter", compute: "Compute") -> tuple[Features, str]:
    """Take ImageNet VGG16 features where weights are given, else the judge's own encoder, and say which.

    Of the encoder, all stages: its bottleneck alone holds where tissues are and is blind to grain and edges, so
    that it took painted means for more real than real slices of other patients.
    """
    if not weights:
        return judge.stage_statistics, f"encoder stages of {JUDGE} (no ImageNet weights given)"
    from gan.vgg_features import vgg16_features

    return vgg16_features(Path(weights), compute), "ImageNet VGG16"


def _outcome(context: dg.AssetExecutionContext, forge: Forge, folder: Path, report: "QualityReport") -> Outcome:
    table, settings = report.table, forge.settings()
    facts = {"quality": Fact.table(table), "pairs": image(folder / "pairs.png", folder)}
    own = table[table["subject"].isin(["pix2pix", "synthetic"])]
    scores = {
        f"{row['subject']}/{row['region']}/{row['measure']}": float(row["value"]) for row in own.to_dict("records")
    }
    facts |= {name: number(value) for name, value in scores.items()}
    run_id = forge.track_evaluation(
        context,
        "synthesis quality",
        scores,
        [folder / "quality.csv", folder / "pairs.png"],
        stage="synthesis_quality",
        network="pix2pix",
        training_set="synthetic",
    )
    if run_id:
        facts["mlflow_run"] = Fact("url", forge.run_url(run_id))
    return Outcome(facts, (_adherence(report, settings.quality), *_against_mean_paint(report, settings.pix2pix)))


def _adherence(report: "QualityReport", limits: "QualitySettings") -> Check:
    minimum = {
        "cavity": limits.minimum_adherence_cavity,
        "normal_myocardium": limits.minimum_adherence_myocardium,
    }
    found = {tissue: report.value(f"adherence/{tissue}", "ventricle", "synthetic") for tissue in minimum}
    figures = {f"{tissue}/dice": dice for tissue, dice in found.items()}
    figures |= {f"{tissue}/minimum": dice for tissue, dice in minimum.items()}
    return Check(
        "adherence",
        all(found[tissue] >= minimum[tissue] for tissue in minimum),
        figures,
        "A segmenter trained on real slices only finds the tissues where the mask put them.",
    )


def _against_mean_paint(report: "QualityReport", config: "Pix2PixConfig") -> tuple[Check, Check]:
    # With context both are drawn into the same real background: there the ventricle decides.
    region = "ventricle" if config.context else "whole"
    return (
        beats(
            "beats_mean_paint_frechet",
            report.value("frechet", region, "pix2pix"),
            report.value("frechet", region, "mean_paint"),
            f"Fréchet distance ({region}) to real validation slices, against tissues painted with their mean.",
            higher_is_better=False,
        ),
        beats(
            "beats_mean_paint_ssim",
            report.value("ssim", "ventricle", "pix2pix"),
            report.value("ssim", "ventricle", "mean_paint"),
            "SSIM inside the ventricle, validation slices, against tissues painted with their mean.",
        ),
    )
