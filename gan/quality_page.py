"""The proof of quality as one HTML file: no script, no network, every text from the data escaped."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined

from gan.quality_figures import SUBJECTS, copies_figure, realism_figure, tissue_figure
from gan.quality_pictures import closest_pairs, gallery_strips, same_mask_strips
from gan.quality_report import QualityReport

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
    template = environment.from_string(resources.files("gan").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    table = report.table
    extractors = table[table["measure"] == "frechet"]["features"].unique()
    return template.render(
        title=title,
        verdicts=verdicts,
        counts=report.counts.to_dict("records"),
        extractors=extractors,
        gallery=gallery_strips(report),
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
