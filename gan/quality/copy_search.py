"""The search for copies as rows of the report, with the closest pairs for people to look at."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from gan.quality.copies import (
    CopySearch,
    Nearest,
    appearance,
    borrowed_holes,
    nearest,
    search_copies,
    search_copies_in_holes,
    standardised,
    store_appearance,
    store_appearance_in_holes,
    turned,
    wall_appearance,
)
from gan.quality.report import Beside, Copies
from gan.quality.slices import Features, Vectors, inside_ventricle
from gan.quality.table import Cases, Figure, Row, over_halves, ratio_of_sums
from imaging.labels import Tissue
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore

HELD_OUT = "copies/of_held_out"  # share of slices that are an outright copy of a patient who is not trained on
HOLE = "hole"  # the extra of a store that says where its slices were painted
_WORST = 8
_SPREAD, _BESIDE = 24, 8
_READ = 512
_PIXELS = "pixels"


def report_copies(
    store: SliceStore,
    training: PartSlices,
    validation: PartSlices,
    features: Features,
    seed: int,
    trained: Cases | None = None,
) -> tuple[Copies, list[Row]]:
    """Search the whole store for copies by appearance; where it says where it was painted, inside those holes.

    The shares of `real` are those of validation slices, which cannot be copies: what chance brings.

    Args:
        store: Synthetic slices.
        training: All real slices of the patients who may have been copied.
        validation: Real slices of validation patients, each compared with other patients.
        features: Images (N, H, W) to vectors; the closest pairs are compared in these, too.
        seed: Seed of the halves.
        trained: Which of the patients are those of training, where others are searched, too: the share of slices that
            are an outright copy of one of the others is told.
    """
    look = wall_appearance if HOLE in store.extras else appearance
    looks, of_unseen = (look(part.images, part.masks) for part in (training, validation))
    places = np.arange(len(store))
    recipients = store.rows["case_id"].to_numpy(dtype=str)
    if HOLE in store.extras:
        places = painted_rows(store)
        recipients, holes = recipients[places], store_appearance_in_holes(store, places)
        search = search_copies_in_holes(holes, recipients, looks, training.case_ids, seed)
        like = borrowed_holes(holes[1], len(of_unseen), seed)
        unseen = nearest(of_unseen, turned(looks), training.case_ids, validation.case_ids, within=like)
    else:
        search = search_copies(store_appearance(store), looks, training.case_ids)
        unseen = nearest(of_unseen, looks, training.case_ids, validation.case_ids)
    counts = (len(training), _PIXELS)
    rows = _shares(search, search.synthetic, recipients, "synthetic", counts, seed, _region(store))
    rows += _shares(search, unseen, validation.case_ids, "real", counts, seed, _region(store))
    if trained is not None:
        found = search.outright & ~np.isin(training.case_ids, trained)[search.synthetic.place]
        rows.append(Row(HELD_OUT, _region(store), "synthetic", Figure(float(found.mean())), len(found), *counts))
    return _closest(search, store, places, training, features), rows


def painted_rows(store: SliceStore) -> NDArray[np.intp]:
    """Return the rows of a store in whose hole anything was painted.

    Raises:
        InputError: Nothing was.
    """
    starts = range(0, len(store), _READ)
    # A slice store's further images, not Django's SQL.
    blocks = (store.extra(HOLE, np.arange(start, min(start + _READ, len(store)))) for start in starts)  # noqa: S610
    rows = np.flatnonzero(np.concatenate([block.any(axis=(1, 2)) for block in blocks]))
    if not len(rows):
        raise InputError(f"{store.path}: nothing was painted in any of {len(store)} slices; check the masks' balance")
    return rows


def beside_originals(store: SliceStore, training: PartSlices) -> Beside | None:
    """Return some painted slices of a store beside the recipients' own, those with a lesion first.

    None where no recipient's slice is among `training`.
    """
    places = {key: row for row, key in enumerate(zip(training.case_ids, training.slice_index, strict=True))}
    table = store.rows
    keys = list(zip(table["case_id"], table["slice_index"], strict=True))
    painted = [int(row) for row in painted_rows(store) if keys[row] in places]
    if not painted:
        return None
    shown = np.linspace(0, len(painted) - 1, min(_SPREAD, len(painted))).round().astype(int)
    spread = np.array(painted)[shown]
    healthy = ~(store.masks(spread) >= Tissue.INFARCT).any(axis=(1, 2))
    chosen = spread[np.argsort(healthy, kind="stable")][:_BESIDE]
    originals = training.at(np.array([places[keys[row]] for row in chosen]))
    # A slice store's further images, not Django's SQL.
    return Beside(originals.images, store.images(chosen).astype(np.float32), store.extra(HOLE, chosen))  # noqa: S610


def _region(store: SliceStore) -> str:
    return "hole" if HOLE in store.extras else "ventricle"


def copies_in_features(
    synthetic: tuple[Vectors, Cases], training: tuple[Vectors, Cases], name: str, seed: int
) -> list[Row]:
    """Search copies among feature vectors of what is inside the ventricle.

    Pooled features see shape, contrast and tissue means as well, which a mask simulated in a patient's own anatomy
    shares with that patient by design: these shares are an indication and no proof.

    Args:
        synthetic: Vectors (N, D) and the patients.
        training: Vectors (M, D) and the patients.
        name: Of the extractor.
        seed: Seed of the halves.
    """
    vectors, cases = standardised(synthetic[0], training[0]), training[1]
    search = search_copies(vectors, standardised(training[0], training[0]), cases)
    return _shares(search, search.synthetic, synthetic[1], "synthetic", (len(cases), name), seed)


def _shares(
    search: CopySearch,
    found: Nearest,
    cases: Cases,
    subject: str,
    counts: tuple[int, str],
    seed: int,
    region: str = "ventricle",
) -> list[Row]:
    rows = []
    for measure, which in (("copies/near", search.near(found)), ("copies/copied", search.copied(found))):
        figure = over_halves(ratio_of_sums(which.astype(float), np.ones(len(which))), seed, cases)
        rows.append(Row(measure, region, subject, figure, len(which), *counts))
    return rows


def _closest(
    search: CopySearch, store: SliceStore, places: NDArray[np.intp], training: PartSlices, features: Features
) -> Copies:
    """List the pairs that come closest to being copies: copied ones first, by distance; `places` were searched."""
    own, copied = search.synthetic, search.copied()
    rows = np.lexsort((own.distance, ~copied))[:_WORST]
    drawn, found = PartSlices.of(store, places[rows]), training.at(own.place[rows])
    donors = store.rows["donor_ids"].to_numpy(dtype=str)[places[rows]]
    worst = pd.DataFrame(
        {
            "row": places[rows],
            "case_id": drawn.case_ids,
            "donors": donors,
            "nearest_case": found.case_ids,
            "nearest_slice": found.slice_index,
            "distance": own.distance[rows],
            "ratio": own.ratio[rows],
            "feature_distance": _feature_distances(features, drawn, found, training),
            "copied": copied[rows],
        }
    )
    return Copies(search, worst, drawn, found)


def _feature_distances(
    features: Features, drawn: PartSlices, found: PartSlices, training: PartSlices
) -> NDArray[np.float64]:
    """Return 1 - correlation of each pair's standardised features (K,)."""
    some = training.at(np.linspace(0, len(training) - 1, min(64, len(training))).astype(np.intp))
    of_drawn, of_found, like = (features(inside_ventricle(part.images, part.masks)) for part in (drawn, found, some))
    products = standardised(of_drawn, like) * standardised(of_found, like)
    return 1 - products.sum(axis=1, dtype=np.float64)
