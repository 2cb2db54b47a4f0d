"""The dataset card's charts as SVG: drawn without `pyplot`, the same bytes each time.

The dataset card's pictures of patients, as addresses that a page can hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import InputError
from common.pages.kit import (
    BLUE,
    GREEN,
    INK,
    VERMILION,
    WIDTH_IN,
    Picture,
    dark_enough,
    png_address,
    svg_picture,
    svg_style,
    tidy,
)
from common.pages.words import words
from imaging.dataset_card.facts import WINDOWED_BINS, StudyFacts, region_centre, study_name
from imaging.dataset_card.summary import frames_of
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.overlay import overlay
from imaging.slices.regions import RegionConfig, study_regions
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
