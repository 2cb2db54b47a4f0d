"""Studies of a source, and the slices that the graph made of them."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imaging.phantom import PhantomConfig
from imaging.slices.store import SliceStore
from imaging.sources.config import SourceConfig
from imaging.sources.table import read_source as read
from imaging.studies.study import RejectedStudy, Study


def read_source(name: str, root: str | os.PathLike[str] | None = None, **settings: Any) -> Iterator[Study]:
    """Yield the studies of a folder one by one: image (S, H, W), mask (S, H, W), spacing in mm, patient, group.

    A study that cannot be used is left out, with a warning that names it and why.

    Args:
        name: The format, such as `emidec`, `acdc` or `nifti`; `scarforge sources` lists them.
        root: The folder that holds the studies; the built-in `phantom` needs none.
        settings: What the files leave open, such as `patient_pattern` (the settings `source.…` of the graph).

    Raises:
        InputError: The format is unknown, or the folder holds nothing of it.
    """
    for study in read(name, None if root is None else Path(root), PhantomConfig(), SourceConfig(**settings)):
        if isinstance(study, RejectedStudy):
            warnings.warn(study.reason, stacklevel=2)
        else:
            yield study


def open_slices(path: str | os.PathLike[str]) -> SliceStore:
    """Open a slice store, such as `workspace/emidec/quick/synthetic_slices/fold_0/slices.h5`, and check it.

    Returns:
        The store: `images()` (N, H, W) float16 in [0, 1], `masks()` (N, H, W) uint8, `rows` a table of N rows, and
        `label_set`. Slices are read when asked for.

    Raises:
        InputError: The file is missing, damaged or no slice store.
    """
    return SliceStore.open(Path(path))
