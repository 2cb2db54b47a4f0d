"""Pictures for the asset pages, small enough to lie in Dagster's event log."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.pages.words import words
from engine.outcome import Fact, image
from imaging.slices.store import SliceStore

if TYPE_CHECKING:
    from imaging.studies.archive import StudyArchive

OVERVIEW = "overview.png"  # decides nothing: see `engine.record`
_PREVIEW_SLICES = 12
_FIELD_PX = 192  # around the middle of a study, 1 mm a pixel


def store_preview(store: SliceStore, folder: Path, name: str = "preview.png") -> Fact:
    """Save and return a contact sheet of slices spread over a store, preferring those with lesions."""
    from imaging.overlay import contact_sheet

    index = _spread(store)
    cases = store.rows["case_id"].to_numpy(dtype=str)[index]
    sheet = contact_sheet(
        store.images(index).astype(np.float32),
        store.masks(index),
        store.label_set,
        columns=6,
        titles=list(cases),
    )
    path = folder / name
    sheet.save(path, optimize=True)
    return image(path, folder)


def _spread(store: SliceStore) -> np.ndarray:
    from imaging.slices.balance import slice_categories

    categories = slice_categories(store.masks(), store.label_set)
    chosen: list[int] = []
    kinds = len(set(categories)) if len(categories) else 1
    for category in ("no_reflow", "infarct", "no_infarct"):
        rows = np.flatnonzero(categories == category)
        count = min(len(rows), _PREVIEW_SLICES // kinds)
        chosen += rows[np.linspace(0, len(rows) - 1, count).astype(int)].tolist() if count else []
    return np.array(sorted(set(chosen)))


def studies_sheet(archive: "StudyArchive", folder: Path) -> Fact:
    """Save and return the middle slices of studies spread over an archive, with their labels."""
    from imaging.overlay import contact_sheet
    from imaging.studies.preparation import apply_window, crop_region

    keys = archive.keys()
    chosen = [keys[place] for place in np.unique(np.linspace(0, len(keys) - 1, _PREVIEW_SLICES).astype(int))]
    images, masks = [], []
    for study in (archive.load(*key) for key in chosen):
        middle, centre = len(study.image) // 2, (study.image.shape[1] / 2, study.image.shape[2] / 2)
        region = crop_region(study.image, centre, _FIELD_PX)
        images.append(apply_window(region[middle], _window_of_a_picture(region)))
        masks.append(crop_region(study.mask, centre, _FIELD_PX)[middle])
    titles = [f"{case} {frame}".strip() for case, frame in chosen]
    sheet = contact_sheet(np.stack(images), np.stack(masks), archive.label_set, columns=6, titles=titles)
    sheet.save(folder / OVERVIEW, optimize=True)
    return image(folder / OVERVIEW, folder)


def _window_of_a_picture(region: np.ndarray) -> tuple[float, float]:
    """Return what becomes black and white: a picture of an image that shows nothing must not fail its asset."""
    for percentiles in ((2.0, 98.0), (0.0, 100.0)):
        low, high = (float(value) for value in np.percentile(region, percentiles))
        if low < high:
            return low, high
    return low, low + 1.0


def split_chart(counts: pd.DataFrame, folder: Path) -> Fact:
    """Save and return bars of how many patients of each group (columns) every part of every fold (rows) has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots(1, counts.index.get_level_values("fold").nunique(), sharey=True)
    for axis, (fold, part) in zip(np.atleast_1d(axes), counts.groupby("fold"), strict=True):
        bottom = np.zeros(len(part))
        for group in counts.columns:
            axis.bar(part.index.get_level_values("part"), part[group], bottom=bottom, label=words(group))
            bottom += part[group].to_numpy()
        axis.set_title(f"fold {fold}", fontsize=9)
        axis.tick_params(axis="x", labelrotation=30, labelsize=7)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(folder / OVERVIEW, dpi=90)
    return image(folder / OVERVIEW, folder)


def judgement_chart(dice: pd.DataFrame, judged: pd.DataFrame, folder: Path) -> Fact:
    """Save and return the Dice of every candidate, beside its champion's interval where there was one.

    Args:
        dice: `model`, `tissue`, `candidate`.
        judged: `model`, `tissue`, `champion_low`, `champion_high` of what was compared; may be empty.
        folder: Of the asset.
    """
    from matplotlib.figure import Figure

    keys = ["model", "tissue"]
    rows = dice.merge(judged[[*keys, "champion_low", "champion_high"]], on=keys, how="left") if len(judged) else dice
    figure = Figure(figsize=(8, 0.9 + 0.22 * len(rows)), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(rows))[::-1]
    if len(judged):
        axis.hlines(places, rows["champion_low"], rows["champion_high"], colors="0.6", lw=5, label="champion, 95 %")
    axis.plot(rows["candidate"], places, "o", ms=5, label="candidate")
    axis.set_yticks(places, [f"{words(row.model)}, {words(row.tissue)}" for row in rows.itertuples()], fontsize=7)
    axis.set(xlabel="Dice of patients who have the tissue", xlim=(0, 1))
    axis.legend(fontsize=7, loc="best")
    figure.savefig(folder / OVERVIEW, dpi=90)
    return image(folder / OVERVIEW, folder)
