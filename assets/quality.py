"""Whether synthetic slices are fit to train on: realism, agreement with their mask, variety, copies, and their use.

What synthetic slices must fulfil before anything is trained on them, and what is only told.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from assets.parts.checks import FOLDS, OWNERS, beats, check_spec
from assets.parts.inputs import open_slices, open_studies
from assets.quality_instruments import JUDGE, instruments_of, teach_by_synthetic, utility_config
from common.pages import words as texts
from common.pages.words import words
from common.tables import write_csv
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, image, number
from imaging.labels import Tissue

if TYPE_CHECKING:
    from engine.settings import QualitySettings, Settings
    from gan.quality.proof import Material, QualityReport
    from gan.quality.slices import Images
    from imaging.slices.part import PartSlices
    from runtime.compute import Compute


_WALLS, _LESIONS = ("cavity", "normal_myocardium"), ("infarct", "no_reflow")
_AGAINST_PAINT = ("frechet", "likeness")
_NO_GENERATOR = " Not judged: slices of a folder come without a generator that could draw validation slices again."
LEAST_OF_A_JUDGE = 0.2  # Dice of a lesion on real slices, below which a segmenter cannot tell whether one was drawn


def quality_checks(report: "QualityReport", settings: "Settings") -> tuple[Check, ...]:
    """Return the checks of a report; `adherence`, `no_copies` and `variety` block."""
    limits = settings.quality
    return (
        _adherence(report, limits),
        _no_copies(report, settings),
        _variety(report, limits),
        *_against_mean_paint(report),
        _as_in_real(report),
        _told_apart(report, limits),
    )


def _adherence(report: "QualityReport", limits: "QualitySettings") -> Check:
    """Judge lesions by how well the judge finds real ones; one that does not find these is no judge of lesions."""
    found, real = (
        {t: _agreement(report, t, subject) for t in (*_WALLS, *_LESIONS)} for subject in ("synthetic", "real")
    )
    minimum = {"cavity": limits.minimum_adherence_cavity, "normal_myocardium": limits.minimum_adherence_myocardium}
    judged = [tissue for tissue in _LESIONS if real[tissue] >= LEAST_OF_A_JUDGE and np.isfinite(found[tissue])]
    minimum |= {tissue: limits.minimum_adherence_lesions * real[tissue] for tissue in judged}
    figures = {f"{tissue}/dice": dice for tissue, dice in found.items()}
    figures |= {f"{tissue}/real_slices": dice for tissue, dice in real.items()}
    figures |= {f"{tissue}/minimum": dice for tissue, dice in minimum.items()}
    passed = all(found[tissue] >= least for tissue, least in minimum.items())
    return Check("adherence", passed, figures, _adherence_in_words(found, real, minimum))


def _agreement(report: "QualityReport", tissue: str, subject: str) -> float:
    """Return the judge's Dice of a tissue; NaN where neither mask nor judge shows any."""
    rows = report.rows(f"adherence/{tissue}", "ventricle", subject)
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def _adherence_in_words(found: Mapping[str, float], real: Mapping[str, float], minimum: Mapping[str, float]) -> str:
    """Say of each tissue what was asked of it, or why it was not judged."""
    asked = [
        f"{words(tissue)} {texts.number(found[tissue], '.2f')} (at least {least:.2f}"
        + (f", by {real[tissue]:.2f} on real slices)" if tissue in _LESIONS else ")")
        for tissue, least in minimum.items()
    ]
    told = f"Dice of mask and what a segmenter trained on real slices only finds: {', '.join(asked)}."
    unjudged = [
        f"{words(tissue)} ({texts.number(found[tissue], '.2f')}; {texts.number(real[tissue], '.2f')} on real slices)"
        for tissue in _LESIONS
        if tissue not in minimum
    ]
    if not unjudged:
        return told
    what = "Lesions not judged" if len(unjudged) == len(_LESIONS) else "Not judged"
    return f"{told} {what}: {texts.listed(unjudged)}, since a judge has at least {LEAST_OF_A_JUDGE:g} on real slices."


