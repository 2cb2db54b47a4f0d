"""The proof of quality as one HTML file: no script, no network, every text from the data escaped.

The charts of the quality page, drawn without `pyplot`, the same bytes each time.

Pictures of slices for the quality page, as addresses of `img` elements that need no other file.
"""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from common.pages import svg_style
from gan.quality.copies import CopySearch
from gan.quality.report import Beside, Copies, QualityReport
from gan.quality.slices import Images, ventricle_crops

_GAP_PX = 3
_CROP_PX = 96
_BESIDE_PX = 84
_MASKS_SHOWN = 4
_DEVIATION_SHOWN = 0.1


@dataclass(frozen=True)
class Picture:
    """A picture as the address of an `img` element, its text for those who do not see it, and its caption."""

    src: str
    alt: str
    caption: str = ""


def gallery_strips(report: QualityReport) -> list[Picture]:
    """Return one strip of the same validation slices for each subject: real, drawn, painted."""
    return [Picture(strip(images), f"{name}: {len(images)} slices", name) for name, images in report.gallery.items()]


def same_mask_strips(report: QualityReport) -> list[Picture]:
    """Return a strip for each mask: the real slice, drawings with different noise, and their deviation."""
    strips = []
    for image, drawings in list(zip(report.variety.originals, report.variety.redrawn, strict=True))[:_MASKS_SHOWN]:
        deviation = np.clip(np.asarray(drawings, np.float32).std(axis=0) / _DEVIATION_SHOWN, 0, 1)
        parts = [image, *drawings, deviation]
        text = f"real slice, {len(drawings)} drawings from its mask, and their deviation from one another"
        strips.append(Picture(strip(parts), text))
    return strips


def closest_pairs(copies: Copies) -> list[Picture]:
    """Return each of the closest pairs side by side: synthetic ventricle, nearest training ventricle."""
    ours, theirs = (ventricle_crops(part.images, part.masks, _CROP_PX)[0] for part in (copies.drawn, copies.found))
    pictures = []
    for row, left, right in zip(copies.worst.to_dict("records"), ours, theirs, strict=True):
        names = f"row {row['row']} of {row['donors']}", f"{row['nearest_case']}, slice {row['nearest_slice']}"
        figures = f"distance {row['distance']:.2f}, ratio {row['ratio']:.2f}, features {row['feature_distance']:.2f}"
        text = f"synthetic {names[0]} beside {names[1]}"
        pictures.append(Picture(strip([left, right]), text, f"{names[0]} | {names[1]}: {figures}"))
    return pictures


def repainted_strips(beside: Beside | None) -> list[Picture]:
    """Return three strips of the same hearts: as they are, repainted, and repainted with the hole outlined."""
    if beside is None:
        return []
    middle = slice(beside.holes.shape[1] // 2 - _BESIDE_PX // 2, beside.holes.shape[1] // 2 + _BESIDE_PX // 2)
    parts = [part[:, middle, middle].repeat(2, axis=1).repeat(2, axis=2) for part in (beside.originals, beside.drawn)]
    holes = beside.holes[:, middle, middle].repeat(2, axis=1).repeat(2, axis=2) > 0
    edges = np.stack([binary_dilation(hole) & ~hole for hole in holes])
    strips = {"real": parts[0], "repainted": parts[1], "where": np.where(edges, np.float32(1), parts[1])}
    return [Picture(strip(images), f"{name}: {len(images)} hearts", name) for name, images in strips.items()]


def strip(images: Sequence[NDArray[np.floating]] | Images) -> str:
    """Return images (H, W) in [0, 1] side by side as the address of a PNG."""
    gap = np.full((len(images[0]), _GAP_PX), 255, np.uint8)
    parts = []
    for image in images:
        parts += [(np.clip(np.asarray(image, np.float32), 0, 1) * 255).round().astype(np.uint8), gap]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts[:-1], axis=1)).save(buffer, format="PNG", optimize=True)
    return data_address(buffer.getvalue(), "image/png")


