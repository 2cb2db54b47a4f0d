"""How good synthetic slices are: fidelity, realism, adherence to the mask, use, variety, and that they are no copies.

All images are (N, H, W) in [0, 1]. What does not live here: any feature extractor, segmenter or generator; they come
in as functions, and their names are written beside every figure that depends on them.

The search for copies gives the closest pairs, too, for people to look at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from gan.quality.fidelity import (
    fidelity,
    local_texture,
    mean_absolute_error,
    pairwise_variety,
    peak_signal_to_noise,
    structural_similarity_of,
)
from gan.quality.realism import Extractor, realism
from gan.quality.report import Beside, Copies, QualityReport
from gan.quality.slices import Features, Images, PairDistance, Segment, Vectors, inside_ventricle, some_rows
from gan.quality.table import COLUMNS, Cases, Figure, Row, as_table, over_halves, ratio_of_sums
from gan.quality.two_sample import STEPS, two_sample_test
from gan.quality.variety import Draw, feature_distance, measure_variety, variety_rows
from imaging.dice import areas, dice_terms
from imaging.labels import LabelSet, Tissue
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore

__all__ = [
    "COLUMNS",
    "Extractor",
    "Instruments",
    "Material",
    "QualityReport",
    "assess_quality",
    "inside_ventricle",
    "local_texture",
    "mean_absolute_error",
    "pairwise_variety",
    "peak_signal_to_noise",
    "structural_similarity_of",
]

_PICTURED = 6


@dataclass(frozen=True)
class Material:
    """What is judged and against what.

    Attributes:
        synthetic: Slices drawn from simulated masks.
        training: Real slices of training patients that show a ventricle.
        validation: Real slices of validation patients, which nothing was trained on.
        redrawn: (N, H, W) the validation slices drawn again by pix2pix; None where no generator is at hand, as for
            slices of a folder: what needs one is then not measured.
        mean_painted: (N, H, W) the validation slices painted by the yardstick.
        searched: Real slices among which copies are searched, such as those of all patients where nobody knows whom a
            generator has seen; None for those of training patients.
    """

    synthetic: SliceStore
    training: PartSlices
    validation: PartSlices
    redrawn: Images | None
    mean_painted: Images
    searched: PartSlices | None = None


@dataclass(frozen=True)
class Instruments:
    """What measures.

    Attributes:
        extractors: Of features, the first decides.
        segment: Images (N, H, W) to masks (N, H, W), trained on real slices only.
        draw: Takes rows of the validation slices and as many noise seeds; returns images; None without a generator.
        perceptual: LPIPS by the name of its network; the first measures the variety. Without any, the variety is
            measured with the last extractor's features.
        segment_from_synthetic: Like `segment`, but trained on synthetic slices only; None leaves out the utility.
        classifier_steps: For which the classifier of the two-sample test is taught.
    """

    extractors: Sequence[Extractor]
    segment: Segment
    draw: Draw | None
    perceptual: Mapping[str, PairDistance] = field(default_factory=dict)
    segment_from_synthetic: Segment | None = None
    classifier_steps: int = STEPS


def assess_quality(
    material: Material, instruments: Instruments, seed: int = 0, most_images: int = 1000
) -> QualityReport:
    """Measure pix2pix beside mean paint and real slices.

    Args:
        material: What is judged.
        instruments: What measures.
        seed: Seed of every random choice.
        most_images: At most so many slices go into each set; copies are searched in the whole store.
    """
    store, validation, everyone = material.synthetic, material.validation, material.training
    drawn_rows = some_rows(len(store), most_images, seed, "quality synthetic slices")
    synthetic = PartSlices.of(store, drawn_rows)
    training = everyone.at(some_rows(len(everyone), most_images, seed, "quality training slices"))
    drawn = {"mean_paint": validation.painted_as(material.mean_painted)}
    if material.redrawn is not None:
        drawn = {"pix2pix": validation.painted_as(material.redrawn), **drawn}
    rows = [
        row
        for name, slices in drawn.items()
        for row in fidelity(name, slices.images, validation, instruments.perceptual, seed)
    ]
    first = instruments.extractors[0]
    realistic, vectors = realism(drawn, synthetic, training, validation, instruments.extractors, seed)
    searched, trained = (everyone, None) if material.searched is None else (material.searched, everyone.case_ids)
    copies, copied = report_copies(store, searched, validation, first.features, seed, trained)
    rows += realistic + _adherence(
        {**drawn, "real": validation, "synthetic": synthetic, "training": training}, instruments, store, seed
    )
    name, distance = _pair_distance(instruments)
    variety = measure_variety(synthetic, training, validation, instruments.draw, distance, seed)
    rows += (
        variety_rows(variety, name)
        + copied
        + _told_apart(synthetic, drawn_rows, material, instruments, seed)
        + _refused(store)
    )
    beside = None
    if HOLE in store.extras:  # of a heart that is real but for its lesion, whole features only say whose it is
        beside = beside_originals(store, everyone)
    else:
        of_synthetic, of_training = (vectors["synthetic"], synthetic.case_ids), (vectors["training"], training.case_ids)
        rows += copies_in_features(of_synthetic, of_training, first.name, seed)
    gallery, searched_all = _gallery(material), material.searched is not None
    return QualityReport(as_table(rows), copies, variety, gallery, _counts(material), beside, searched_all)


def _adherence(sets: Mapping[str, PartSlices], instruments: Instruments, store: SliceStore, seed: int) -> list[Row]:
    labels, segment = store.label_set, instruments.segment
    rows = [row for name, slices in sets.items() for row in adherence(name, slices, segment, labels, seed)]
    if instruments.segment_from_synthetic is not None:
        rows += utility(sets["real"], segment, instruments.segment_from_synthetic, labels, seed)
    return rows


def adherence(
    subject: str, slices: PartSlices, segment: Segment, labels: LabelSet, seed: int, measure: str = "adherence"
) -> list[Row]:
    """Return the Dice of each tissue over all slices between the mask and what a segmenter finds.

    A tissue that is absent from both has no row.
    """
    found = segment(slices.images)
    rows = []
    for value, tissue in labels.foreground:
        numerator, denominator = dice_terms(*areas(slices.masks == value, found == value))
        if denominator.any():
            figure = over_halves(ratio_of_sums(numerator, denominator, empty=1.0), seed, slices.case_ids)
            rows.append(Row(f"{measure}/{tissue}", "ventricle", subject, figure, len(slices)))
    return rows


def utility(validation: PartSlices, real: Segment, synthetic: Segment, labels: LabelSet, seed: int) -> list[Row]:
    """Compare a segmenter trained on synthetic slices only with one trained on real slices only.

    Both are tested on the same real slices of validation patients. `ratio` is synthetic over real.
    """
    rows = adherence("synthetic", validation, synthetic, labels, seed, "utility")
    own = {row.measure: row.figure.value for row in rows}
    judged = adherence("real", validation, real, labels, seed, "utility")
    ratios = [
        Row(row.measure, row.region, "ratio", Figure(own[row.measure] / row.figure.value), row.images)
        for row in judged
        if row.measure in own and row.figure.value > 0
    ]
    return [*rows, *judged, *ratios]


def _told_apart(
    synthetic: PartSlices, rows: NDArray[np.intp], material: Material, instruments: Instruments, seed: int
) -> list[Row]:
    store, validation = material.synthetic, material.validation
    if material.redrawn is None:
        return []
    # A slice store's further images, not Django's SQL.
    holes = store.extra(HOLE, rows) if HOLE in store.extras else None  # noqa: S610
    again = validation.painted_as(material.redrawn)
    return two_sample_test(synthetic, holes, material.training, again, validation, seed, instruments.classifier_steps)


def _refused(store: SliceStore) -> list[Row]:
    """Return which shares of all draws were refused for each reason, where any could be."""
    told = store.attributes.parameters.get("refusal")
    if told is None:
        return []
    return [
        Row(f"refused/{reason.replace(' ', '_')}", "whole", "synthetic", Figure(times / told["draws"]), told["draws"])
        for reason, times in told["refused"].items()
    ]


def _pair_distance(instruments: Instruments) -> tuple[str, PairDistance]:
    if instruments.perceptual:
        return next(iter(instruments.perceptual.items()))
    own = instruments.extractors[-1]
    return own.name, feature_distance(own.features)


def _gallery(material: Material) -> dict[str, Images]:
    """Return the slice with the largest lesion of each of some patients, as each subject draws it."""
    sizes = (material.validation.masks > 2).sum(axis=(1, 2))
    largest = np.argsort(-sizes, kind="stable")
    _, first = np.unique(material.validation.case_ids[largest], return_index=True)
    chosen = largest[np.sort(first)][:_PICTURED]
    pictured = {"real": material.validation.images, "Pix2Pix": material.redrawn, "painted means": material.mean_painted}
    return {name: images[chosen] for name, images in pictured.items() if images is not None}


def _counts(material: Material) -> pd.DataFrame:
    """Return `set`, `slices`, `patients`."""
    synthetic = material.synthetic.rows["case_id"]
    sets = {"training": material.training.case_ids, "validation": material.validation.case_ids}
    rows = [(name, len(cases), len(np.unique(cases))) for name, cases in sets.items()]
    rows.append(("synthetic", len(synthetic), synthetic.nunique()))
    return pd.DataFrame(rows, columns=["set", "slices", "patients"])


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
