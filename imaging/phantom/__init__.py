"""The built-in phantom: simulated patients whose stacks look like short-axis LGE.

It lets the whole graph run without data. Its figures say nothing about patients.

A stack is made in four steps, one module each: the heart (`heart`) with its lesion (`lesion`) and the chest around it
(`chest`) are drawn and painted as materials on a fine grid; each material has a signal (`contrast`); the scanner
(`scanner`) averages the fine grid, shades, blurs and adds noise; `cohort` puts patients together.
"""

from imaging.phantom.cohort import read_phantom, simulate_patient
from imaging.phantom.config import PhantomConfig

__all__ = ["PhantomConfig", "read_phantom", "simulate_patient"]
