"""A sweep's results as CSV, Markdown, a plot and one page that needs no other file.

The curve of a sweep as SVG text: Dice against the share of synthetic slices, one panel a tissue.

Dice against the make-up of the training set: each point with its interval, and less the point it is measured by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import write_atomically
from common.pages.kit import MARKERS, SERIES, Picture, Table, data_address, render, svg_bytes, svg_style, tidy
from common.pages.kit import table as make_table
from common.pages.words import words
from common.tables import write_csv
from imaging.labels import LabelSet
from pipeline.commands.sweep.plan import SweepPoint
from segmentation.comparison.arms import match_arms, summarise
from segmentation.comparison.statistics import (
    Estimate,
    PairedDifference,
    collect_contributions,
    holm,
    paired_difference,
    verdict,
)

CURVE_RULES = ("positive", "pooled")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "p_holm", "detectable", "pairs", "verdict")


def sweep_curve(scores: pd.DataFrame, measured_by: Mapping[str, str]) -> pd.DataFrame:
    """Return one row a point, tissue and rule, in the order of `scores`.

    Args:
        scores: The tables of scores of all points of one network, each a training set of its own.
        measured_by: The point that a point is measured by, by name; a point without one has no difference.

    Returns:
        `training_set`, `tissue`, `rule`, `mean`, `low`, `high`, `patients`, `folds`, `seeds` and `DIFFERENCE_COLUMNS`;
        Holm corrects over all points and tissues of a rule.

    Raises:
        InputError: Two points share no seed.
    """
    summary = summarise(scores).drop(columns="network")
    found = summary[summary["rule"].isin(CURVE_RULES)].reset_index(drop=True)
    contributions = collect_contributions(scores)
    differences = pd.concat([_point_differences(contributions, rule, measured_by) for rule in CURVE_RULES])
    return found.merge(differences, on=["training_set", "tissue", "rule"], how="left")


def _point_differences(contributions: pd.DataFrame, rule: str, measured_by: Mapping[str, str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for tissue, of_tissue in contributions[contributions["rule"] == rule].groupby("tissue", sort=False):
        for point, reference in measured_by.items():
            matched = match_arms(of_tissue, reference, point)
            if matched is not None:
                without, with_more, _, pairs = matched
                names = {"training_set": point, "tissue": tissue, "rule": rule, "pairs": pairs}
                found = paired_difference(with_more, without)
                known = {"seeds": without.numerator.shape[1], "one_training_set": without.number_of_folds == 1}
                rows.append(names | known | {"found": found, "p": _p_value(found, rule)})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= _in_words(row.pop("found"), adjusted, row["pairs"], row.pop("seeds"), row.pop("one_training_set"))
    return pd.DataFrame(rows, columns=["training_set", "tissue", "rule", *DIFFERENCE_COLUMNS])


def _p_value(found: PairedDifference, rule: str) -> float:
    """Return the larger of interval's and test's p; pooling weighs patients, of which the test knows nothing."""
    return found.p_interval if rule == "pooled" else float(np.fmax(found.p_interval, found.p_value))


def _in_words(
    found: PairedDifference, adjusted: float, pairs: int, seeds: int, one_training_set: bool
) -> dict[str, Any]:
    estimate: Estimate = found.estimate
    return {
        "difference": estimate.value,
        "difference_low": estimate.low,
        "difference_high": estimate.high,
        "p_holm": adjusted,
        "detectable": found.detectable,
        "verdict": verdict(estimate, adjusted, pairs, seeds, one_training_set),
    }


_DASHES = {"positive": "-", "pooled": ":"}
_APART = 0.012  # between the lines of one share, so that their intervals can be told apart


def curve_svg(table: pd.DataFrame, labels: LabelSet) -> str:
    """Return the plot of a table of `write_sweep`: solid with 95 % intervals the positive rule, dotted the pooled."""
    tissues = [tissue for _, tissue in labels.foreground if tissue in set(table["tissue"])]
    with rc_context(svg_style()):
        figure = Figure(figsize=(3.0 * max(len(tissues), 2), 3.6), layout="constrained")
        panels = figure.subplots(1, len(tissues), squeeze=False)[0]
        for axes, tissue in zip(panels, tissues, strict=True):
            _draw(axes, table[table["tissue"] == tissue])
            axes.set_title(words(tissue))
            axes.set_xlabel("share of synthetic slices")
        panels[0].set_ylabel("Dice, test patients")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
        return svg_bytes(figure).decode()


def _draw(axes: Axes, table: pd.DataFrame) -> None:
    counts: Sequence[int] = list(dict.fromkeys(table["real_patients"]))
    for place, patients in enumerate(counts):
        for rule in CURVE_RULES:
            rows = table[(table["real_patients"] == patients) & (table["rule"] == rule)].sort_values("synthetic_share")
            shift = _APART * (2 * place + (rule == "pooled") - len(counts) + 0.5)
            _line(axes, rows, shift, place % len(SERIES), f"{patients} real patients, {rule}", rule)
    shares = sorted(set(table["synthetic_share"]))
    axes.set_xticks(shares, [f"{share:g}" for share in shares], fontsize=8)
    axes.set_xlim(min(shares) - 0.08, max(shares) + 0.08)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(axis="y", labelsize=8)
    tidy(axes, "y")


def _line(axes: Axes, rows: pd.DataFrame, shift: float, series: int, name: str, rule: str) -> None:
    x, y = rows["synthetic_share"].to_numpy(float) + shift, rows["mean"].to_numpy(float)
    colour, filled = SERIES[series], "full" if rule == CURVE_RULES[0] else "none"
    look: dict[str, Any] = {"linestyle": _DASHES[rule], "marker": MARKERS[series], "fillstyle": filled}
    axes.plot(x, y, color=colour, label=name, linewidth=1.6, markersize=4, **look)
    if rule == CURVE_RULES[0]:
        known = np.isfinite(rows["low"].to_numpy(float))
        low, high = (rows[name].to_numpy(float)[known] for name in ("low", "high"))
        axes.vlines(x[known], low, high, color=colour, linewidth=1.0, alpha=0.7)


_ABSENT = "–"
_EQUAL = (
    "Every point had equally many slices and optimiser steps; only what the slices are differs. Share 0 is trained on "
    "augmented real slices only, share 1 on synthetic slices only."
)
_CHOICE = (
    "Choose the share by the Dice on validation patients, which decided nothing but the checkpoints. The curve is that "
    "of the test patients: who picks its highest point picks chance as well."
)
_PAIRED = (
    "Differences are to share 0 with the same real patients, paired by patient and seed. Looking at many points, one "
    "interval in twenty leaves out zero by chance alone: Holm's correction raises the smallest p by as many times as "
    "there are points and tissues, the next by one time less, and so on. Better and worse need an interval without "
    "zero and a corrected p below 0.05, so that an interval without zero beside “no evidence” may be "
    "chance among so many."
)


@dataclass(frozen=True)
class SweepFacts:
    """What is said besides the scores.

    Attributes:
        source: Format of the studies.
        profile: The profile.
        fold: Whose test patients are scored.
        network: What was trained.
        steps: Optimiser steps of every training.
        total: Slices of every training set.
        of_profile: Slices of an arm in the profile.
        seeds: Trained at every point.
        points: The number of real training patients of each point.
        training_patients: Of the fold, whom the generator saw.
        validation: Each point's mean Dice on validation patients.
        labels: The label set.
    """

    source: str
    profile: str
    fold: int
    network: str
    steps: int
    total: int
    of_profile: int
    seeds: tuple[int, ...]
    points: Mapping[SweepPoint, int]
    training_patients: int
    validation: Mapping[SweepPoint, float]
    labels: LabelSet

    @property
    def measured_by(self) -> dict[str, str]:
        """The point without synthetic slices by which each other of the same patients is measured, by name."""
        without = {point.patients: point.name for point in self.points if point.share == 0}
        return {
            point.name: without[point.patients]
            for point in self.points
            if point.share > 0 and point.patients in without
        }

    def notes(self) -> list[str]:
        """Return what a reader must know."""
        found = [_EQUAL, _CHOICE, _PAIRED]
        if self.total != self.of_profile:
            found.append(
                f"The profile's arms have {self.of_profile} slices, so that share 0 here is a smaller real-only arm of "
                f"{self.total}: every point must have equally many slices, and none is repeated."
            )
        if any(count < self.training_patients for count in self.points.values()):
            found.append(
                "Fewer real patients: slices of other patients, and synthetic slices with any other donor, are left "
                f"out. But the generator and the mask simulator were trained on all {self.training_patients} training "
                "patients of the fold, and so were localiser and regions: these points say what this generator adds "
                "where few patients are labelled for the segmenter, not what a generator trained on so few would add. "
                "Validation patients stay the same."
            )
        if len(self.seeds) == 1:
            found.append("With one seed the intervals leave out the variation between trainings.")
        found.append(
            f"Fold {self.fold} alone: the other folds' patients are not tested here, and the intervals leave out how "
            "much training sets vary; verdicts hold for this fold's training patients only."
        )
        return found

    def best(self) -> list[str]:
        """Return, for each number of real patients, which share the validation patients prefer."""
        lines = []
        for count in dict.fromkeys(self.points.values()):
            of_count = {point: self.validation[point] for point in self.points if self.points[point] == count}
            chosen = max(of_count, key=lambda point: of_count[point])
            others = ", ".join(f"{point.share:g}: {value:.3f}" for point, value in of_count.items())
            lines.append(f"{count} real patients: share {chosen.share:g} (mean validation Dice by share {others})")
        return lines


@dataclass(frozen=True)
class Written:
    """The table, and the files that were written."""

    table: pd.DataFrame
    files: tuple[Path, ...]


def write_sweep(folder: Path, scores: pd.DataFrame, facts: SweepFacts) -> Written:
    """Write `sweep.csv`, `sweep.md`, `sweep.svg` and `sweep.html` into `folder`."""
    table = _with_points(sweep_curve(scores, facts.measured_by), facts)
    svg = curve_svg(table, facts.labels)
    texts = {"sweep.md": _markdown(table, facts), "sweep.svg": svg, "sweep.html": _page(table, facts, svg)}
    write_atomically(folder / "sweep.csv", lambda part: write_csv(table, part))
    for name, text in texts.items():
        write_atomically(folder / name, partial(_write, text))
    return Written(table, tuple(folder / name for name in ("sweep.csv", *texts)))


def _with_points(curve: pd.DataFrame, facts: SweepFacts) -> pd.DataFrame:
    """Put each point's share, patients, slices and validation Dice before its scores."""
    rows = [
        {
            "training_set": point.name,
            "real_patients": patients,
            "synthetic_share": point.share,
            **point.counts(facts.total),
            "validation_dice": facts.validation[point],
        }
        for point, patients in facts.points.items()
    ]
    return pd.DataFrame(rows).merge(curve, on="training_set")


