"""Draws that are refused, and drawn again with the next numbers from the seed until enough are accepted.

Refused is a draw whose lesion a segmenter trained on real slices does not find, or that the search for copies names.

What does not live here: how anything is drawn, and the segmenter; both come in as functions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from gan.quality.copies import (
    CopySearch,
    Nearest,
    appearance,
    appearance_in_holes,
    borrowed_holes,
    nearest,
    turned,
    wall_appearance,
)
from gan.quality.slices import Segment
from imaging.dice import areas, dice
from imaging.labels import Tissue
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStoreWriter, StoreAttributes

Reasons = NDArray[np.object_]
Flags = NDArray[np.bool_]

NOT_FOUND, COPY = "lesion not found", "copy"


@dataclass(frozen=True, eq=False)
class Draws:
    """Drawn slices.

    Attributes:
        images: (N, H, W) float16 in [0, 1].
        masks: (N, H, W) labels.
        holes: (N, H, W) 1 where something was painted; None where all of the ventricle was.
        rows: N rows of a store; `replica` is the number of the draw.
    """

    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    holes: NDArray[np.uint8] | None
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    def replaced(self, places: NDArray[np.integer], others: "Draws") -> "Draws":
        """Return the draws with others in some places."""
        images, masks = self.images.copy(), self.masks.copy()
        images[places], masks[places] = others.images, others.masks
        holes = None if self.holes is None else self.holes.copy()
        if holes is not None and others.holes is not None:
            holes[places] = others.holes
        order = np.arange(len(self))
        order[places] = len(self) + np.arange(len(places))
        rows = pd.concat([self.rows, others.rows[self.rows.columns]], ignore_index=True).iloc[order]
        return Draws(images, masks, holes, rows.reset_index(drop=True))


def joined_draws(parts: Sequence[Draws]) -> Draws:
    """Return several lots of draws as one."""
    holes = [part.holes for part in parts if part.holes is not None]
    images, masks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "masks"))
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    return Draws(images, masks, np.concatenate(holes) if holes else None, rows)


def write_draws(path: Path, attributes: StoreAttributes, draws: Iterable[Draws]) -> None:
    """Write draws into a store at `path`, with their holes as the extra `hole` where they have any."""
    lots = iter(draws)
    first = next(lots)
    with SliceStoreWriter(path, attributes, () if first.holes is None else ("hole",)) as writer:
        for some in chain([first], lots):
            holes = {} if some.holes is None else {"hole": some.holes}
            writer.append(some.images, some.masks, some.rows, **holes)


Refuse = Callable[[Draws], Reasons]
DrawAgain = Callable[[NDArray[np.intp], NDArray[np.intp]], Draws]


@dataclass(frozen=True)
class Filter:
    """What refuses draws.

    Attributes:
        refuse: Gives each draw's reason to be refused, "" to accept it. Its first call is given all draws, later ones
            those that were drawn again.
        most_draws: So many times the slices that are asked for are drawn at most, all tries together.
        identity: What decides the verdicts, for the store's parameters.
    """

    refuse: Refuse
    most_draws: int
    identity: Mapping[str, Any]

    def told(self, wanted: int, refused: Mapping[str, int]) -> dict[str, Any]:
        """Return what the store's parameters say of a generation."""
        counts = {NOT_FOUND: 0, **({COPY: 0} if self.identity.get("copies") else {}), **refused}
        return {**self.identity, "draws": wanted + sum(refused.values()), "refused": counts}


def draw_until_accepted(first: Draws, draw_again: DrawAgain, chosen: Filter) -> tuple[Draws, Counter[str]]:
    """Draw refused slices again until none is.

    Args:
        first: Draws number 0 to N - 1, one for each place.
        draw_again: Takes numbers of draws that were not made yet and the places whose draws were refused; returns draws
            of the same categories.
        chosen: What refuses.

    Returns:
        N accepted draws, and how many were refused for each reason.

    Raises:
        InputError: `most_draws` times N draws did not give N accepted ones.
    """
    accepted, refused, drawn = first, Counter[str](), len(first)
    reasons = chosen.refuse(first)
    while (places := np.flatnonzero(reasons != "")).size:
        refused.update(reasons[places].tolist())
        if drawn + len(places) > chosen.most_draws * len(first):
            raise InputError(_too_many(len(first), drawn, len(places), refused))
        more = draw_again(np.arange(drawn, drawn + len(places)), places)
        drawn += len(places)
        accepted = accepted.replaced(places, more)
        reasons[places] = chosen.refuse(more)
    return accepted, refused


