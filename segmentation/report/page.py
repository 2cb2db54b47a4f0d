"""The report as one HTML file: no script, no network, every text from the data escaped."""

from collections.abc import Callable
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from common.files import write_text
from common.pages import svg_style
from segmentation.comparison.arms import Comparison
from segmentation.comparison.statistics import one_training_set, sources_of_variation
from segmentation.comparison.text import SUMMARY_HEADINGS, summary_lines
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, ModelKind
from segmentation.report import bland_altman
from segmentation.report import published as beside
from segmentation.report.answer import answers
from segmentation.report.bulls_eye import FEWEST_SLICES, bulls_eye, bulls_eye_picture
from segmentation.report.cases import choose_cases, show_cases
from segmentation.report.charts import curves_picture, forest_figure, pairs_figure
from segmentation.report.material import ReportMaterial, Training
from segmentation.report.methods import methods_paragraphs
from segmentation.report.words import Picture, count, interval, listed, number, svg_picture, upper_first, words

_TEMPLATE = "templates/report.html.j2"


def write_report(material: ReportMaterial, path: Path) -> None:
    """Write the page, whole or not at all; the same material gives the same bytes."""
    page = render_report(material)
    write_text(path, page)


def render_report(material: ReportMaterial) -> str:
    """Return the page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": count,
        "interval": interval,
        "listed": listed,
        "number": number,
        "upper_first": upper_first,
        "words": words,
    }
    template = environment.from_string(
        resources.files("segmentation.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        material=material,
        setup=material.setup,
        folds=[str(fold) for fold in material.comparison.folds],
        seeds=[str(seed) for seed in _seeds(material)],
        sources=sources_of_variation(len(material.comparison.folds), len(_seeds(material)))
        + one_training_set(len(material.comparison.folds)),
        answers=answers(material),
        legend=_legend(material),
        **_published(material),
        headings=SUMMARY_HEADINGS,
        summary=_summary(material),
        differences=_differences(material.comparison),
        forest=_of_pairs(material.comparison, forest_figure, "Differences between the arms with 95 % intervals"),
        pairs=_of_pairs(material.comparison, pairs_figure, "Each patient's Dice in both arms, by network and tissue"),
        **_cases(material),
        **_volumes(material),
        **_segments(material),
        curves=curves_picture(material.trainings),
        trainings=[_training(training) for training in material.trainings],
        methods=methods_paragraphs(material),
    )


def _seeds(material: ReportMaterial) -> list[int]:
    return sorted({training.arm.seed for training in material.trainings}) or list(material.setup.seeds)


def _legend(material: ReportMaterial) -> list[tuple[str, str]]:
    labels = material.labels
    return [(words(name), "#{:02x}{:02x}{:02x}".format(*labels.colours[value])) for value, name in labels.foreground]


def _published(material: ReportMaterial) -> dict[str, Any]:
    return {
        "networks": material.networks,
        "studies": beside.studies(),
        "beside": beside.figures_beside(material),
        "protocols": beside.protocols_beside(material),
    }


def _summary(material: ReportMaterial) -> list[tuple[str, str, list[list[str]]]]:
    """Return network, arm and the cells of its tissues for each arm and yardstick."""
    lines = summary_lines(material.comparison.summary, material.labels)
    return [
        (words(network), words(arm), [[words(tissue), *cells] for _, _, tissue, *cells in rows])
        for (network, arm), rows in groupby(lines, key=lambda line: (line[0], line[1]))
    ]


def _differences(comparison: Comparison) -> list[dict[str, str]]:
    rows = comparison.differences[comparison.differences["rule"] == "positive"]
    return [
        {
            "network": words(row["network"]),
            "tissue": words(row["tissue"]),
            "without": number(row[REAL_ONLY]),
            "with_gan": number(row[REAL_PLUS_GAN]),
            "difference": number(row["difference"], "+.3f"),
            "interval": interval(row["low"], row["high"], "+.3f"),
            "probability": number(row["probability_better"], ".2f"),
            "p": number(row["p_holm"]),
            "pairs": str(row["pairs"]),
            "verdict": str(row["verdict"]),
        }
        for row in rows.to_dict("records")
    ]


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
    table = bland_altman.volumes(material.scores)
    pictures = [
        (tissue, bland_altman.bland_altman_picture(table, tissue))
        for tissue in bland_altman.GROUPS
        if (table["tissue"] == tissue).any()
    ]
    return {"volume_pictures": pictures, "agreements": bland_altman.agreements(table)}


def _segments(material: ReportMaterial) -> dict[str, Any]:
    found = bulls_eye(material.cases, material.labels)
    shown = found.patients > 0
    return {
        "segments": found,
        "fewest_slices": FEWEST_SLICES,
        "segment_picture": bulls_eye_picture(found) if shown else None,
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