@dataclass(frozen=True)
class _Block:
    """One table of the page: a heading, the columns' names and the rows' texts."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]


def _blocks(table: pd.DataFrame, facts: SweepFacts) -> list[_Block]:
    tissues = [tissue for _, tissue in facts.labels.foreground]
    blocks = [_dice(table[table["rule"] == rule], rule, tissues) for rule in CURVE_RULES]
    differences = table[(table["rule"] == CURVE_RULES[0]) & table["difference"].notna()]
    return [*blocks, _differences(differences)] if len(differences) else blocks


def _dice(table: pd.DataFrame, rule: str, tissues: Sequence[str]) -> _Block:
    keys = ["real_patients", "synthetic_share", "augmented_slices", "synthetic_slices", "validation_dice"]
    rows = []
    for values, of_point in table.groupby(keys, sort=False):
        cells = {str(row["tissue"]): _interval(row["mean"], row["low"], row["high"]) for _, row in of_point.iterrows()}
        patients, share, augmented, synthetic, validation = values
        first = [str(patients), f"{share:g}", f"{augmented} + {synthetic}", f"{validation:.3f}"]
        rows.append([*first, *(cells.get(tissue, _ABSENT) for tissue in tissues)])
    counts = table.groupby("tissue")["patients"].max()
    shown = [f"{words(tissue)} (n = {counts[tissue]})" if tissue in counts else words(tissue) for tissue in tissues]
    names = ["real patients", "synthetic share", "real + synthetic slices", "validation Dice", *shown]
    return _Block(f"Dice, {rule} rule", names, rows)


def _differences(table: pd.DataFrame) -> _Block:
    rows = [
        [
            str(row["real_patients"]),
            f"{row['synthetic_share']:g}",
            words(row["tissue"]),
            _interval(row["difference"], row["difference_low"], row["difference_high"], "+.3f"),
            _text(row["p_holm"], ".3f"),
            _text(row["detectable"], ".3f"),
            f"{row['pairs']:.0f}",
            row["verdict"],
        ]
        for _, row in table.iterrows()
    ]
    names = ["real patients", "synthetic share", "tissue", "difference", "p (Holm)", "detectable", "pairs", "verdict"]
    return _Block("Against share 0, positive rule", names, rows)


def _markdown(table: pd.DataFrame, facts: SweepFacts) -> str:
    parts = [f"# {_title(facts)}", *facts.notes(), "Preferred on validation patients: " + "; ".join(facts.best()) + "."]
    for block in _blocks(table, facts):
        lines = [block.names, ["---"] * len(block.names), *block.rows]
        parts += [f"## {block.title}", "\n".join("| " + " | ".join(cells) + " |" for cells in lines)]
    return "\n\n".join(parts) + "\n"


def _page(table: pd.DataFrame, facts: SweepFacts, svg: str) -> str:
    alt = "Dice against the share of synthetic slices, one panel a tissue; the tables give the figures"
    return render(
        "pipeline.commands.sweep",
        "sweep.html.j2",
        title=_title(facts),
        facts=facts,
        notes=facts.notes(),
        best=facts.best(),
        tables=[_as_table(block) for block in _blocks(table, facts)],
        curve=Picture(data_address(svg.encode(), "image/svg+xml"), alt),
    )


def _as_table(block: _Block) -> Table:
    """Return a block as the kit's table, the points of as many real patients together."""
    rows = [[f"{patients} real patients", *cells] for patients, *cells in block.rows]
    texts = ("real + synthetic slices", "tissue", "verdict")
    return make_table(block.title, block.names, rows, texts, grouped=1)


def _title(facts: SweepFacts) -> str:
    return f"How much synthetic data: {words(facts.network)}, {facts.source}, {facts.profile}, fold {facts.fold}"


def _interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    between = f" ({low:{form}} to {high:{form}})" if np.isfinite(low) and np.isfinite(high) else ""
    return _text(value, form) + between


def _text(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else _ABSENT


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
