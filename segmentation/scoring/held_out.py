"""The held-out (test) patients of a fold: slices in, label maps in each study's own grid out.

The label maps that a network drew on its test slices, in a small HDF5 file beside their scores.

A map is kept on the region that the network saw (1 mm pixels), with its reference. The pictures themselves stay in
the slice store, whose digest the file names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, one_line
from common.files import write_atomically
from imaging.slices.store import SliceStore
from imaging.studies.archive import StudyArchive
from imaging.studies.preparation import paste_region, restore_mask
from segmentation.scoring.scores import ScoredVolume
from segmentation.scoring.yardsticks import (
    ALL_BACKGROUND,
    MEAN_MASK,
    OTHER_PATIENT,
    all_background,
    mean_mask,
    other_patient,
)

PLACE_COLUMNS = ("case_id", "frame", "slice_index")
_FORMAT = "scarforge predictions 1"
_TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class PredictedSlices:
    """Test slices with their reference and what a network drew.

    Attributes:
        places: One row a slice with `PLACE_COLUMNS`.
        reference: (N, H, W) label values.
        prediction: The same shape.
        slices_digest: Of the slice store whose images they belong to.
    """

    places: pd.DataFrame
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    slices_digest: str

    def __post_init__(self) -> None:
        if self.reference.ndim != 3 or not len(self.places) == len(self.reference) == len(self.prediction):
            raise InputError(
                f"{len(self.places)} places, references {self.reference.shape} and predictions "
                f"{self.prediction.shape} do not belong together; give one of each a slice"
            )
        if self.reference.shape != self.prediction.shape:
            raise InputError(
                f"references {self.reference.shape} and predictions {self.prediction.shape} differ in size; "
                "give both on the network's region"
            )


def write_predictions(path: Path, slices: PredictedSlices) -> None:
    """Write the file, whole or not at all; the same slices give the same bytes."""
    write_atomically(path, lambda part: _write(part, slices))


def read_predictions(path: Path) -> PredictedSlices:
    """Read a file that `write_predictions` wrote.

    Raises:
        InputError: It is absent, damaged or of another kind.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_format(file)
            texts = {name: [value.decode() for value in file[name][:]] for name in PLACE_COLUMNS[:2]}
            places = pd.DataFrame({**texts, "slice_index": file["slice_index"][:]})
            return PredictedSlices(places, file["reference"][:], file["prediction"][:], str(file.attrs["digest"]))
    except (OSError, RuntimeError, KeyError, ValueError, InputError) as error:
        reason = one_line(error)
        raise InputError(
            f"{path}: is not a readable file of predictions ({reason}); rematerialise the scores asset that wrote it"
        ) from error


def _check_format(file: h5py.File) -> None:
    if file.attrs.get("format") != _FORMAT:
        raise ValueError("it lacks the format mark")


def _write(path: Path, slices: PredictedSlices) -> None:
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["digest"] = slices.slices_digest
        for name in PLACE_COLUMNS[:2]:
            file.create_dataset(name, data=slices.places[name].tolist(), dtype=_TEXT, track_times=False)
        indices = slices.places["slice_index"].to_numpy(np.int32)
        file.create_dataset("slice_index", data=indices, track_times=False)
        for name, maps in (("reference", slices.reference), ("prediction", slices.prediction)):
            file.create_dataset(
                name,
                data=maps.astype(np.uint8),
                chunks=(1, *maps.shape[1:]),
                compression="gzip",
                compression_opts=6,
                track_times=False,
            )


class HeldOutPatients:
    """A fold's test patients: their slices, and what is drawn on them brought to each study's own grid."""

    def __init__(self, archive: StudyArchive, store: SliceStore, regions: pd.DataFrame) -> None:
        self.archive, self.store, self.labels = archive, store, archive.label_set
        self.centres = {
            (str(row.case_id), str(row.frame)): (float(str(row.centre_row)), float(str(row.centre_col)))
            for row in regions.itertuples(index=False)
        }
        self.test, self.train = store.rows_of("test"), store.rows_of("train")

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
