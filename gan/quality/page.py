"""The proof of quality as one HTML file: no script, no network, every text from the data escaped.

The charts of the quality page, drawn without `pyplot`, the same bytes each time.

Pictures of slices for the quality page, as addresses of `img` elements that need no other file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from common.pages.kit import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    WIDTH_IN,
    Marked,
    Picture,
    Table,
    png_address,
    render,
    svg_picture,
    svg_style,
    table,
    tidy,
)
from common.pages.words import words
from gan.quality.copies import CopySearch
from gan.quality.report import Beside, Copies, QualityReport
from gan.quality.slices import Images, ventricle_crops

_GAP_PX = 3
_CROP_PX = 96
_BESIDE_PX = 84
_MASKS_SHOWN = 4
_DEVIATION_SHOWN = 0.1


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
    return png_address(np.concatenate(parts[:-1], axis=1))


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
# Colour and marker, so that neither alone tells the subjects apart.
_LOOKS = {
    "pix2pix": (BLUE, "o"),
    "synthetic": (PURPLE, "D"),
    "mean_paint": (VERMILION, "s"),
    "real": (GREEN, "^"),
    "real_patients": (GREEN, "v"),
    "training": (INK, "P"),
}
_BINS = 40


def realism_figure(table: pd.DataFrame, features: str) -> Picture:
    """Draw Fréchet and kernel distances of one extractor, each subject with its interval."""
    chosen = table[(table["features"] == features) & table["measure"].isin(["frechet", "kernel"])]
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.1), layout="constrained")
        panels = figure.subplots(1, 4, sharey=True)
        keys = [(measure, region) for measure in ("frechet", "kernel") for region in ("whole", "ventricle")]
        for axes, (measure, region) in zip(panels, keys, strict=True):
            rows = chosen[(chosen["measure"] == measure) & (chosen["region"] == region)].set_index("subject")
            _draw_intervals(axes, rows.reindex([name for name in SUBJECTS if name in rows.index]))
            name = "Fréchet" if measure == "frechet" else "kernel (KID)"
            axes.set(title=f"{name}, {'whole slice' if region == 'whole' else 'ventricle'}")
            axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        return svg_picture(
            figure, f"Distances in {features} by subject with 95 % intervals; the table gives the figures"
        )


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
            axes.set_xticks(range(len(tissues)), [words(tissue) for tissue in tissues])
            axes.set(title=titles[measure], ylabel="Dice", ylim=(-0.03, 1.03))
            tidy(axes, "y")
            axes.legend(fontsize=8, loc="lower left")
        return svg_picture(figure, "Dice by tissue and subject with 95 % intervals; the table gives the figures")


def copies_figure(search: CopySearch) -> Picture:
    """Draw how near synthetic and real ventricles lie to the training patients, with the limits of a copy."""
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        high = float(np.quantile(np.concatenate([search.real.distance, search.synthetic.distance]), 0.995))
        edges = np.linspace(0, max(high, 1e-6), _BINS + 1)
        for found, subject, label in (
            (search.real, "real", "real, to another patient"),
            (search.synthetic, "synthetic", "synthetic, to any training patient"),
        ):
            count = len(found.distance)
            name = f"{label} ({count:,})"
            colour, marker = _LOOKS[subject]
            dashes = "--" if subject == "real" else "-"
            left.stairs(
                np.histogram(found.distance, edges)[0] / count, edges, color=colour, label=name, linestyle=dashes
            )
            right.plot(found.distance, found.ratio, marker, color=colour, markersize=2.5, alpha=0.5, rasterized=True)
        for axes in (left, right):
            axes.axvline(search.distance_limit, color=INK, linewidth=0.8, linestyle="--")
            axes.set(xlabel="distance to the nearest (1 − correlation)", xlim=(0, edges[-1]))
        right.axhline(search.ratio_limit, color=INK, linewidth=0.8, linestyle="--")
        left.set(title="How near", ylabel="share")
        left.set_ylim(top=1.35 * left.get_ylim()[1])
        left.legend(fontsize=8, loc="upper left")
        right.set(title="How near to that patient alone", ylabel="ratio to the next patient", ylim=(0, 1.02))
        right.text(0.02, 0.04, "copies", transform=right.transAxes)
        return svg_picture(figure, "Histogram of distances to the nearest ventricle, and ratio against distance")


def _draw_intervals(axes: Axes, rows: pd.DataFrame) -> None:
    for place, (subject, row) in enumerate(rows.iterrows()):
        colour, marker = _LOOKS[str(subject)]
        if np.isfinite(row["std"]):
            axes.hlines(place, row["low"], row["high"], color=colour, linewidth=1.4)
        axes.plot(row["value"], place, marker, color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [_SHORT[str(name)] for name in rows.index])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    tidy(axes, "x")


def _draw_points(axes: Axes, places: np.ndarray, rows: pd.DataFrame, subject: str) -> None:
    colour, marker = _LOOKS[subject]
    axes.plot(places, rows["value"], marker, color=colour, markersize=5, label=_SHORT[subject])
    known = np.isfinite(rows["std"].to_numpy(dtype=float))
    axes.vlines(places[known], rows["low"][known], rows["high"][known], color=colour, linewidth=1.4)


Verdict = tuple[str, bool, str]
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
    "copies/of_held_out": "share of outright copies of patients who are not trained on",
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
    found = report.table
    extractors = found[found["measure"] == "frechet"]["features"].unique()
    return render(
        "gan.quality",
        "quality.html.j2",
        title=title,
        verdicts=verdicts,
        extractors=extractors,
        gallery=gallery_strips(report),
        repainted=repainted_strips(report.beside),
        told_apart=_named(found[found["measure"] == "auc"]),
        refused=_named(found[found["measure"].str.startswith("refused/")]),
        same_mask=same_mask_strips(report),
        pairs=closest_pairs(report.copies),
        worst=report.copies.worst.to_dict("records"),
        limits=[number(limit) for limit in (report.copies.search.distance_limit, report.copies.search.ratio_limit)],
        in_holes=(found[found["measure"].str.startswith("copies/")]["region"] == "hole").any(),
        realism=[realism_figure(found, name) for name in extractors],
        tissues=tissue_figure(found),
        copies=copies_figure(report.copies.search),
        fidelity=_fidelity(report.yardsticks()) if report.redrawn else None,
        all_patients=report.all_patients,
        variety=_variety(found[found["measure"].str.startswith("variety")]),
        shares=_shares(found[found["measure"].str.startswith("copies/")]),
        utility=_utility(found),
        counts=_counts(report.counts),
        figures=_figures(found),
    )


def number(value: float) -> str:
    """Return a measured number with about three significant digits; a dash where there is none."""
    if pd.isna(value):
        return "–"
    return "0" if value == 0 else f"{value:#.3g}" if abs(value) < 99.95 else f"{value:,.0f}"


def _named(figures: pd.DataFrame) -> list[dict[str, str]]:
    """Return rows as texts: measures and subjects in words, numbers as the page writes them."""
    return [
        {
            "measure": _MEASURES.get(row["measure"], words(row["measure"].replace("/", ": "))),
            "region": row["region"],
            "subject": _SUBJECTS[row["subject"]],
            "interval": f"{number(row['low'])} to {number(row['high'])}",
            **{name: number(row[name]) for name in ("value", "low", "high", "std")},
            "images": str(row["images"]),
            "reference_images": str(row["reference_images"] or ""),
            "features": words(row["features"]),
        }
        for row in figures.to_dict("records")
    ]


def _table(caption: str, columns: Mapping[str, str], figures: pd.DataFrame) -> Table:
    """Return the columns of `_named` that are named, each under its heading."""
    rows = [[row[name] for name in columns] for row in _named(figures)]
    texts = [heading for name, heading in columns.items() if name in ("region", "subject", "features")]
    return table(caption, list(columns.values()), rows, texts)


def _fidelity(yardsticks: pd.DataFrame) -> Table:
    rows = [
        [
            _MEASURES[row["measure"]],
            row["region"],
            words(row["features"]),
            number(row["pix2pix"]),
            number(row["mean_paint"]),
            Marked("Pix2Pix", "better") if row["better"] else Marked("painted means", "worse"),
        ]
        for row in yardsticks.to_dict("records")
    ]
    headings = ["measure", "region", "features", "Pix2Pix", "painted means", "better"]
    return table("Likeness to the real slices of the same masks", headings, rows, ("region", "features", "better"))


def _variety(figures: pd.DataFrame) -> Table:
    columns = {"measure": "measure", "subject": "of", "value": "value", "interval": "95 % interval", "images": "pairs"}
    return _table("Variety of ventricles", columns | {"features": "features"}, figures)


def _shares(figures: pd.DataFrame) -> Table:
    columns = {"measure": "measure", "subject": "of", "value": "value", "interval": "95 % interval", "images": "images"}
    return _table("Copies", columns | {"reference_images": "training images", "features": "compared in"}, figures)


def _counts(counts: pd.DataFrame) -> Table:
    rows = [[row["set"], str(row["slices"]), str(row["patients"])] for row in counts.to_dict("records")]
    return table("Slices that show a ventricle", ["set", "slices", "patients"], rows)


def _figures(figures: pd.DataFrame) -> Table:
    columns = {name: name for name in ("measure", "region", "subject", "value", "low", "high")}
    columns |= {"std": "error", "images": "images", "reference_images": "against", "features": "features"}
    return _table("All figures", columns, figures)


def _utility(found: pd.DataFrame) -> Table | None:
    """Return Dice by tissue of what synthetic and what real slices alone teach; None where it was not measured."""
    rows = found[found["measure"].str.startswith("utility/")]
    if rows.empty:
        return None
    wide = rows.pivot_table(index="measure", columns="subject", values="value", sort=False)
    wide = wide.reindex(columns=["synthetic", "real", "ratio"])
    shown = [
        [words(str(name).removeprefix("utility/")), *(number(value) for value in row)]
        for name, row in zip(wide.index, wide.to_numpy(float), strict=True)
    ]
    caption = "Dice on real validation slices of a segmenter that was trained on …"
    return table(caption, ["tissue", "synthetic slices only", "real slices only", "ratio"], shown)
