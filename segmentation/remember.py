"""At the end of a training: describes the training and validation studies, for prediction to compare new ones with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.slice_store import SliceStore
from imaging.split import FoldSplit
from segmentation.cloud import fit_cloud
from segmentation.familiarity import Familiarity, describe, write_familiarity
from segmentation.plausibility import MEASURES, SeenRange, ventricle_measures
from segmentation.predict import Segmenter, load_segmenter
from training.compute import Compute

_FEWEST = 4  # training patients: with one left out, three remain

Key = tuple[str, str]  # patient and frame


def remember_training(folder: Path, real: SliceStore, split: FoldSplit, compute: Compute) -> Familiarity | None:
    """Write `familiarity.safetensors` into a finished model folder.

    Args:
        folder: Of the model.
        real: The real slices of all patients of the fold.
        split: Training patients are remembered, validation patients tell how far others may lie; test patients do
            nothing here.
        compute: Device and precision.

    Returns:
        What was written; None where fewer than four patients cannot tell what is usual.
    """
    if len(split.train) < _FEWEST:
        return None
    segmenter = load_segmenter(folder, compute, flips=False)
    training, validation = _keys(real, split.train), _keys(real, split.validation)
    described = {key: _describe(segmenter, real, key) for key in (*training, *validation)}
    patients = np.array([case_id for case_id, _ in training])
    clouds = {
        name: fit_cloud(_stack(described, training, name), patients, _stack(described, validation, name))
        for name in described[training[0]]
    }
    familiarity = Familiarity(clouds, _seen(real, training))
    write_familiarity(folder, familiarity)
    return familiarity


def _keys(real: SliceStore, patients: Sequence[str]) -> list[Key]:
    rows = real.rows[real.rows["case_id"].isin(patients)]
    return sorted(set(zip(rows["case_id"].astype(str), rows["frame"].astype(str), strict=True)))


def _index(real: SliceStore, key: Key) -> NDArray[np.int64]:
    rows = real.rows
    return np.flatnonzero((rows["case_id"] == key[0]) & (rows["frame"] == key[1]))


def _describe(segmenter: Segmenter, real: SliceStore, key: Key) -> dict[str, NDArray[np.float32]]:
    images = real.images(_index(real, key)).astype(np.float32)
    return describe(segmenter.features(images), images, segmenter.labels(images))


def _stack(described: dict[Key, dict[str, NDArray[np.float32]]], keys: Iterable[Key], name: str) -> NDArray[np.float32]:
    rows = [described[key][name] for key in keys]
    return np.stack(rows) if rows else np.empty((0, len(next(iter(described.values()))[name])), np.float32)


def _seen(real: SliceStore, keys: Iterable[Key]) -> SeenRange:
    measures = [ventricle_measures(real.masks(_index(real, key)), real.label_set) for key in keys]
    table = np.array([[one[name] for name in MEASURES] for one in measures])
    lowest, highest = np.fmin.reduce(table), np.fmax.reduce(table)  # NaN where no study has the measure
    return SeenRange(
        dict(zip(MEASURES, lowest.tolist(), strict=True)), dict(zip(MEASURES, highest.tolist(), strict=True))
    )
