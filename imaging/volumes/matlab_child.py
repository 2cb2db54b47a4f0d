"""Reads MATLAB's version 5 files (`-v6`, `-v7`) with SciPy, in a process of its own that has limits.

SciPy follows a damaged tag out of its tables, which ends the process, and takes as much memory as a file asks for.

    python -P -m imaging.volumes.matlab_child FILE MOST_VALUES NAME…

writes what each variable is said to be, as a line of JSON, then the named arrays of numbers, each as `.npy`.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import matfile_version

NUMERIC = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_AT_MOST_S = 60  # of the processor
_MOST_BYTES = 2 * 2**30  # of Python, NumPy and SciPy, whatever the file says


def main() -> None:
    """Do what the command line asks for; what is wrong ends the process with an exception."""
    path, most, *names = sys.argv[1:]
    _limit("RLIMIT_CPU", _AT_MOST_S)
    _limit("RLIMIT_AS", _MOST_BYTES)
    with Path(path).open("rb") as file:
        _send(file, int(most), names, sys.stdout.buffer)


def _send(file: BinaryIO, most: int, names: list[str], output: BinaryIO) -> None:
    if matfile_version(file)[0] != 1:
        raise ValueError("it does not begin as MATLAB's version 5 or 7.3 does")
    said = {name: (list(shape), kind) for name, shape, kind in whosmat(file) if not name.startswith("__")}
    sizes = {name: math.prod(said[name][0]) for name in names if name in said and is_array(*said[name], most)}
    _limit("RLIMIT_AS", _MOST_BYTES + 32 * sum(sizes.values()))  # eight bytes a value, stored, unfolded and in order
    read: Mapping[str, np.ndarray] = loadmat(file, variable_names=list(sizes)) if sizes else {}
    real = {name: read[name] for name in sizes if not np.iscomplexobj(read[name])}
    said |= {name: (said[name][0], "complex") for name in sizes.keys() - real}
    output.write(json.dumps({"said": said, "read": list(real)}).encode() + b"\n")
    for array in real.values():
        np.save(output, array, allow_pickle=False)


def is_array(shape: list[int], kind: str, most: int) -> bool:
    """Tell whether a variable is an array of numbers, of a size that can be meant."""
    return kind in NUMERIC and all(side > 0 for side in shape) and math.prod(shape) <= most


def _limit(what: str, most: int) -> None:
    """Limit this process, where the system can."""
    if sys.platform != "win32":
        import resource

        number = getattr(resource, what)
        resource.setrlimit(number, (most, resource.getrlimit(number)[1]))


if __name__ == "__main__":
    main()
