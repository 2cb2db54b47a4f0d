"""The dataset card: an archive of studies on one HTML page, for whoever is about to train on it.

The page has no script and no network, and every text from the data is escaped. Its charts are SVG, drawn without
`pyplot`, the same bytes each time; pictures of patients are addresses that a page can hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import write_text
from common.guard import guarded
from common.pages.kit import (
    BLUE,
    GREEN,
    INK,
    VERMILION,
    WIDTH_IN,
    Picture,
    Table,
    dark_enough,
    png_address,
    render,
    svg_picture,
    svg_style,
    table,
    tidy,
)
from common.pages.words import ABSENT, listed, percent, significant, whole, words
from common.progress import track
from imaging.dataset_card.facts import WINDOWED_BINS, StudyFacts, region_centre, study_facts, study_name
from imaging.dataset_card.summary import DatasetCard, frames_of, summarise
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.overlay import overlay
from imaging.slices.regions import RegionConfig, study_regions
from imaging.studies.archive import StudyArchive
from imaging.studies.preparation import PreparedStudy, crop_region

_GAP_PX = 3


@dataclass(frozen=True)
class Tile:
    """The middle labelled slice of a patient: bare, and with its labels."""

    picture: Picture
    title: str
    group: str
    detail: str


def patients_pictured(groups: Mapping[str, str], most: int = 12) -> list[str]:
    """Return up to `most` patients: as many of each group as there are, evenly spaced in the order of names."""
    members = {group: sorted(case for case, of in groups.items() if of == group) for group in PATIENT_GROUPS}
    quota = dict.fromkeys(members, 0)
    while sum(quota.values()) < min(most, len(groups)):
        for group, cases in members.items():
            quota[group] += quota[group] < len(cases) and sum(quota.values()) < most
    return [case for group, cases in members.items() for case in _evenly(cases, quota[group])]


def slice_tile(study: PreparedStudy, labels: LabelSet, region: RegionConfig) -> Tile | None:
    """Return the middle labelled slice of a study, or None where it has no contrast."""
    centre, name = region_centre(study), study_name(study.case_id, study.frame)
    try:
        images, _ = study_regions(study.image, centre, region, name)
    except InputError:
        return None
    labelled = np.flatnonzero((study.mask > 0).any(axis=(1, 2)))
    place = int(labelled[len(labelled) // 2]) if len(labelled) else len(images) // 2
    mask = crop_region(study.mask, centre, region.size_px)[place]
    bare, painted = (overlay(images[place], shown, labels) for shown in (np.zeros_like(mask), mask))
    gap = np.full((len(bare), _GAP_PX, 3), 255, np.uint8)
    address = png_address(np.concatenate([bare, gap, painted], axis=1))
    detail = f"slice {place + 1} of {len(images)}"
    alt = f"{name}, {detail}: the region around the ventricle, bare and with its labels"
    return Tile(Picture(address, alt), name, study.group, detail)


def _evenly(cases: Sequence[str], count: int) -> list[str]:
    return [cases[place] for place in np.linspace(0, len(cases) - 1, count).round().astype(int)] if count else []


_GROUP_LOOKS = {"normal": (BLUE, "-"), "infarct": (VERMILION, "--"), "no_reflow": (GREEN, ":")}
_DASHES = ("--", "-", "--", "-.", ":")  # by label value, so that colour alone tells no tissue
_FINE_BINS, _SHOWN_BINS = 4096, 120
_SHOWN_SHARE = (0.001, 0.995)  # of all voxels, on the axis of intensities
_GOLDEN = 0.618034  # spreads neighbours of a sorted column apart
_MOST_POINTS = 2000  # beyond it points are drawn as pixels, so that the page stays small


def volume_figure(facts: Sequence[StudyFacts], groups: Mapping[str, str], labels: LabelSet) -> Picture:
    """Draw each study's volumes, one panel a tissue, by group, or by frame where there is only one group."""
    frames = frames_of(facts)
    by_group = frames == [""] or len(set(groups.values())) > 1
    keys = [g for g in PATIENT_GROUPS if g in groups.values()] if by_group else frames
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        panels = figure.subplots(1, len(labels.foreground), squeeze=False)[0]
        for axes, (value, tissue) in zip(panels, labels.foreground, strict=True):
            columns = [[f.volumes_ml[value] for f in facts if _key(f, groups, by_group) == key] for key in keys]
            _draw_columns(axes, columns, dark_enough(labels.colours[value]))
            axes.set_xticks(range(len(keys)), [words(key) for key in keys], rotation=90 if len(keys) > 6 else 0)
            axes.set(title=words(tissue), xlim=(-0.6, len(keys) - 0.4))
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("mL")
        by = "patient group" if by_group else "frame"
        return svg_picture(
            figure, f"Volume of each tissue in mL, one point a study, by {by}; the table gives the figures"
        )


