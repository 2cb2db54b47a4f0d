"""A sweep's results as CSV, Markdown, a plot and one page that needs no other file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from imaging.dataset_card.page import words
from imaging.labels import LabelSet
from imaging.tables import write_csv
from pipeline.sweep_figure import curve_svg
from pipeline.sweep_plan import SweepPoint
from segmentation.sweep_curve import CURVE_RULES, sweep_curve
from training.files import write_atomically

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
    "Differences are to share 0 with the same real patients, paired by patient and seed; p is corrected over all "
    "points and tissues (Holm)."
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
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("pipeline").joinpath("templates/sweep.html.j2").read_text("utf-8")
    )
    drawing = Markup(svg[svg.index("<svg") :])  # noqa: S704 # our own drawing; its texts are escaped by matplotlib
    return template.render(
        title=_title(facts),
        facts=facts,
        notes=facts.notes(),
        best=facts.best(),
        blocks=_blocks(table, facts),
        svg=drawing,
    )


def _title(facts: SweepFacts) -> str:
    return f"How much synthetic data: {words(facts.network)}, {facts.source}, {facts.profile}, fold {facts.fold}"


def _interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    between = f" ({low:{form}} to {high:{form}})" if np.isfinite(low) and np.isfinite(high) else ""
    return _text(value, form) + between


def _text(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else _ABSENT


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
