"""The dataset card as one HTML file: no script, no network, every text from the data escaped.

Describes an archive of studies on one page, for whoever is about to train on it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from common.errors import InputError, some_of
from common.files import write_text
from common.guard import guarded
from common.pages.kit import Picture, Table, render, table
from common.pages.words import ABSENT, listed, percent, significant, whole, words
from common.progress import track
from imaging.dataset_card.facts import StudyFacts, study_facts, study_name
from imaging.dataset_card.figures import Tile, intensity_figure, patients_pictured, slice_tile, volume_figure
from imaging.dataset_card.summary import DatasetCard, summarise
from imaging.labels import LabelSet
from imaging.slices.regions import RegionConfig
from imaging.studies.archive import StudyArchive

_LONGEST_MATRIX = 6
Format = Callable[[Any], str]


class _Shown(NamedTuple):
    """How a column of a frame is shown."""

    heading: str
    numeric: bool
    format: Format


def render_page(card: DatasetCard, tiles: Sequence[Tile], volumes: Picture, intensities: Picture) -> str:
    """Return the page as text."""
    return render(
        "imaging.dataset_card",
        "dataset_card.html.j2",
        card=card,
        totals=card.groups.iloc[-1].to_dict(),
        tables=_tables(card),
        legend=[(words(name), card.label_set.css_colour(value)) for value, name in card.label_set.foreground],
        tiles=tiles,
        volumes=volumes,
        intensities=intensities,
    )


def _plain(text: object) -> str:
    return str(text)


def _millimetres(number: float) -> str:
    return f"{number:.4g}"


def _text(heading: str, form: Format = words) -> _Shown:
    return _Shown(heading, False, form)


def _counts(*headings: str) -> dict[str, _Shown]:
    return {heading: _Shown(words(heading), True, whole) for heading in headings}


def _numbers(form: Format, **headings: str) -> dict[str, _Shown]:
    return {name: _Shown(heading, True, form) for name, heading in headings.items()}


_RANGE = {"minimum": "min", "median": "median", "maximum": "max"}
_SLICES_PER_STUDY = _numbers(whole, slices_minimum="per study: min", slices_median="median", slices_maximum="max")
_SIZES = _counts("patients", "studies", "slices") | _SLICES_PER_STUDY


def _tables(card: DatasetCard) -> dict[str, Table]:
    tissues = (
        {"tissue": _text("tissue")}
        | _counts("patients", "studies", "slices")
        | _numbers(percent, share_of_slices="of all slices", share_of_region="of region pixels")
    )
    quartiles = {"minimum": "min", "quartile_1": "quartile 1", "median": "median"}
    volumes = (
        {"tissue": _text("tissue"), "frame": _text("frame"), "group": _text("group")}
        | _counts("studies")
        | {"with_tissue": _Shown("with tissue", True, whole)}
        | _numbers(significant, **quartiles, quartile_3="quartile 3", maximum="max")
    )
    if card.frames.empty:
        del volumes["frame"]
    spacing = {"between": _text("between")} | _numbers(_millimetres, **_RANGE) | _counts("distinct")
    spacing |= {"commonest": _text("commonest (studies)", _plain)}
    extent = {"extent": _text("extent")} | _numbers(significant, **_RANGE)
    clinical = {"field": _text("field")} | _counts("patients") | {"summary": _text("values", _plain)}
    patients = {"case_id": _text("patient", _plain), "group": _text("group")} | _counts("studies")
    patients |= {"frames": _text("frames", _plain), "slices": _text("slices of each study", _plain)}
    if card.frames.empty:
        del patients["frames"]
    rejected = {"case_id": _text("patient", _plain), "reason": _text("reason", _plain)}
    return {
        "groups": page_table("Patients, studies and slices", card.groups, {"group": _text("group")} | _SIZES),
        "frames": page_table("By frame", card.frames, {"frame": _text("frame")} | _SIZES),
        "patients": page_table("Patients, each with what was taken for theirs", card.patients, patients),
        "tissues": page_table("Where each tissue is found", card.tissues, tissues),
        "volumes": page_table("Volumes in mL", card.volumes_ml, volumes, grouped=1),
        "spacing": page_table("Spacing in mm", card.spacing, spacing),
        "extent": page_table("Extent in mm", card.extent_mm, extent),
        "matrix": _matrix_table(card.matrix),
        "clinical": page_table("Fields beside the images", card.clinical, clinical),
        "rejected": page_table("Reasons", card.rejected, rejected),
        "labels": _labels_table(card.label_set),
    }


def page_table(caption: str, frame: pd.DataFrame, columns: dict[str, _Shown], grouped: int = 0) -> Table:
    """Format the columns of a frame that are named, in the order in which they are named.

    The first `grouped` of them name the group of a row.
    """
    records = frame[list(columns)].to_dict("records")
    rows = [[column.format(row[name]) for name, column in columns.items()] for row in records]
    shown = columns.values()
    return table(caption, [c.heading for c in shown], rows, [c.heading for c in shown if not c.numeric], grouped)


def _matrix_table(matrix: pd.DataFrame) -> Table:
    shown, rest = matrix.head(_LONGEST_MATRIX), matrix.iloc[_LONGEST_MATRIX:]
    sizes = [(f"{row.rows} × {row.columns}", row.studies) for row in shown.itertuples(index=False)]
    if len(rest):
        sizes.append((f"{len(rest)} other sizes", rest["studies"].sum()))
    table = pd.DataFrame(sizes, columns=["size", "studies"])
    return page_table("Matrix", table, {"size": _text("rows × columns"), **_counts("studies")})


def _labels_table(labels: LabelSet) -> Table:
    rows = [
        [
            str(value),
            words(tissue),
            labels.clinical_term(tissue),
            listed([words(name) for name, values in labels.official_groups.items() if value in values]) or ABSENT,
        ]
        for value, tissue in enumerate(labels.tissues)
    ]
    headings = ["value", "tissue", "in the clinic", "evaluation groups"]
    return table("Labels", headings, rows, headings)


def write_dataset_card(archive: StudyArchive, path: Path, region: RegionConfig) -> DatasetCard:
    """Write the page and return what it says; the same archive and configuration give the same bytes.

    Args:
        archive: Of at least one study; read once, one study at a time.
        path: The HTML file, written aside and renamed.
        region: How regions will be cut.

    Raises:
        InputError: The archive has been replaced while in use, or the page cannot be written.
    """
    facts, tiles, problems = _read(archive, region)
    card = summarise(archive, facts, region)
    card.warnings[:0] = [f"Not described: {problem}" for problem in problems]
    volumes = volume_figure(facts, archive.groups(), archive.label_set)
    page = render_page(card, tiles, volumes, intensity_figure(facts, archive.label_set, region))
    write_text(Path(path), page)
    return card


def _read(archive: StudyArchive, region: RegionConfig) -> tuple[list[StudyFacts], list[Tile], list[str]]:
    """Return the facts of all studies, the pictures, and one line for each study that cannot be described."""
    pictured = patients_pictured(archive.groups())
    facts: list[StudyFacts] = []
    problems: list[str] = []
    tiles: dict[str, Tile | None] = dict.fromkeys(pictured)
    for case_id, frame in track(archive.keys(), "describing studies"):
        study = archive.load(case_id, frame)
        with guarded(study_name(case_id, frame), problems.append):
            facts.append(study_facts(study, archive.label_set, region))
            if case_id in tiles and tiles[case_id] is None:
                tiles[case_id] = slice_tile(study, archive.label_set, region)
    if not facts:
        raise InputError(f"no study of source {archive.source!r} can be described: {some_of(problems, most=1)}")
    return facts, [tile for tile in tiles.values() if tile], problems
