"""The page of `scarforge compare`: what the label maps of two or more networks tell, and no more."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl

from common.pages.kit import Picture, Table, render, svg_picture, svg_style, table
from common.pages.words import count, interval, number, words
from imaging.labels import LabelSet
from segmentation.comparison.arms import Comparison
from segmentation.comparison.text import DIFFERENCE_HEADINGS, SUMMARY_HEADINGS, difference_lines, summary_lines
from segmentation.report.charts import forest_figure, pairs_figure
from segmentation.scoring.scores import RULES

_RULE = "positive"
Row = Mapping[Hashable, Any]


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
