"""Names and numbers as people read them: on pages, in charts, on the terminal."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

ABSENT = "–"

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "": ABSENT,
        "attention_res_unet": "Attention Res-UNet",
        "halsr_net": "HALSR-Net",
        "real_only": "real only",
        "real_plus_gan": "real + GAN",
    }
)


def words(name: object) -> str:
    """Return the name of a tissue, group, network, arm, yardstick or column as people write it; an empty one as a dash.

    No-reflow has a hyphen wherever it stands. Infarct is the tissue, infarction the official group.
    """
    text = str(name)
    return _NAMES.get(text, text.replace("no_reflow", "no-reflow").replace("_", " "))


def number(value: float, form: str = ".3f") -> str:
    """Return a number, a dash where there is none; minus signs are typographic."""
    return format(value, form).replace("-", "−") if np.isfinite(value) else ABSENT


def interval(low: float, high: float, form: str = ".3f") -> str:
    """Return `low to high`, a dash where there is none."""
    return f"{number(low, form)} to {number(high, form)}" if np.isfinite(low) and np.isfinite(high) else ABSENT


def whole(value: float) -> str:
    """Return a count, with a half where a median has one."""
    return f"{value:,.1f}".removesuffix(".0") if np.isfinite(value) else ABSENT


def significant(value: float | None) -> str:
    """Return a measured number with about three significant digits; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return ABSENT
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return "0" if value == 0 else f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{significant(100 * share)} %"


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
