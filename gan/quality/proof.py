"""How good synthetic slices are: fidelity, realism, adherence to the mask, use, variety, and that they are no copies.

All images are (N, H, W) in [0, 1]. What does not live here: any feature extractor, segmenter or generator; they come
in as functions, and their names are written beside every figure that depends on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gan.quality.adherence import adherence, utility
from gan.quality.copy_search import HOLE, beside_originals, copies_in_features, report_copies
from gan.quality.fidelity import (
    fidelity,
    local_texture,
    mean_absolute_error,
    pairwise_variety,
    peak_signal_to_noise,
    structural_similarity_of,
)
from gan.quality.realism import Extractor, realism
from gan.quality.report import QualityReport
from gan.quality.slices import Images, PairDistance, Segment, inside_ventricle, some_rows
from gan.quality.table import COLUMNS, Figure, Row, as_table
from gan.quality.two_sample import STEPS, two_sample_test
from gan.quality.variety import Draw, feature_distance, measure_variety, variety_rows
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