def data_address(content: bytes, kind: str) -> str:
    """Return content as an address that holds it."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


SUBJECTS = {
    "pix2pix": "Pix2Pix, validation slices drawn again",
    "mean_paint": "painted means, the same slices",
    "synthetic": "synthetic slices",
    "real": "real slices of other patients",
    "real_patients": "half of the real patients against the other half",
    "training": "real slices of training patients",
}
_SHORT = {
    "pix2pix": "Pix2Pix",
    "mean_paint": "painted means",
    "synthetic": "synthetic",
    "real": "real",
    "real_patients": "real, halves",
    "training": "real, training",
}
_COLOURS = {
    "pix2pix": "#23527c",
    "synthetic": "#4c8cc4",
    "mean_paint": "#b7791f",
    "real": "#1d9a6c",
    "real_patients": "#1d9a6c",
    "training": "#7cc4a5",
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


Verdict = tuple[str, bool, str]
_TEMPLATE = "templates/quality.html.j2"
_MEASURES = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance (KID)",
    "inception_score": "Inception Score",
    "ssim": "SSIM",
    "psnr": "PSNR in dB",
    "lpips": "LPIPS",
    "patches": "distance of patches",
    "variety": "distance of pairs",
    "variety_ratio": "variety relative to real patients",
    "copies/near": "share near a training ventricle",
    "copies/copied": "share of copies",
    "auc": "area under the ROC of a classifier",
    "refused/lesion_not_found": "share of draws whose lesion the judge did not find",
    "refused/copy": "share of draws that were copies",
}
_SUBJECTS = SUBJECTS | {"same_mask": "drawings from one mask", "ratio": "synthetic over real"}


def write_quality_page(report: QualityReport, path: Path, title: str, verdicts: Sequence[Verdict] = ()) -> None:
    """Write the page; the same report gives the same bytes.

    Args:
        report: What was measured.
        path: The HTML file.
        title: Which source, profile and fold.
        verdicts: Name, outcome and meaning of each check.
    """
    path.write_text(render_quality_page(report, title, verdicts), encoding="utf-8")


def render_quality_page(report: QualityReport, title: str, verdicts: Sequence[Verdict] = ()) -> str:
    """Return the page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "words": words}
    template = environment.from_string(resources.files("gan.quality").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    table = report.table
    extractors = table[table["measure"] == "frechet"]["features"].unique()
    return template.render(
        title=title,
        verdicts=verdicts,
        counts=report.counts.to_dict("records"),
        extractors=extractors,
        gallery=gallery_strips(report),
        repainted=repainted_strips(report.beside),
        told_apart=_named(table[table["measure"] == "auc"]),
        refused=_named(table[table["measure"].str.startswith("refused/")]),
        same_mask=same_mask_strips(report),
        pairs=closest_pairs(report.copies),
        worst=report.copies.worst.to_dict("records"),
        limits=(report.copies.search.distance_limit, report.copies.search.ratio_limit),
        realism=[realism_figure(table, name) for name in extractors],
        tissues=tissue_figure(table),
        copies=copies_figure(report.copies.search),
        fidelity=_beside_paint(report.yardsticks()),
        variety=_named(table[table["measure"].str.startswith("variety")]),
        shares=_named(table[table["measure"].str.startswith("copies/")]),
        utility=_utility(table),
        rows=_named(table),
    )


def number(value: float) -> str:
    """Return a measured number with about three significant digits; a dash where there is none."""
    if pd.isna(value):
        return "–"
    return "0" if value == 0 else f"{value:#.3g}" if abs(value) < 99.95 else f"{value:,.0f}"


def words(name: object) -> str:
    """Return a name without underscores; an empty one as a dash."""
    return str(name).replace("_", " ") or "–"


def _named(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return rows with measures and subjects in words."""
    named = table.assign(
        measure=[_MEASURES.get(name, name.replace("/", ": ")) for name in table["measure"]],
        subject=[_SUBJECTS[name] for name in table["subject"]],
    )
    return [{str(key): value for key, value in row.items()} for row in named.to_dict("records")]


def _beside_paint(yardsticks: pd.DataFrame) -> list[dict[str, object]]:
    named = yardsticks.assign(measure=[_MEASURES[name] for name in yardsticks["measure"]])
    return [{str(key): value for key, value in row.items()} for row in named.to_dict("records")]


def _utility(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return `tissue`, `synthetic`, `real`, `ratio`."""
    rows = table[table["measure"].str.startswith("utility/")]
    wide = rows.pivot_table(index="measure", columns="subject", values="value", sort=False)
    return [
        {"tissue": str(name).removeprefix("utility/"), **{str(k): v for k, v in row.items()}}
        for name, row in wide.iterrows()
    ]
