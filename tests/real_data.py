"""Finds real cardiac MRI for the tests that use it; such a test skips where there is none."""

import os
from pathlib import Path

import pytest

_VARIABLE = "SCARFORGE_TEST_DATA"
_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """Return the folder `name` (such as `emidec_roi`) of the real data, or skip the test that asks.

    The data lie in the folder that SCARFORGE_TEST_DATA names, else in `shared/data` beside the repository.
    """
    base = Path(os.environ.get(_VARIABLE, _BESIDE_THE_REPOSITORY))
    folder = base / name
    if not folder.is_dir():
        pytest.skip(f"real data {name!r} not found in {base}; set {_VARIABLE} to the folder that holds it")
    return folder
