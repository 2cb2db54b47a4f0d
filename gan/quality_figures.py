"""The charts of the quality page, drawn without `pyplot`, the same bytes each time."""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gan.copies import CopySearch
from gan.quality_pictures import Picture, data_address
from imaging.svg_style import svg_style

SUBJECTS = {
    "pix2pix": "Pix2Pix, validation slices drawn again",
    "mean_paint": "painted means, the same slices",
    "synthetic": "synthetic slices",
    "real": "real slices of other patients",
    "real_patients": "half of the real patients against the other half",
}
_SHORT = {
    "pix2pix": "Pix2Pix",
    "mean_paint": "painted means",
    "synthetic": "synthetic",
    "real": "real",
    "real_patients": "real, halves",
}
_COLOURS = {
    "pix2pix": "#23527c",
    "synthetic": "#4c8cc4",
    "mean_paint": "#b7791f",
    "real": "#1d9a6c",
    "real_patients": "#1d9a6c",
}
_BINS = 40


def realism_figure(table: pd.DataFrame, features: str) -> Picture:
    """Draw Fréchet and kernel distances of one extractor, each subject with its interval."""
    chosen = table[(table["features"] == features) & table["measure"].isin(["frechet", "kernel"])]
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(10.6, 2.1), layout="constrained")
        panels = figure.subplots(1, 4, sharey=True)
        keys = [(measure, region) for measure in ("frechet", "kernel") for region in ("whole", "ventricle")]
        for axes, (measure, region) in zip(panels, keys, strict=True):
            rows = chosen[(chosen["measure"] == measure) & (chosen["region"] == region)].set_index("subject")
            _draw_intervals(axes, rows.reindex([name for name in SUBJECTS if name in rows.index]))
            name = "Fréchet" if measure == "frechet" else "kernel (KID)"
            axes.set(title=f"{name}, {'whole slice' if region == 'whole' else 'ventricle'}")
            axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        return _svg(figure, f"Distances in {features} by subject with 95 % intervals; the table gives the figures")


def tissue_figure(table: pd.DataFrame) -> Picture:
    """Draw Dice by tissue: agreement with the mask, and of what was learned from synthetic slices."""
    measures = [name for name in ("adherence", "utility") if table["measure"].str.startswith(f"{name}/").any()]
    titles = {"adherence": "Agreement with the mask", "utility": "Real validation slices, trained on …"}
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(5.3 * len(measures), 2.6), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            rows = table[table["measure"].str.startswith(f"{measure}/") & (table["subject"] != "ratio")]
            tissues = list(dict.fromkeys(rows["measure"].str.removeprefix(f"{measure}/")))
            subjects = [name for name in SUBJECTS if name in set(rows["subject"])]
            for number, subject in enumerate(subjects):
                own = rows[rows["subject"] == subject].set_index("measure")
                own = own.reindex([f"{measure}/{tissue}" for tissue in tissues])
                places = np.arange(len(tissues)) + 0.16 * (number - (len(subjects) - 1) / 2)
                _draw_points(axes, places, own, subject)
            axes.set_xticks(range(len(tissues)), [tissue.replace("_", " ") for tissue in tissues])
            axes.set(title=titles[measure], ylabel="Dice", ylim=(0, 1))
            axes.grid(axis="y", color="#e8ebef", linewidth=0.7)
            axes.legend(fontsize=8, loc="lower left")
        return _svg(figure, "Dice by tissue and subject with 95 % intervals; the table gives the figures")


def copies_figure(search: CopySearch) -> Picture:
    """Draw how near synthetic and real ventricles lie to the training patients, with the limits of a copy."""
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(10.6, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        high = float(np.quantile(np.concatenate([search.real.distance, search.synthetic.distance]), 0.995))
        edges = np.linspace(0, max(high, 1e-6), _BINS + 1)
        for found, subject, label in (
            (search.real, "real", "real, to another patient"),
            (search.synthetic, "synthetic", "synthetic, to any training patient"),
        ):
            count = len(found.distance)
            name = f"{label} ({count:,})"
            left.stairs(np.histogram(found.distance, edges)[0] / count, edges, color=_COLOURS[subject], label=name)
            right.plot(
                found.distance, found.ratio, ".", color=_COLOURS[subject], markersize=3, alpha=0.5, rasterized=True
            )
        for axes in (left, right):
            axes.axvline(search.distance_limit, color="#22303c", linewidth=0.8, linestyle="--")
            axes.set(xlabel="distance to the nearest (1 − correlation)", xlim=(0, edges[-1]))
        right.axhline(search.ratio_limit, color="#22303c", linewidth=0.8, linestyle="--")
        left.set(title="How near", ylabel="share")
        left.set_ylim(top=1.35 * left.get_ylim()[1])
        left.legend(fontsize=8, loc="upper left")
        right.set(title="How near to that patient alone", ylabel="ratio to the next patient", ylim=(0, 1.02))
        right.text(0.02, 0.04, "copies", transform=right.transAxes)
        return _svg(figure, "Histogram of distances to the nearest ventricle, and ratio against distance")


def _draw_intervals(axes: Axes, rows: pd.DataFrame) -> None:
    for place, (subject, row) in enumerate(rows.iterrows()):
        colour = _COLOURS[str(subject)]
        if np.isfinite(row["std"]):
            axes.hlines(place, row["low"], row["high"], color=colour, linewidth=1.4)
        axes.plot(row["value"], place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [_SHORT[str(name)] for name in rows.index])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#e8ebef", linewidth=0.7)


def _draw_points(axes: Axes, places: np.ndarray, rows: pd.DataFrame, subject: str) -> None:
    colour = _COLOURS[subject]
    axes.plot(places, rows["value"], "o", color=colour, markersize=5, label=_SHORT[subject])
    known = np.isfinite(rows["std"].to_numpy(dtype=float))
    axes.vlines(places[known], rows["low"][known], rows["high"][known], color=colour, linewidth=1.4)


def _svg(figure: Figure, alt: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(data_address(buffer.getvalue(), "image/svg+xml"), alt)