def intensity_figure(facts: Sequence[StudyFacts], labels: LabelSet, region: RegionConfig) -> Picture:
    """Draw intensities in scanner units (all studies, each study's range) and after windowing (by tissue)."""
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 3.1), layout="constrained")
        before, ranges, after = figure.subplots(1, 3)
        _draw_scanner_units(before, facts)
        _draw_ranges(ranges, facts)
        _draw_windowed(after, facts, labels)
        low, high = region.percentiles
        after.set_xlabel(f"percentiles {low:g} to {high:g} of a study's regions as 0 to 1")
        return svg_picture(
            figure,
            "Three charts: distribution of intensities in scanner units by patient group; percentiles 2, 50 and 98 of "
            "each study; distribution of intensities by tissue in the windowed regions",
        )


def pooled_density(facts: Sequence[StudyFacts], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over studies of the share of voxels in each of the bins between `edges` (B + 1,)."""
    total = np.zeros(len(edges) - 1)
    for f in facts:
        below = np.concatenate([[0.0], np.cumsum(f.image_counts)]) / f.image_counts.sum()
        total += np.diff(np.interp(edges, f.image_edges, below))
    return total / len(facts)


def _draw_scanner_units(axes: Axes, facts: Sequence[StudyFacts]) -> None:
    edges = _shown_edges(facts)
    for group in PATIENT_GROUPS:
        chosen = [f for f in facts if f.group == group]
        if chosen:
            density = pooled_density(chosen, edges)
            colour, dashes = _GROUP_LOOKS[group]
            label = f"{words(group)} ({len(chosen)})"
            axes.stairs(density, edges, color=colour, linestyle=dashes, label=label, linewidth=1.4)
    axes.set(title="Before: whole images", xlabel="scanner units", ylabel="share of voxels", yticks=[])
    axes.set_ylim(bottom=0)
    axes.legend(title="studies", alignment="left")


def _shown_edges(facts: Sequence[StudyFacts]) -> NDArray[np.float64]:
    low, high = min(f.image_edges[0] for f in facts), max(f.image_edges[-1] for f in facts)
    fine = np.linspace(low, high, _FINE_BINS + 1)
    below = np.concatenate([[0.0], np.cumsum(pooled_density(facts, fine))])
    first, last = np.searchsorted(below, _SHOWN_SHARE)
    return np.linspace(fine[max(0, first - 1)], fine[min(last, _FINE_BINS)], _SHOWN_BINS + 1)


def _draw_ranges(axes: Axes, facts: Sequence[StudyFacts]) -> None:
    low, middle, high = np.array(sorted((f.intensities for f in facts), key=lambda triple: triple[1])).T
    places = np.arange(len(facts))
    axes.vlines(places, low, high, color="#b9c4d0", linewidth=min(4.0, 150 / len(facts)))
    axes.plot(places, middle, color=INK, marker="_", markersize=4, linestyle="none")
    axes.set(title="Each study: percentiles 2, 50 and 98", xlabel="studies, by their median", ylabel="scanner units")
    axes.set(xticks=[], xlim=(-1, len(facts)))


def _draw_windowed(axes: Axes, facts: Sequence[StudyFacts], labels: LabelSet) -> None:
    counts = np.sum([f.windowed_counts for f in facts], axis=0)
    edges = np.linspace(0, 1, WINDOWED_BINS + 1)
    for value, tissue in enumerate(labels.tissues):
        if counts[value].any():
            share = counts[value] / counts[value].sum()
            colour = dark_enough(labels.colours[value])
            axes.stairs(share, edges, color=colour, linestyle=_DASHES[value], label=words(tissue), linewidth=1.4)
    inner = counts[:, 1:-1] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.set_ylim(0, 1.35 * max(float(inner.max()), 1e-6))  # room for the legend; the ends hold what was clipped
    axes.set(title="After: regions, by tissue", xlim=(0, 1), ylabel="share of the tissue's pixels", yticks=[])
    if counts.any():
        axes.legend(fontsize=7.5, ncols=2, loc="upper center")


def _draw_columns(axes: Axes, columns: Sequence[Sequence[float]], colour: str) -> None:
    pixels = sum(len(column) for column in columns) > _MOST_POINTS
    for place, column in enumerate(columns):
        spread = place + 0.5 * ((0.5 + np.arange(len(column)) * _GOLDEN) % 1 - 0.5)
        axes.plot(
            spread, sorted(column), "o", color=colour, markersize=3.5, alpha=0.85, markeredgewidth=0, rasterized=pixels
        )
        if column:
            axes.hlines(float(np.median(column)), place - 0.36, place + 0.36, color=INK, linewidth=1.6)
    tidy(axes, "y")


def _key(facts: StudyFacts, groups: Mapping[str, str], by_group: bool) -> str:
    return groups[facts.case_id] if by_group else facts.frame


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