def _too_many(wanted: int, drawn: int, left: int, refused: Counter[str]) -> str:
    why = ", ".join(f"{reason}: {times:,}" for reason, times in refused.most_common())
    return (
        f"synthetic_slices: of {drawn:,} draws for {wanted:,} slices {refused.total():,} were refused ({why}) and "
        f"{left:,} slices are missing; lower synthesis.refuse_quantile, raise synthesis.refuse_draws, train Pix2Pix "
        "longer, or set synthesis.refuse=false"
    )


def judged_by(
    segment: Segment, training: PartSlices, quantile: float, most_draws: int, copies: bool, seed: int
) -> Filter:
    """Return the filter of a judge and of the search for copies.

    A lesion is found where the judge's Dice of it, infarct and no-reflow together, is at least the `quantile` of its
    Dice on real slices with a lesion, and above 0. Those are training patients', which the judge has seen: the hearts
    that are drawn into are theirs, too, and validation patients may not decide what is trained on.

    Args:
        segment: The judge: images (N, H, W) to labels (N, H, W), trained on real slices only.
        training: All real slices of training patients that show a ventricle.
        quantile: Of the judge's Dice on their lesions.
        most_draws: See `Filter`.
        copies: Whether copies are refused as well; transplanted lesions are their donors' by design.
        seed: Of the search for copies.

    Raises:
        InputError: No training slice bears a lesion.
    """
    threshold = found_lesions_limit(training, segment, quantile)
    search = _CopyNamer(training, seed) if copies else None

    def refuse(draws: Draws) -> Reasons:
        found = lesion_dice(draws.images, draws.masks, segment)
        reasons = np.full(len(draws), "", dtype=object)
        if search is not None:
            reasons[search(draws)] = COPY
        reasons[(found < threshold) | (found == 0)] = NOT_FOUND
        return reasons

    return Filter(refuse, most_draws, {"quantile": quantile, "threshold": round(threshold, 6), "copies": copies})


def found_lesions_limit(training: PartSlices, segment: Segment, quantile: float) -> float:
    """Return the quantile of a judge's Dice over real slices with a lesion.

    Raises:
        InputError: There are none.
    """
    rows = np.flatnonzero((training.masks >= Tissue.INFARCT).any(axis=(1, 2)))
    if not len(rows):
        raise InputError(
            f"synthesis.refuse: none of {len(training)} training slices bears a lesion by which to judge draws; "
            "set synthesis.refuse=false"
        )
    return float(np.quantile(lesion_dice(training.images[rows], training.masks[rows], segment), quantile))


def lesion_dice(images: NDArray[np.floating], masks: NDArray[np.uint8], segment: Segment) -> NDArray[np.float64]:
    """Return the Dice (N,) of each slice's lesion, infarct and no-reflow together; NaN where its mask bears none."""
    shared, asked, drawn = areas(masks >= Tissue.INFARCT, segment(images) >= Tissue.INFARCT)
    found = dice(shared, asked, drawn)
    return np.where((masks >= Tissue.INFARCT).any(axis=(1, 2)), found, np.nan)


class _CopyNamer:
    """Names the copies among draws, as `gan.quality.copies` does, by the chance that the first draws' holes give."""

    def __init__(self, training: PartSlices, seed: int) -> None:
        self._training, self._seed = training, seed
        self._chance: Nearest | None = None
        self._ways = np.zeros((0, 0), np.float32)

    def __call__(self, draws: Draws) -> Flags:
        rows = np.arange(len(draws)) if draws.holes is None else np.flatnonzero(draws.holes.any(axis=(1, 2)))
        named = np.zeros(len(draws), dtype=bool)
        if len(rows):
            named[rows] = self._copied(draws, rows)
        return named

    def _copied(self, draws: Draws, rows: NDArray[np.integer]) -> Flags:
        images, masks, own, within = draws.images[rows].astype(np.float32), draws.masks[rows], None, None
        if draws.holes is None:
            vectors = appearance(images, masks)
        else:
            vectors, within = appearance_in_holes(images, masks, draws.holes[rows])
            own = draws.rows["case_id"].to_numpy(dtype=str)[rows]
        cases = self._training.case_ids
        chance = self._chance or self._by_chance(within)
        return CopySearch(nearest(vectors, self._ways, cases, own, within), chance).copied()

    def _by_chance(self, within: Flags | None) -> Nearest:
        """Compare training patients with each other, in holes like the first draws'."""
        images, masks, cases = self._training.images, self._training.masks, self._training.case_ids
        looks = appearance(images, masks) if within is None else wall_appearance(images, masks)
        self._ways = looks if within is None else turned(looks)
        like = None if within is None else borrowed_holes(within, len(looks), self._seed)
        self._chance = nearest(looks, self._ways, cases, cases, like)
        return self._chance
