"""The built-in phantom: simulated patients whose slices look like short-axis LGE.

It lets the whole graph run without data. Its figures say nothing about patients.
"""

from imaging.phantom.cohort import read_phantom, simulate_patient
from imaging.phantom.config import PhantomConfig

__all__ = ["PhantomConfig", "read_phantom", "simulate_patient"]
