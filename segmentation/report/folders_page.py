"""The page of `scarforge compare`: what the label maps of two or more networks tell, and no more."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined

from common.pages import svg_style
from imaging.labels import LabelSet
from segmentation.comparison.arms import Comparison
from segmentation.comparison.text import DIFFERENCE_HEADINGS, SUMMARY_HEADINGS, difference_lines, summary_lines
from segmentation.report.charts import forest_figure, pairs_figure
from segmentation.report.words import Picture, count, interval, number, svg_picture, words
from segmentation.scoring.scores import RULES

_TEMPLATE = "templates/folders.html.j2"
_RULE = "positive"
Row = Mapping[Hashable, Any]


class TextTable(NamedTuple):
    """A table of the page, its cells as texts."""

    caption: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]


def render_folders_page(comparison: Comparison, names: Sequence[str], labels: LabelSet) -> str:
    """Return the page as text.

    Args:
        comparison: Of `compare_with_first`.
        names: What the folders are called, the first first.
        labels: Of the label maps.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("segmentation.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    first, *others = names
    title = f"{' and '.join(others)} beside {first}"
    rows = comparison.differences[comparison.differences["rule"] == _RULE].to_dict("records")
    return template.render(
        title=title,
        answers=[_sentence(row, first) for row in rows],
        notes=comparison.notes,
        tables=list(_tables(comparison, first, labels)),
        pictures=_pictures(comparison) if rows else [],
    )


def _sentence(row: Row, first: str) -> str:
    between = interval(row["low"], row["high"], "+.3f")
    figures = f"{number(row['first'])} and {number(row['second'])}, {number(row['difference'], '+.3f')}"
    return (
        f"{words(row['tissue'])}: {row['network']} against {first}: {row['verdict']} (Dice {figures}, 95 % interval "
        f"{between}; {count(int(row['pairs']), 'patient')})"
    )


def _tables(comparison: Comparison, first: str, labels: LabelSet) -> Iterator[TextTable]:
    yield TextTable("Dice of every folder, by rule", SUMMARY_HEADINGS, summary_lines(comparison.summary, labels))
    for rule in sorted(RULES, key=lambda name: name != _RULE):
        lines = difference_lines(comparison.differences, rule)
        if lines:
            yield TextTable(f"Each minus {first}, paired by patient, {words(rule)} rule", DIFFERENCE_HEADINGS, lines)


def _pictures(comparison: Comparison) -> list[Picture]:
    with mpl.rc_context(svg_style()):
        return [
            svg_picture(forest_figure(comparison), "Differences with 95 % intervals; the tables give the figures"),
            svg_picture(pairs_figure(comparison), "Each patient's Dice in both folders; pairs.csv gives the figures"),
        ]
