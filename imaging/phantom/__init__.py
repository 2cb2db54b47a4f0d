"""The built-in phantom: simulated patients whose stacks look like short-axis LGE.

It lets the whole graph run without data. Its figures say nothing about patients.

A stack is made in three steps, one module each: the heart with its lesion and the chest around it (`anatomy`) are
drawn and painted as materials on a fine grid; each material has a signal (`materials`); the scanner (`scanner`)
averages the fine grid, shades, blurs and adds noise. `cohort` puts patients together.
"""

from imaging.phantom.config import PhantomConfig
from imaging.phantom.scanner import read_phantom, simulate_patient

__all__ = ["PhantomConfig", "read_phantom", "simulate_patient"]
