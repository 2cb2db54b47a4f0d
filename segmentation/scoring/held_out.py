"""The held-out (test) patients of a fold: slices in, label maps in each study's own grid out.

The label maps that a network drew on its test slices, in a small HDF5 file beside their scores.

A map is kept on the region that the network saw (1 mm pixels), with its reference. The pictures themselves stay in
the slice store, whose digest the file names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, one_line
from common.files import write_atomically
from imaging.slices.part import PLACE_COLUMNS, LabelledSlices, PartSlices
from imaging.slices.store import SliceStore
from imaging.studies.archive import StudyArchive, check_compressed
from imaging.studies.preparation import paste_region, restore_mask
from imaging.studies.split import Part
from segmentation.scoring.scores import ScoredVolume
from segmentation.scoring.yardsticks import (
    ALL_BACKGROUND,
    MEAN_MASK,
    OTHER_PATIENT,
    all_background,
    mean_mask,
    other_patient,
)

_FORMAT = "scarforge predictions 1"
_TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class PredictedSlices:
    """Test slices and what a network drew.

    Attributes:
        reference: The slices' own label maps.
        prediction: (N, H, W) label values.
        slices_digest: Of the slice store whose images they belong to.
    """

    reference: LabelledSlices
    prediction: NDArray[np.uint8]
    slices_digest: str

    def __post_init__(self) -> None:
        self.reference.require_alike("predictions", self.prediction)


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
            reference = LabelledSlices(places, file["reference"][:])
            return PredictedSlices(reference, file["prediction"][:], str(file.attrs["digest"]))
    except (OSError, RuntimeError, KeyError, ValueError, InputError) as error:
        reason = one_line(error)
        raise InputError(
            f"{path}: is not a readable file of predictions ({reason}); rematerialise the scores asset that wrote it"
        ) from error


def _check_format(file: h5py.File) -> None:
    if file.attrs.get("format") != _FORMAT:
        raise ValueError("it lacks the format mark")


def _write(path: Path, slices: PredictedSlices) -> None:
    # In memory first: on a full disk HDF5's own way there ends the process as it frees what it could not write.
    with h5py.File(str(path), "w", libver=("v110", "v110"), driver="core", backing_store=False) as file:
        _fill(file, slices)
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)


def _fill(file: h5py.File, slices: PredictedSlices) -> None:
    file.attrs["format"] = _FORMAT
    file.attrs["digest"] = slices.slices_digest
    for name in PLACE_COLUMNS[:2]:
        file.create_dataset(name, data=slices.reference.places[name].tolist(), dtype=_TEXT, track_times=False)
    indices = slices.reference.slice_index.astype(np.int32)
    file.create_dataset("slice_index", data=indices, track_times=False)
    for name, maps in (("reference", slices.reference.masks), ("prediction", slices.prediction)):
        file.create_dataset(
            name,
            data=maps.astype(np.uint8),
            chunks=(1, *maps.shape[1:]),
            compression="gzip",
            compression_opts=6,
            track_times=False,
        )
    check_compressed(file[name] for name in ("reference", "prediction"))


class HeldOutPatients:
    """A fold's test patients: their slices, and what is drawn on them brought to each study's own grid.

    Args:
        archive: The studies.
        store: The fold's real slices.
        regions: Where they were cut.
        part: Another part to take in the test patients' place: validation patients decide what is not to be decided
            on test patients.
    """

    def __init__(self, archive: StudyArchive, store: SliceStore, regions: pd.DataFrame, part: Part = "test") -> None:
        self.archive, self.store, self.labels = archive, store, archive.label_set
        self.slices = PartSlices.of_part(store, part)
        self._training = LabelledSlices.of_part(store, "train")
        self.centres = {
            (str(row.case_id), str(row.frame)): (float(str(row.centre_row)), float(str(row.centre_col)))
            for row in regions.itertuples(index=False)
        }

    def images(self) -> NDArray[np.floating]:
        """Return the test slices (N, H, W)."""
        return self.slices.images

    def cases(self, masks: NDArray[np.uint8]) -> Iterator[ScoredVolume]:
        """Yield each test study's reference and prediction in its own grid; `masks` belong to the test slices."""
        for case_id, frame, rows in self.slices.stacks():
            study = self.archive.load(case_id, frame)
            pasted = paste_region(masks[rows], study.mask.shape, self.centres[case_id, frame])
            native = restore_mask(pasted, study.native_mask.shape, self.labels.num_classes)
            yield ScoredVolume(case_id, frame, study.native_mask, native, study.spacing_mm)

    def predicted(self, masks: NDArray[np.uint8]) -> PredictedSlices:
        """Return `masks`, which belong to the test slices, with their places and references, to be kept."""
        return PredictedSlices(self.slices, masks, self.store.digest)

    def yardsticks(self, seed: int) -> dict[str, NDArray[np.uint8]]:
        """Return what the trivial networks draw on the test slices.

        Another patient's masks are absent where no training patient has a frame that a test patient has.
        """
        mean = mean_mask(self._training.masks, self.labels.num_classes)
        found = {
            ALL_BACKGROUND: all_background(len(self.slices), mean.shape[0]),
            MEAN_MASK: np.repeat(mean[None], len(self.slices), axis=0),
        }
        borrowed = self._borrowed(seed)
        return found if borrowed is None else found | {OTHER_PATIENT: borrowed}

    def _borrowed(self, seed: int) -> NDArray[np.uint8] | None:
        """Return another patient's masks on the test slices; None where a frame is in no training patient."""
        borrowed = np.zeros_like(self.slices.masks)
        for case_id, frame, rows in self.slices.stacks():
            copied = other_patient(self._training, case_id, frame, len(rows), seed)
            if copied is None:
                return None
            borrowed[rows] = copied
        return borrowed
