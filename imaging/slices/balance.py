"""Class balance of slices: how many hold an infarct, how many no-reflow, and drawing in those shares."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.config import FrozenConfig
from common.errors import InputError
from imaging.labels import LabelSet

CATEGORIES = ("no_infarct", "infarct", "no_reflow")

Share = Annotated[float, Field(ge=0, le=1)]


class BalanceConfig(FrozenConfig):
    """Shares of slices by content, as in the infarct-synthesis study (Cairo University 2025).

    Attributes:
        infarct_share: Slices with an infarct, no-reflow or not.
        no_reflow_share: Slices with no-reflow, which lies inside an infarct.
    """

    infarct_share: Share = 0.5
    no_reflow_share: Share = 0.46

    @model_validator(mode="after")
    def _no_reflow_is_inside_infarct(self) -> "BalanceConfig":
        if self.no_reflow_share > self.infarct_share:
            raise ValueError(
                f"no_reflow_share {self.no_reflow_share} is above infarct_share {self.infarct_share}; "
                "slices with no-reflow are counted among those with infarct"
            )
        return self


def slice_categories(masks: NDArray[np.integer], labels: LabelSet) -> NDArray[np.str_]:
    """Return for each mask of (N, H, W) the one of `CATEGORIES` that it belongs to."""
    categories = np.full(len(masks), "no_infarct", dtype="<U10")
    for tissue in ("infarct", "no_reflow"):  # the later, rarer one wins
        if tissue in labels.tissues:
            value = labels.tissues.index(tissue)
            categories[(masks == value).any(axis=(1, 2))] = tissue
    return categories


def category_shares(balance: BalanceConfig, available: set[str]) -> dict[str, float]:
    """Return the share of each available category; they sum to 1.

    A lesion category without slices leaves its share to the other lesion category, so that the balance of
    slices with and without infarct holds; when one side of that balance is missing the other takes all.
    """
    lesions = {
        "infarct": balance.infarct_share - balance.no_reflow_share,
        "no_reflow": balance.no_reflow_share,
    }
    lesions = _rescale({name: lesions[name] for name in sorted(available & set(lesions))}, balance.infarct_share)
    rest = {"no_infarct": 1 - balance.infarct_share} if "no_infarct" in available else {}
    return _rescale(rest | lesions, 1.0)


def apportion(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Split `count` into whole numbers in the given shares (largest remainder); they sum to `count`."""
    names = list(shares)
    exact = np.array([shares[name] for name in names]) * count
    whole = np.floor(exact + 1e-9).astype(int)
    for place in np.argsort(whole - exact, kind="stable")[: count - int(whole.sum())]:
        whole[place] += 1
    return dict(zip(names, whole.tolist(), strict=True))


def rows_by_category(categories: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each category of `slice_categories` that has some."""
    return {name: np.flatnonzero(categories == name) for name in np.unique(categories).tolist()}


def draw_balanced(
    rows: Mapping[str, NDArray[np.int64]], count: int, balance: BalanceConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` row numbers in the shares of `balance`, in random order.

    Within a category every slice is drawn equally often, but for the remainder.

    Args:
        rows: The rows of each category, from `rows_by_category`.
        count: How many to draw; may exceed the rows.
        balance: The shares; categories without rows give theirs to the others.
        rng: Source of the random choices.

    Raises:
        InputError: There is no row to draw from, or `count` is negative.
    """
    if not rows or count < 0:
        total = sum(map(len, rows.values()))
        raise InputError(f"cannot draw {count} slices from {total}; give at least one slice to draw from")
    shares = category_shares(balance, set(rows))
    draws = [_draw_evenly(rows[name], number, rng) for name, number in apportion(count, shares).items()]
    return rng.permutation(np.concatenate(draws))


def _draw_evenly(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds, remainder = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, rounds), rng.permutation(rows)[:remainder]])


def _rescale(shares: Mapping[str, float], total: float) -> dict[str, float]:
    """Return the shares scaled to sum to `total`; equal ones where all are zero."""
    present: Any = sum(shares.values())
    if present == 0:
        return {name: total / len(shares) for name in shares}
    return {name: share * total / present for name, share in shares.items()}
