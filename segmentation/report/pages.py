"""The comparison report, and the page of `scarforge compare` on folders of label maps, as one HTML file each.

Neither has a script or needs the network, and every text from the data is escaped.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common.files import write_text
from common.pages.kit import Cells, Marked, Picture, Table, render, svg_picture, svg_style, table
from common.pages.words import count, interval, number, words
from imaging.labels import LabelSet
from segmentation.comparison.arms import Comparison
from segmentation.comparison.statistics import CONFIDENCE, one_training_set, sources_of_variation
from segmentation.comparison.text import DIFFERENCE_HEADINGS, SUMMARY_HEADINGS, difference_lines, summary_lines
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, ModelKind
from segmentation.report import bland_altman
from segmentation.report import published as beside
from segmentation.report.answer import KINDS, Row, answers
from segmentation.report.bulls_eye import FEWEST_SLICES, bulls_eye, bulls_eye_picture
from segmentation.report.cases import choose_cases, show_cases
from segmentation.report.charts import curves_picture, forest_figure, pairs_figure
from segmentation.report.material import ReportMaterial, Training
from segmentation.report.methods import methods_paragraphs
from segmentation.scoring.scores import RULES


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


_RULE = "positive"


class _Answer(NamedTuple):
    sentence: str
    kind: str


def render_folders_page(comparison: Comparison, names: Sequence[str], labels: LabelSet) -> str:
    """Return the page as text.

    Args:
        comparison: Of `compare_folders`.
        names: What the folders are called, the first first.
        labels: Of the label maps.
    """
    first, *others = names
    rows = comparison.differences[comparison.differences["rule"] == _RULE].to_dict("records")
    return render(
        "segmentation.report",
        "folders.html.j2",
        title=f"{' and '.join(others)} beside {first}",
        answers=[_answer(row, first) for row in rows],
        notes=comparison.notes,
        tables=list(_tables(comparison, first, labels)),
        pictures=_pictures(comparison) if rows else [],
    )


def _answer(row: Row, first: str) -> _Answer:
    between = interval(row["low"], row["high"], "+.3f")
    figures = f"{number(row['first'])} and {number(row['second'])}, {number(row['difference'], '+.3f')}"
    sentence = (
        f"{words(row['tissue'])}: {row['network']} against {first}: {row['verdict']} (Dice {figures}, 95 % interval "
        f"{between}; {count(int(row['pairs']), 'patient')})"
    )
    kind = next((kind for kind in ("better", "worse") if str(row["verdict"]).startswith(kind)), "none")
    return _Answer(sentence, kind)


def _tables(comparison: Comparison, first: str, labels: LabelSet) -> Iterator[Table]:
    lines = summary_lines(comparison.summary, labels)
    yield table("Dice of every folder, by rule", SUMMARY_HEADINGS, lines, grouped=2)
    for rule in sorted(RULES, key=lambda name: name != _RULE):
        lines = difference_lines(comparison.differences, rule)
        if lines:
            caption = f"Each minus {first}, paired by patient, {words(rule)} rule"
            yield table(caption, DIFFERENCE_HEADINGS, lines, ("verdict",), grouped=1)


def _pictures(comparison: Comparison) -> list[Picture]:
    with mpl.rc_context(svg_style()):
        return [
            svg_picture(forest_figure(comparison), "Differences with 95 % intervals; the tables give the figures"),
            svg_picture(pairs_figure(comparison), "Each patient's Dice in both folders; pairs.csv gives the figures"),
        ]
