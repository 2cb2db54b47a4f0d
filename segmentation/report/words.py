"""Names and numbers as the report writes them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from segmentation.comparison import REAL_ONLY, REAL_PLUS_GAN

ABSENT = "–"
ARMS = (REAL_ONLY, REAL_PLUS_GAN)

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "attention_res_unet": "Attention Res-UNet",
        "halsr_net": "HALSR-Net",
        REAL_ONLY: "real only",
        REAL_PLUS_GAN: "real + GAN",
        "no_reflow": "no-reflow",
    }
)


def words(name: object) -> str:
    """Return the name of a network, arm, tissue or yardstick as people write it."""
    return _NAMES.get(str(name), str(name).replace("_", " "))


def number(value: float, form: str = ".3f") -> str:
    """Return a number, a dash where there is none; minus signs are typographic."""
    return format(value, form).replace("-", "−") if np.isfinite(value) else ABSENT


def interval(low: float, high: float, form: str = ".3f") -> str:
    """Return `low to high`, a dash where there is none."""
    return f"{number(low, form)} to {number(high, form)}" if np.isfinite(low) and np.isfinite(high) else ABSENT


def count(amount: int, thing: str, things: str = "") -> str:
    """Return an amount with its thing in the right number."""
    return f"{amount:,} {thing if amount == 1 else things or thing + 's'}"


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def upper_first(text: str) -> str:
    """Return the text with its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]
