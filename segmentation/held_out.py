"""The held-out (test) patients of a fold: slices in, label maps in each study's own grid out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.prepare import paste_region, restore_mask
from imaging.slice_store import SliceStore
from imaging.split import FoldSplit
from imaging.study_archive import StudyArchive
from segmentation.prediction_file import PLACE_COLUMNS, PredictedSlices
from segmentation.scores import ScoredVolume
from segmentation.yardsticks import (
    ALL_BACKGROUND,
    MEAN_MASK,
    OTHER_PATIENT,
    all_background,
    mean_mask,
    other_patient,
)


class HeldOutPatients:
    """A fold's test patients: their slices, and what is drawn on them brought to each study's own grid."""

    def __init__(self, archive: StudyArchive, store: SliceStore, regions: pd.DataFrame, split: FoldSplit) -> None:
        self.archive, self.store, self.labels = archive, store, archive.label_set
        self.centres = {
            (str(row.case_id), str(row.frame)): (float(str(row.centre_row)), float(str(row.centre_col)))
            for row in regions.itertuples(index=False)
        }
        rows = self.store.rows
        self.test = np.flatnonzero(rows["case_id"].isin(split.test).to_numpy())
        self.train = np.flatnonzero(rows["case_id"].isin(split.train).to_numpy())

    def images(self) -> NDArray[np.float32]:
        """Return the test slices (N, H, W)."""
        return self.store.images(self.test).astype(np.float32)

    def cases(self, masks: NDArray[np.uint8]) -> Iterator[ScoredVolume]:
        """Yield each test study's reference and prediction in its own grid; `masks` belong to the test rows."""
        rows = self.store.rows.iloc[self.test].reset_index(drop=True)
        for key, part in rows.groupby(["case_id", "frame"], sort=True):
            case_id, frame = _text_pair(key)
            study = self.archive.load(case_id, frame)
            ordered = masks[part.sort_values("slice_index").index.to_numpy()]
            pasted = paste_region(ordered, study.mask.shape, self.centres[case_id, frame])
            native = restore_mask(pasted, study.native_mask.shape, self.labels.num_classes)
            yield ScoredVolume(case_id, frame, study.native_mask, native, study.spacing_mm)

    @property
    def studies(self) -> NDArray[np.str_]:
        """The study of each test row."""
        rows = self.store.rows.iloc[self.test]
        return (rows["case_id"] + "/" + rows["frame"]).to_numpy(dtype=str)

    def predicted(self, masks: NDArray[np.uint8]) -> PredictedSlices:
        """Return `masks`, which belong to the test rows, with their places and references, to be kept."""
        places = self.store.rows.iloc[self.test][list(PLACE_COLUMNS)].reset_index(drop=True)
        return PredictedSlices(places, self.store.masks(self.test), masks, self.store.digest)

    def yardsticks(self, seed: int) -> dict[str, NDArray[np.uint8]]:
        """Return what the trivial networks draw on the test rows.

        Another patient's masks are absent where no training patient has a frame that a test patient has.
        """
        training = self.store.masks(self.train)
        mean = mean_mask(training, self.labels.num_classes)
        found = {
            ALL_BACKGROUND: all_background(len(self.test), mean.shape[0]),
            MEAN_MASK: np.repeat(mean[None], len(self.test), axis=0),
        }
        borrowed = self._borrowed(training, seed)
        return found if borrowed is None else found | {OTHER_PATIENT: borrowed}

    def _borrowed(self, training: NDArray[np.uint8], seed: int) -> NDArray[np.uint8] | None:
        """Return another patient's masks on the test rows; None where a frame is in no training patient."""
        borrowed = np.zeros((len(self.test), *training.shape[1:]), np.uint8)
        rows = self.store.rows.iloc[self.test].reset_index(drop=True)
        lenders = self.store.rows.iloc[self.train].reset_index(drop=True)
        for key, part in rows.groupby(["case_id", "frame"], sort=True):
            case_id, frame = _text_pair(key)
            places = part.sort_values("slice_index").index.to_numpy()
            copied = other_patient(training, lenders, case_id, frame, len(places), seed)
            if copied is None:
                return None
            borrowed[places] = copied
        return borrowed


def _text_pair(key: Any) -> tuple[str, str]:
    case_id, frame = key
    return str(case_id), str(frame)
