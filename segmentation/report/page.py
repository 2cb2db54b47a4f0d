"""The report as one HTML file: no script, no network, every text from the data escaped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common.files import write_text
from common.pages.kit import Cells, Marked, Picture, Table, render, svg_picture, svg_style, table
from common.pages.words import count, interval, number, words
from segmentation.comparison.arms import Comparison
from segmentation.comparison.statistics import CONFIDENCE, one_training_set, sources_of_variation
from segmentation.comparison.text import SUMMARY_HEADINGS, summary_lines
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, ModelKind
from segmentation.report import bland_altman
from segmentation.report import published as beside
from segmentation.report.answer import KINDS, Row, answers
from segmentation.report.bulls_eye import FEWEST_SLICES, bulls_eye, bulls_eye_picture
from segmentation.report.cases import choose_cases, show_cases
from segmentation.report.charts import curves_picture, forest_figure, pairs_figure
from segmentation.report.material import ReportMaterial, Training
from segmentation.report.methods import methods_paragraphs


def write_report(material: ReportMaterial, path: Path) -> None:
    """Write the page, whole or not at all; the same material gives the same bytes."""
    page = render_report(material)
    write_text(path, page)


def render_report(material: ReportMaterial) -> str:
    """Return the page as text."""
    several = len(_seeds(material)) > 1
    return render(
        "segmentation.report",
        "report.html.j2",
        material=material,
        setup=material.setup,
        folds=[str(fold) for fold in material.comparison.folds],
        seeds=[str(seed) for seed in _seeds(material)],
        sources=sources_of_variation(len(material.comparison.folds), len(_seeds(material)))
        + one_training_set(len(material.comparison.folds)),
        answers=answers(material),
        legend=[(words(name), material.labels.css_colour(value)) for value, name in material.labels.foreground],
        **_published(material),
        summary=_summary(material),
        differences=_differences(material.comparison),
        **_corrected(material.comparison),
        forest=_of_pairs(material.comparison, forest_figure, "Differences between the arms with 95 % intervals"),
        pairs=_of_pairs(material.comparison, pairs_figure, "Each patient's Dice in both arms, by network and tissue"),
        **_cases(material),
        **_volumes(material),
        **_segments(material),
        curves=curves_picture(material.trainings),
        trainings=[_training(training) for training in material.trainings],
        provenance=_provenance(material),
        methods=methods_paragraphs(material),
        over_seeds=", the mean over seeds" if several else "",
    )


def _seeds(material: ReportMaterial) -> list[int]:
    return sorted({training.arm.seed for training in material.trainings}) or list(material.setup.seeds)


def _published(material: ReportMaterial) -> dict[str, Any]:
    headings = ["aspect", "this run", *(study.short for study in beside.studies())]
    return {
        "networks": material.networks,
        "studies": beside.studies(),
        "beside": beside.figures_beside(material),
        "protocols": table("What differs", headings, beside.protocols_beside(material), headings),
    }


def _summary(material: ReportMaterial) -> Table:
    lines = summary_lines(material.comparison.summary, material.labels)
    rows = [[words(network), words(arm), *cells] for network, arm, *cells in lines]
    return table("Dice on test patients", SUMMARY_HEADINGS, rows, grouped=2)


def _differences(comparison: Comparison) -> Table:
    rows: list[Cells] = [
        [
            words(row["network"]),
            words(row["tissue"]),
            number(row[REAL_ONLY]),
            number(row[REAL_PLUS_GAN]),
            number(row["difference"], "+.3f"),
            interval(row["low"], row["high"], "+.3f"),
            number(row["probability_better"], ".2f"),
            number(row["p_holm"]),
            str(row["pairs"]),
            Marked(str(row["verdict"]), KINDS[row["verdict"]]),
        ]
        for row in _positive(comparison)
    ]
    headings = ["network", "tissue", "real only", "real + GAN", "difference", "95 % interval", "P(better)", "p (Holm)"]
    caption = "Dice of real + GAN minus real only, rule “positive”"
    return table(caption, [*headings, "pairs", "verdict"], rows, ("verdict",), grouped=1)


def _corrected(comparison: Comparison) -> dict[str, Any]:
    """Return how many differences are corrected for together, and the threshold that their p must be below."""
    tested = [row for row in _positive(comparison) if np.isfinite(row["p_holm"])]
    return {"comparisons": count(len(tested), "comparison"), "threshold": f"{1 - CONFIDENCE:.2g}"}


def _positive(comparison: Comparison) -> Sequence[Row]:
    return comparison.differences[comparison.differences["rule"] == "positive"].to_dict("records")


def _of_pairs(comparison: Comparison, draw: Callable[[Comparison], Figure], alt: str) -> Picture | None:
    """Return a chart of the paired patients, None where there are none."""
    if not (comparison.differences["rule"] == "positive").any():
        return None
    with mpl.rc_context(svg_style()):
        return svg_picture(draw(comparison), f"{alt}; the tables give the figures")


def _cases(material: ReportMaterial) -> dict[str, Any]:
    choice = choose_cases(material)
    return {"choice": choice, "cases": show_cases(material, choice) if choice else []}


def _volumes(material: ReportMaterial) -> dict[str, Any]:
    found = bland_altman.volumes(material.scores)
    pictures = [
        (tissue, bland_altman.bland_altman_picture(found, tissue))
        for tissue in bland_altman.GROUPS
        if (found["tissue"] == tissue).any()
    ]
    rows: list[Cells] = [
        [
            words(one.tissue),
            words(one.network),
            words(one.training_set),
            str(one.plotted),
            number(one.bias_ml, "+.2f"),
            interval(one.low_ml, one.high_ml, "+.2f"),
            *(str(value) for value in (one.missed, one.invented, one.neither)),
        ]
        for one in bland_altman.agreements(found)
    ]
    headings = ["volume", "network", "training set", "patients", "bias", "limits of agreement", "missed", "invented"]
    caption = "Prediction minus reference in mL"
    agreements = table(caption, [*headings, "on neither side"], rows, ("training set",), grouped=2)
    return {"volume_pictures": pictures, "agreements": agreements}


def _segments(material: ReportMaterial) -> dict[str, Any]:
    found = bulls_eye(material.cases, material.labels)
    shown = found.patients > 0
    return {
        "segments": found,
        "fewest_slices": FEWEST_SLICES,
        "segment_picture": bulls_eye_picture(found) if shown else None,
    }


def _provenance(material: ReportMaterial) -> dict[str, Table]:
    made = material.provenance
    named = {
        "digests": ("Data and code", "of", made.digests),
        "versions": ("Libraries", "library", made.versions),
        "hardware": ("Machine that wrote this report", "part", made.hardware),
    }
    return {
        name: table(caption, [heading, "value"], [[key, value] for key, value in rows.items()], ("value",))
        for name, (caption, heading, rows) in named.items()
    }


def _training(training: Training) -> dict[str, str]:
    card = training.card
    return {
        "network": words(training.arm.network),
        "arm": words(training.arm.training_set),
        "fold": str(training.fold),
        "seed": str(training.arm.seed),
        "slices": f"{card.slices:,}",
        "steps": f"{card.steps:,}",
        "best": f"{card.best_step:,}",
        "validation": number(card.dice.mean),
        "precision": card.precision,
        "digest": card.parents[ModelKind(training.arm.network, training.arm.training_set).slices],
        "run_url": training.run_url,
        "scores_url": training.scores_url,
    }