def _as_in_real(report: "QualityReport") -> Check:
    """Held against training patients' slices, since those are the hearts that are drawn into."""
    figures, passed = {}, True
    for tissue, limit in _ADHERENCE_LIMITS.items():
        dice = [report.rows(f"adherence/{tissue}", "ventricle", name)["value"] for name in ("synthetic", "training")]
        if all(len(values) for values in dice):
            figures[tissue] = difference = float(dice[0].iloc[0] - dice[1].iloc[0])
            passed &= abs(difference) <= limit
    return Check(
        "adherence_as_in_real",
        passed,
        {**figures, **{f"{tissue}/limit": limit for tissue, limit in _ADHERENCE_LIMITS.items()}},
        "The judge's Dice on synthetic slices is about that on real slices of training patients; differences.",
        warning=True,
    )


def _told_apart(report: "QualityReport", limits: "QualitySettings") -> Check:
    rows = report.table[report.table["measure"] == "auc"]
    found = {str(row["region"]): float(row["value"]) for row in rows.to_dict("records")}
    return Check(
        "told_apart",
        all(area <= limits.maximum_told_apart for area in found.values()),
        {**found, "maximum": limits.maximum_told_apart, "pairs": int(rows["images"].sum())},
        "A small network hardly tells drawings from real slices by what was painted: area under its ROC."
        + ("" if found else " Not judged: too few slices to pair." if report.redrawn else _NO_GENERATOR),
        warning=True,
    )


def _no_copies(report: "QualityReport", settings: "Settings") -> Check:
    """Pixels decide: pooled features see the shape too, which a patient's own anatomy shares by design.

    A repainted heart is compared inside its holes, its own patient left out. Transplanted lesions are a donor's by
    design, and block nothing.
    """
    limits = settings.quality
    shares = report.table[report.table["measure"].str.startswith("copies/")]
    figures = {
        f"{row['features']}/{row['subject']}/{row['measure'].removeprefix('copies/')}": float(row["value"])
        for row in shares.to_dict("records")
    }
    region = str(shares["region"].iloc[0])
    found = report.value("copies/copied", region, "synthetic")
    who = "patient, of training, validation or test," if report.all_patients else "training patient"
    return Check(
        "no_copies",
        settings.transplants or (found <= limits.maximum_copied_share and not _of_held_out(report)),
        {"copied_share": found, "maximum": limits.maximum_copied_share, **figures},
        f"Few synthetic {region}s are as near to one {who}, and to no other, as 1 % of real patients are."
        + (" Not judged: transplanted lesions are their donors'." if settings.transplants else "")
        + (" None is an outright copy of a patient of validation or test." if report.all_patients else ""),
    )


def _of_held_out(report: "QualityReport") -> float:
    """Return the share of outright copies of validation and test patients, of which a single one is too many."""
    rows = report.table[(report.table["measure"] == "copies/of_held_out") & (report.table["subject"] == "synthetic")]
    return float(rows["value"].sum())


def _variety(report: "QualityReport", limits: "QualitySettings") -> Check:
    found = report.value("variety_ratio", "ventricle", "synthetic")
    figures = {"different_masks": found, "minimum": limits.minimum_variety}
    if report.redrawn:
        figures["same_mask"] = report.value("variety_ratio", "ventricle", "same_mask")
    return Check(
        "variety",
        found >= limits.minimum_variety,
        figures,
        "Synthetic ventricles differ from one another, relative to how much real patients do.",
    )


def _against_mean_paint(report: "QualityReport") -> tuple[Check, Check]:
    """Return the two checks inside the ventricle: outside it, with context, both show the same real background.

    Neither is SSIM or PSNR, which charge for grain other than the real slice's and so prefer a painting without any.
    """
    if not report.redrawn:
        frechet, likeness = (Check(f"beats_mean_paint_{what}", True, {}, _NO_GENERATOR) for what in _AGAINST_PAINT)
        return frechet, likeness
    measure, name = _likeness(report)
    painted = "validation slices, against tissues painted with their mean."
    return (
        beats(
            "beats_mean_paint_frechet",
            report.value("frechet", "ventricle", "pix2pix"),
            report.value("frechet", "ventricle", "mean_paint"),
            f"Fréchet distance inside the ventricle to real {painted}",
            higher_is_better=False,
        ),
        beats(
            "beats_mean_paint_likeness",
            report.value(measure, "ventricle", "pix2pix"),
            report.value(measure, "ventricle", "mean_paint"),
            f"{name} inside the ventricle, {painted}",
            higher_is_better=False,
        ),
    )


