"""The trials' table as CSV, Markdown and a page with pictures."""

from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from gan.quality_slices import Images, PairedSlices
from imaging.labels import LabelSet
from imaging.tables import write_csv
from training.files import write_atomically

_PICTURED = 6
_NOTE = (
    "Every trial has seen the same number of images. PSNR, SSIM, LPIPS, Fréchet and kernel distance compare validation "
    "slices with the same slices drawn again; adherence is the Dice of a segmenter trained on real slices. Small sets: "
    "compare rows, not with other tables."
)
_STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em;color:#1d2733}table{border-collapse:collapse}"
    "td,th{padding:.25em .6em;border-bottom:1px solid #d9dee5;text-align:right}"
    "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}img{max-width:100%}"
)


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """Write `trials.csv`, `trials.md` and `trials.html`; the page shows each trial's `figures/pairs.png`."""
    shown = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    names = [str(name).replace("_", " ") for name in table.columns]
    write_atomically(folder / "trials.csv", lambda part: write_csv(table, part))
    texts = {"trials.md": _markdown(names, shown), "trials.html": _page(names, shown, list(table["trial"]))}
    for name, text in texts.items():
        write_atomically(folder / name, partial(_write, text))


def save_pairs(real: PairedSlices, redrawn: Images, labels: LabelSet, path: Path) -> None:
    """Save real validation slices with the largest lesions, and below each what was drawn from its mask."""
    from imaging.overlay import contact_sheet

    chosen = np.argsort(-(real.masks > 2).sum(axis=(1, 2)), kind="stable")[:_PICTURED]
    images = np.concatenate([real.images[chosen], redrawn[chosen]])
    titles = [name for name in ("real", "drawn") for _ in chosen]
    sheet = contact_sheet(images, np.zeros(images.shape, np.uint8), labels, columns=len(chosen), titles=titles)
    sheet.save(path, optimize=True)


def _markdown(names: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * 2 + ["---:"] * (len(names) - 2)
    lines = ["| " + " | ".join(cells) + " |" for cells in (names, rule, *rows)]
    return "\n".join([*lines, "", _NOTE, ""])


def _page(names: list[str], rows: list[list[str]], trials: list[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    pictures = "".join(
        f'<h2>{escape(name)}</h2><img alt="real slices above, drawn below" src="{escape(name)}/figures/pairs.png">'
        for name in trials
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Trials</title><style>{_STYLE}</style>'
        f"</head><body><h1>Trials</h1><p>{escape(_NOTE)}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{pictures}</body></html>\n"
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
