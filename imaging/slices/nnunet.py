"""A training set as a data set of nnU-Net v2, in its raw layout: slices to train on, studies to test on.

`imagesTr`, `labelsTr`: a case a slice, those of the training set and the real ones of the validation patients.
`imagesTs`, `labelsTs`: a case a test study. `splits_final.json`: who is trained on and who validated. Every file is a
three-dimensional NIfTI, a slice being one of thickness 1: nnU-Net then reads slices and studies with one reader, keeps
intensities in [0, 1] as they are (its PNG reader would want whole numbers), and plans its 2-D configuration alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_json
from common.progress import track
from imaging.labels import LabelSet
from imaging.slices.store import SliceStore
from imaging.studies.leakage import assert_no_leak
from imaging.studies.split import FoldSplit

FIRST_CHANNEL = "_0000"
ENDING = ".nii.gz"
SPLITS = "splits_final.json"
_nibabel: Any = nibabel  # typed only in part
_CHANNEL = "LGE"  # a name that nnU-Net knows nothing of: it normalises each image by its own mean and deviation
_FOLDS = 5  # of nnU-Net, which draws its own split for a fold that `splits_final.json` lacks
_SLICE_MM = 10.0  # of single slices; larger than a pixel, so that nnU-Net plans planes of rows and columns
_BLOCK = 256


def write_nnunet(
    folder: Path, training: SliceStore, real: SliceStore, split: FoldSplit, slice_mm: Mapping[tuple[str, str], float]
) -> dict[str, int]:
    """Write one arm's data set and return how many cases each part has.

    Args:
        folder: `DatasetNNN_NAME`, empty or absent.
        training: The arm's training set.
        real: All patients' real slices, of which the validation and test patients' are taken.
        split: The fold.
        slice_mm: Distance of slices by (case_id, frame).

    Raises:
        InputError: A validation or test patient, or a slice of theirs, is in the training set.
    """
    assert_no_leak(training.rows, split, str(training.path))
    names = patient_names(pd.concat([real.rows["case_id"], training.rows["case_id"]]))
    validation = real.rows[real.rows["case_id"].isin(split.validation)]
    fold = {
        "train": _write_slices(folder, training, training.rows, names, "t"),
        "val": _write_slices(folder, real, validation, names, "v"),
    }
    tested = _write_studies(folder, real, real.rows[real.rows["case_id"].isin(split.test)], names, slice_mm)
    counts = {"train": len(fold["train"]), "validation": len(fold["val"]), "test": tested}
    (folder / SPLITS).write_text(json.dumps([fold] * _FOLDS, indent=1) + "\n", encoding="utf-8")
    write_json(folder / "dataset.json", dataset_json(training.label_set, counts["train"] + counts["validation"]))
    return counts


def dataset_json(labels: LabelSet, cases: int) -> dict[str, Any]:
    """Return what nnU-Net reads in `dataset.json`."""
    return {
        "channel_names": {"0": _CHANNEL},
        "labels": {tissue: value for value, tissue in enumerate(labels.tissues)},
        "numTraining": cases,
        "file_ending": ENDING,
    }


def patient_names(patients: "pd.Series[str]") -> dict[str, str]:
    """Return each patient's name in file names: what is no letter, digit, hyphen or underscore becomes a hyphen."""
    names: dict[str, str] = {}
    for patient in sorted(set(patients)):
        short = re.sub(r"[^A-Za-z0-9_-]+", "-", patient).strip("-") or "patient"
        taken = set(names.values())
        names[patient] = next(name for name in _numbered(short) if name not in taken)
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _write_slices(
    folder: Path, store: SliceStore, rows: pd.DataFrame, names: Mapping[str, str], part: str
) -> list[str]:
    """Write these rows of a store as a case each and return the cases' names, which the row's number makes unique."""
    cases = [
        f"{part}{place:05d}_{names[row['case_id']]}_{row['frame']}s{row['slice_index']:02d}_{row['origin']}"
        for place, row in zip(rows.index, rows.to_dict("records"), strict=True)
    ]
    for start in track(range(0, len(cases), _BLOCK), f"slices of {folder.name}"):
        at = rows.index.to_numpy()[start : start + _BLOCK]
        for case, image, mask in zip(cases[start:], store.images(at), store.masks(at), strict=False):
            _write_case(folder, "Tr", case, image[None], mask[None], _SLICE_MM)
    return cases


def _write_studies(
    folder: Path,
    store: SliceStore,
    rows: pd.DataFrame,
    names: Mapping[str, str],
    slice_mm: Mapping[tuple[str, str], float],
) -> int:
    """Write these patients' slices as a case a study and return how many there are."""
    studies = rows.groupby(["case_id", "frame"], sort=True)
    for (case_id, frame), of_study in studies:
        at = of_study.sort_values("slice_index").index.to_numpy()
        case = "_".join(filter(None, (names[str(case_id)], str(frame))))
        distance = slice_mm[str(case_id), str(frame)]
        _write_case(folder, "Ts", case, store.images(at), store.masks(at), distance)
    return len(studies)


def _write_case(
    folder: Path, part: str, case: str, images: NDArray[np.float16], masks: NDArray[np.uint8], slice_mm: float
) -> None:
    """Write slices (S, H, W) of 1 mm pixels and their labels, as a scanner's patient lies: columns to the left."""
    affine = np.diag([-1.0, -1.0, slice_mm, 1.0])
    for place, values, kind in (("images", images, np.float32), ("labels", masks, np.uint8)):
        path = folder / f"{place}{part}" / f"{case}{FIRST_CHANNEL * (place == 'images')}{ENDING}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = np.ascontiguousarray(values.transpose(2, 1, 0), dtype=kind)  # NIfTI: column, row, slice
        _nibabel.save(_nibabel.Nifti1Image(data, affine), path)
