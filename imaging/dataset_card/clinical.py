"""Summarises what a source tells about its patients beside the images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

_COMMONEST = 4
_LONGEST = 40  # characters of a value
_MOST_CODES = 6
CLINICAL_COLUMNS = ("field", "patients", "summary")


def clinical_table(clinical: pd.DataFrame) -> pd.DataFrame:
    """Return one row a field with how many patients have it and what it holds.

    Numbers give median and range; whole numbers 0 to 9 with few distinct values are codes, such as a Killip class, and
    are counted as words are. A field whose values all differ is not listed: they may be names or dates.

    Args:
        clinical: `case_id` and one text column a field, empty where the patient lacks it.

    Returns:
        Columns field, patients, summary.
    """
    columns = [str(name) for name in clinical.columns if name != "case_id"]
    filled = {name: [str(text).strip() for text in clinical[name] if str(text).strip()] for name in columns}
    rows = [(name, len(values), _summary(values)) for name, values in filled.items() if values]
    return pd.DataFrame(rows, columns=list(CLINICAL_COLUMNS))


def _summary(values: Sequence[str]) -> str:
    numbers = [number for number in map(_number, values) if number is not None]
    if 2 * len(numbers) > len(values) and not _are_codes(numbers):
        return _number_summary(numbers, len(values) - len(numbers))
    counts = pd.Series(values).value_counts()
    if len(counts) == len(values) > _COMMONEST:
        return f"{len(counts)} different values"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown = [f"{_shortened(str(value))}: {count}" for value, count in ordered[:_COMMONEST]]
    rest = len(ordered) - _COMMONEST
    return ", ".join(shown) + (f" and {rest} other values" if rest > 0 else "")


def _number_summary(numbers: Sequence[float], others: int) -> str:
    low, middle, high = (f"{value:.5g}" for value in np.percentile(numbers, [0, 50, 100]))
    text = f"median {middle} ({low} to {high})" if low != high else low
    return f"{text}; {others} not a number" if others else text


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _are_codes(numbers: Sequence[float]) -> bool:
    return len(set(numbers)) <= _MOST_CODES and all(value in range(10) for value in numbers)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
