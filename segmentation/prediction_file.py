"""The label maps that a network drew on its test slices, in a small HDF5 file beside their scores.

A map is kept on the region that the network saw (1 mm pixels), with its reference. The pictures themselves stay in
the slice store, whose digest the file names.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError
from training.files import write_atomically

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
        reason = " ".join(str(error).split())
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
