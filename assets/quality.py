"""Whether synthetic slices are fit to train on: realism, agreement with their mask, variety, copies, and their use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from assets.check_specs import check_spec
from assets.folds import FOLDS, OWNERS
from assets.inputs import open_slices, open_split, open_studies
from assets.quality_checks import quality_checks
from assets.quality_instruments import JUDGE, instruments_of, utility_config
from imaging.tables import write_csv
from pipeline.forge import Forge, require_fold
from pipeline.outcome import Fact, Outcome, image, number

if TYPE_CHECKING:
    from gan.quality import Material, PairedSlices, QualityReport
    from training.compute import Compute

_BLOCKING = ("adherence", "no_copies", "variety")


@dg.asset(
    deps=["synthetic_slices", "real_slices", "pix2pix", "augmented_slices", "patient_split", JUDGE],
    partitions_def=FOLDS,
    group_name="synthesis",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version="5",
    pool="gpu",
    check_specs=[
        *(check_spec(name, asset="synthesis_quality", blocking=True) for name in _BLOCKING),
        check_spec("beats_mean_paint_frechet", asset="synthesis_quality"),
        check_spec("beats_mean_paint_likeness", asset="synthesis_quality"),
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
    from gan.quality import assess_quality
    from gan.quality_page import write_quality_page
    from training.compute import choose_compute

    settings = forge.settings()
    compute = choose_compute(settings.device, settings.precision)
    material = _material(forge, require_fold(context), compute)
    instruments = instruments_of(context, forge, folder, material.validation, compute)
    report = assess_quality(material, instruments, settings.split_seed, settings.quality.slices)
    checks = quality_checks(report, settings)
    write_csv(report.table, folder / "quality.csv")
    write_csv(report.copies.worst, folder / "closest_pairs.csv")
    verdicts = [(check.name, check.passed, check.description) for check in checks]
    title = f"{forge.source}, profile {forge.profile}, fold {require_fold(context)}"
    write_quality_page(report, folder / "quality.html", title, verdicts)
    save_pairs(report, forge, folder / "pairs.png")
    return Outcome(_facts(context, forge, folder, report), checks)


def _material(forge: Forge, fold: int, compute: "Compute") -> "Material":
    from gan.generate import redraw
    from gan.mean_paint import mean_paint
    from gan.quality import Material

    settings = forge.settings()
    training, validation = _real_slices_with_ventricle(forge, fold)
    images, masks = validation.images, validation.masks
    painter = mean_paint(open_slices(forge, "augmented_slices", fold))
    # Where Pix2Pix is given the real background, the yardstick is given it too.
    context, margin_px = settings.pix2pix.context, settings.pix2pix.hole_margin_px
    return Material(
        open_slices(forge, "synthetic_slices", fold),
        training,
        validation,
        redraw(forge.finished("pix2pix", fold).model(), images, masks, compute, settings.split_seed),
        painter.in_context(images, masks, margin_px) if context else painter(masks),
    )


def _real_slices_with_ventricle(forge: Forge, fold: int) -> tuple["PairedSlices", "PairedSlices"]:
    """Return training and validation patients' slices that show the ventricle; without one there is nothing to draw."""
    from gan.quality import PairedSlices

    split = open_split(forge, fold)
    store = open_slices(forge, "real_slices", fold)
    seen = store.masks().any(axis=(1, 2))
    cases = store.rows["case_id"]
    rows = [np.flatnonzero(cases.isin(patients).to_numpy() & seen) for patients in (split.train, split.validation)]
    return PairedSlices.of(store, rows[0]), PairedSlices.of(store, rows[1])


def save_pairs(report: "QualityReport", forge: Forge, path: Path) -> None:
    """Save validation slices in three rows: real, drawn by Pix2Pix from the same mask, painted with means."""
    from imaging.overlay import contact_sheet

    labels = open_studies(forge).label_set
    images = np.concatenate(list(report.gallery.values()))
    titles = [name for name, row in report.gallery.items() for _ in row]
    columns = len(images) // len(report.gallery)
    sheet = contact_sheet(images, np.zeros(images.shape, np.uint8), labels, columns, titles)
    sheet.save(path, optimize=True)


def _facts(context: dg.AssetExecutionContext, forge: Forge, folder: Path, report: "QualityReport") -> dict[str, Fact]:
    files = [folder / name for name in ("quality.html", "quality.csv", "closest_pairs.csv", "pairs.png")]
    scores = _scores(report)
    facts = {
        "page": Fact("file", "quality.html"),
        "quality": Fact.table(report.table),
        "closest_pairs": Fact.table(report.copies.worst),
        "pairs": image(folder / "pairs.png", folder),
    }
    facts |= {name: number(value) for name, value in scores.items()}
    run_id = forge.track_evaluation(
        context,
        "synthesis quality",
        scores,
        files,
        stage="synthesis_quality",
        network="pix2pix",
        training_set="synthetic",
    )
    if run_id:
        facts["mlflow_run"] = Fact("url", forge.run_url(run_id))
    return facts


def _scores(report: "QualityReport") -> dict[str, float]:
    """Return the generator's own figures as `subject/region/measure`, those of the deciding extractor."""
    own = report.table[report.table["subject"].isin(["pix2pix", "synthetic", "same_mask", "ratio"])]
    first = own.drop_duplicates(["subject", "region", "measure"])
    return {
        f"{row['subject']}/{row['region']}/{row['measure']}": float(row["value"]) for row in first.to_dict("records")
    }
