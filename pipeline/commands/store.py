"""What `scarforge store show` prints and draws."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from common.pages.words import count
from engine.finished import checked_file
from imaging.overlay import contact_sheet
from imaging.slices.balance import slice_categories
from imaging.slices.store import SliceStore
from pipeline.commands.output import check_file

_SLICES = 24


def show(file: Path, sheet: Path) -> None:
    """Print a store's size, attributes and categories, and save a contact sheet of slices spread over it."""
    check_file(sheet, "--sheet")
    with SliceStore.open(checked_file(file)) as store:
        console = Console()
        console.print(_table(store))
        index = np.unique(np.linspace(0, len(store) - 1, min(_SLICES, len(store))).astype(int))
        cases = store.rows["case_id"].to_numpy(dtype=str)[index]
        images = store.images(index).astype(np.float32)
        contact_sheet(images, store.masks(index), store.label_set, columns=8, titles=list(cases)).save(sheet)
        console.print(f"contact sheet of {count(len(index), 'slice')}: {sheet}", highlight=False)


def _table(store: SliceStore) -> Table:
    table = Table(show_header=False, box=None)
    categories = slice_categories(store.masks(), store.label_set)
    lines = {
        "slices": str(len(store)),
        "patients": str(store.rows["case_id"].nunique()),
        "origins": _counts(store.rows["origin"].to_numpy(dtype=str)),
        "categories": _counts(categories),
        "region": f"{store.attributes.region_px} px at {store.attributes.spacing_mm} mm",
        "label set": store.attributes.label_set,
        "intensities": store.attributes.intensity_rule,
        "seed": str(store.attributes.seed),
        "digest": store.digest,
        **{f"made from {name}": digest for name, digest in store.attributes.parent_digests.items()},
    }
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _counts(values: np.ndarray) -> str:
    names, counts = np.unique(values, return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
