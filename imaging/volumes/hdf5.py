"""Datasets of an HDF5 file that somebody else may have written: in this very file, and of a size that can be meant.

HDF5 follows a link into another file, keeps the content of a dataset in another or gathers it from several, and a few
bytes may stand for any number of equal values.
"""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def is_elsewhere(dataset: h5py.Dataset) -> bool:
    """Tell whether the content of a dataset lies in another file."""
    return bool(dataset.external) or bool(dataset.is_virtual)


def own_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file of its group.

    Raises:
        ValueError: It is a link, no dataset, or its content lies elsewhere.
        KeyError: There is none of this name.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(f"it holds no {name!r}")
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], h5py.Dataset) or is_elsewhere(group[name]):
        raise ValueError(f"{name} is no dataset of this file")
    return group[name]


def read_own(group: h5py.Group, name: str, most_bytes: int) -> NDArray[Any]:
    """Read a dataset whole.

    Raises:
        ValueError: As `own_dataset`, or it announces more bytes than `most_bytes`.
        KeyError: There is none of this name.
    """
    dataset = own_dataset(group, name)
    if dataset.shape is None or dataset.nbytes > most_bytes:
        raise ValueError(f"{name} announces {0 if dataset.shape is None else dataset.nbytes} bytes")
    return np.asarray(dataset[()])