def _likeness(report: "QualityReport") -> tuple[str, str]:
    """Return the measure of likeness that decides, and its name: LPIPS where a network's weights are given."""
    lpips = report.rows("lpips", "ventricle", "pix2pix")
    if lpips.empty:
        return "patches", "Distance of patches (sliced Wasserstein)"
    return "lpips", f"{lpips['features'].iloc[0]} to the real slice of the same mask"


# Of the judge's Dice on synthetic slices, to either side of that on real ones: more is too plain a drawing.
_ADHERENCE_LIMITS = {"normal_myocardium": 0.02, "infarct": 0.05, "no_reflow": 0.05}
_BLOCKING = ("adherence", "no_copies", "variety")


@dg.asset(
    deps=["synthetic_slices", JUDGE.name],
    partitions_def=FOLDS,
    group_name="quality",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version="6",
    pool="gpu",
    check_specs=[
        *(check_spec(name, asset="synthesis_quality", blocking=True) for name in _BLOCKING),
        check_spec("beats_mean_paint_frechet", asset="synthesis_quality"),
        check_spec("beats_mean_paint_likeness", asset="synthesis_quality"),
        check_spec("adherence_as_in_real", asset="synthesis_quality"),
        check_spec("told_apart", asset="synthesis_quality"),
    ],
    description="Realism, variety and use of the synthetic slices, their agreement with the mask, and no copies.",
)
def synthesis_quality(context: dg.AssetExecutionContext, forge: Forge) -> dg.MaterializeResult:
    """Measure synthetic slices beside painted tissue means and real slices, and write one page about them."""
    settings = forge.settings()
    config: dict[str, Any] = {"quality": settings.quality.key}
    if (training := utility_config(settings)) is not None:
        config["utility"] = training.model_dump(mode="json")
    return forge.materialise(context, lambda folder: _assess(context, forge, folder), config)


def _assess(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Outcome:
    from engine.worker.accelerator import borrowed
    from gan.quality.page import write_quality_page
    from gan.quality.proof import assess_quality

    settings, fold = forge.settings(), require_fold(context)
    taught = teach_by_synthetic(context, forge, folder)  # a process of its own, which takes the device
    with borrowed(settings.device, settings.precision, forge.accelerator_lock(), settings.deterministic) as compute:
        material = _material(forge, fold, compute)
        instruments = instruments_of(forge, fold, material.validation, compute, taught)
        report = assess_quality(material, instruments, settings.split_seed, settings.quality.slices)
        del instruments
    checks = quality_checks(report, settings)
    write_csv(report.table, folder / "quality.csv")
    write_csv(report.copies.worst, folder / "closest_pairs.csv")
    verdicts = [(check.name, check.passed, check.description) for check in checks]
    title = f"{forge.source}, profile {forge.profile}, fold {fold}"
    title += (
        ", transplanted lesions" if settings.transplants else ", slices of a folder" if settings.from_folder else ""
    )
    write_quality_page(report, folder / "quality.html", title, verdicts)
    save_pairs(report, forge, folder / "pairs.png")
    facts, run_id = _facts(context, forge, folder, report)
    return Outcome(facts, checks, run_id)


def _material(forge: Forge, fold: int, compute: "Compute") -> "Material":
    from gan.generation.hole import mean_paint
    from gan.quality.proof import Material

    settings = forge.settings()
    training, validation = _real_slices_with_ventricle(forge, fold)
    images, masks = validation.images, validation.masks
    everyone = _all_slices_with_ventricle(forge, fold) if settings.from_folder else None
    painter = mean_paint(open_slices(forge, "augmented_slices", fold))
    # Where the real background is kept, the yardstick is given it too.
    context, margin_px = settings.pix2pix.context or not settings.generates, settings.pix2pix.hole_margin_px
    return Material(
        open_slices(forge, "synthetic_slices", fold),
        training,
        validation,
        _redrawn(forge, fold, validation, compute),
        painter.in_context(images, masks, margin_px, settings.paints) if context else painter(masks),
        everyone,
    )


def _all_slices_with_ventricle(forge: Forge, fold: int) -> "PartSlices":
    """Return the slices of all patients of the fold, whom the maker of a folder's slices may have seen."""
    from imaging.slices.part import PartSlices

    store = open_slices(forge, "real_slices", fold)
    return PartSlices.of(store, np.flatnonzero(store.masks().any(axis=(1, 2))))


def _redrawn(forge: Forge, fold: int, validation: "PartSlices", compute: "Compute") -> "Images | None":
    from gan.generation.slices import redraw
    from gan.generation.transplant import retransplant

    settings, images, masks = forge.settings(), validation.images, validation.masks
    if settings.from_folder:
        return None
    if settings.transplants:
        return retransplant(images, masks, settings.transplant)
    model = forge.finished("pix2pix", fold).model()
    return redraw(model, images, masks, compute, settings.split_seed, settings.synthesis)


def _real_slices_with_ventricle(forge: Forge, fold: int) -> tuple["PartSlices", "PartSlices"]:
    """Return training and validation patients' slices that show the ventricle; without one there is nothing to draw.

    Where lesions alone are painted, a validation slice without any would be drawn again as it is, and is left out.
    """
    from imaging.slices.part import PartSlices

    store = open_slices(forge, "real_slices", fold)
    seen = np.flatnonzero(store.masks().any(axis=(1, 2)))
    rows = [np.intersect1d(store.rows_of(part), seen) for part in ("train", "validation")]
    training, validation = (PartSlices.of(store, part) for part in rows)
    if forge.settings().paints == "lesion":
        validation = validation.at(np.flatnonzero((validation.masks >= Tissue.INFARCT).any(axis=(1, 2))))
    return training, validation


def save_pairs(report: "QualityReport", forge: Forge, path: Path) -> None:
    """Save validation slices in three rows: real, drawn by Pix2Pix from the same mask, painted with means."""
    from imaging.overlay import contact_sheet

    labels = open_studies(forge).label_set
    images = np.concatenate(list(report.gallery.values()))
    titles = [name for name, row in report.gallery.items() for _ in row]
    columns = len(images) // len(report.gallery)
    sheet = contact_sheet(images, np.zeros(images.shape, np.uint8), labels, columns, titles)
    sheet.save(path, optimize=True)


_LEADING = tuple(f"synthetic/ventricle/{name}" for name in ("frechet", "adherence/infarct", "copies/copied"))


def _facts(
    context: dg.AssetExecutionContext, forge: Forge, folder: Path, report: "QualityReport"
) -> tuple[dict[str, Fact], str]:
    files = [folder / name for name in ("quality.html", "quality.csv", "closest_pairs.csv", "pairs.png")]
    scores = _scores(report)
    facts = {
        "page": Fact("file", "quality.html"),
        "quality": Fact.table(report.table),
        "closest_pairs": Fact.table(report.copies.worst),
        "pairs": image(folder / "pairs.png", folder),
    }
    facts |= {name: number(scores[name]) for name in dict.fromkeys([*_LEADING, *scores]) if name in scores}
    run_id = forge.track_evaluation(
        context,
        folder,
        ("synthesis quality",),
        scores,
        files,
        stage="synthesis_quality",
        network=forge.settings().synthesis.method,
        training_set="synthetic",
    )
    return facts, run_id


def _scores(report: "QualityReport") -> dict[str, float]:
    """Return the generator's own figures as `subject/region/measure`, those of the deciding extractor."""
    own = report.table[report.table["subject"].isin(["pix2pix", "synthetic", "same_mask", "ratio"])]
    first = own.drop_duplicates(["subject", "region", "measure"])
    return {
        f"{row['subject']}/{row['region']}/{row['measure']}": float(row["value"]) for row in first.to_dict("records")
    }
