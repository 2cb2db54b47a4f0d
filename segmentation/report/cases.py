"""The best, the median and the worst patient by a stated rule, with the contours of reference and predictions."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.pages.kit import Picture, Table, png_address, table
from common.pages.words import listed, number, words
from imaging.labels import LabelSet
from segmentation.model_kind import ARMS, REAL_ONLY, REAL_PLUS_GAN
from segmentation.report.material import Arm, Case, ReportMaterial
from segmentation.scoring.scores import patient_rows

_LESIONS = ("infarct", "no_reflow")
_TILE_PX, _GAP_PX, _MARGIN_PX, _LINE_PX = 360, 8, 8, 2

Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Choice:
    """Which patients are shown.

    Attributes:
        rule: In words.
        network: Whose Dice ranks them, and whose contours are shown.
        ranking: All patients ranked, (case_id, mean Dice), best first.
        chosen: Place in words and case_id.
    """

    rule: str
    network: str
    ranking: Ranking
    chosen: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShownCase:
    """A patient on the page: `tiles` are titles of the picture's columns, `dice` is by tissue and arm."""

    place: str
    case_id: str
    picture: Picture
    tiles: tuple[str, ...]
    caption: str
    dice: Table


def choose_cases(material: ReportMaterial) -> Choice | None:
    """Rank the patients who have a lesion (all, where none has), by the last arm that was scored; None without scores.

    The arm is real plus GAN of the first network, or real only where that is all there is.
    """
    scores = material.scores
    dice = scores[(scores["rule"] == "positive") & (scores["metric"] == "dice")]
    for network in material.networks:
        own = dice[dice["network"] == network]
        arms = [arm for arm in (REAL_PLUS_GAN, REAL_ONLY) if arm in set(own["training_set"])]
        if arms:
            return _choice(own[own["training_set"] == arms[0]], network, arms[0], material)
    return None


def show_cases(material: ReportMaterial, choice: Choice) -> list[ShownCase]:
    """Draw the chosen patients of whom there are pictures."""
    known = {case.case_id: case for case in material.cases if case.images is not None}
    return [_shown(material, choice, place, known[case_id]) for place, case_id in choice.chosen if case_id in known]


def contour_tile(image: NDArray[np.floating], mask: NDArray[np.uint8], labels: LabelSet) -> NDArray[np.uint8]:
    """Return a square image (H, H) in [0, 1] enlarged to an RGB tile, each tissue of the mask outlined."""
    size = (_TILE_PX, _TILE_PX)
    grey = np.clip(cv2.resize(np.asarray(image, np.float32), size, interpolation=cv2.INTER_CUBIC), 0, 1)
    tile = np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
    for value, _ in labels.foreground:
        inside = cv2.resize((mask == value).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, labels.colours[value], _LINE_PX, cv2.LINE_AA)
    return tile


def slice_shown(reference: NDArray[np.uint8], labels: LabelSet) -> int:
    """Return the slice (of S, H, W) with most lesion, or with most myocardium where there is no lesion."""
    lesions = [labels.tissues.index(name) for name in _LESIONS if name in labels.tissues]
    for values in (lesions, list(labels.official_groups["myocardium"])):
        pixels = np.isin(reference, values).sum(axis=(1, 2))
        if pixels.any():
            return int(pixels.argmax())
    return len(reference) // 2


def _choice(dice: pd.DataFrame, network: str, arm: str, material: ReportMaterial) -> Choice:
    tissues = [tissue for tissue in _LESIONS if tissue in set(dice["tissue"])]
    tissues = tissues or [tissue for _, tissue in material.labels.foreground if tissue in set(dice["tissue"])]
    means = dice[dice["tissue"].isin(tissues)].groupby(["case_id", "tissue"])["value"].mean().groupby("case_id").mean()
    ranked = means.sort_values(ascending=False, kind="stable")
    ranking = [(str(case_id), float(value)) for case_id, value in ranked.items()]
    seeds = ", mean over seeds" if len(set(dice["seed"])) > 1 else ""
    rule = (
        f"Ranked by the patient's mean Dice over {listed([words(tissue) for tissue in tissues])}, whichever the "
        f"reference holds (rule “positive”{seeds}), of {words(network)} trained on {words(arm)}; "
        f"{len(ranking)} of its {_tested(material, network)} test patients have one of these tissues"
    )
    return Choice(rule, network, ranking, _places(ranking))


def _tested(material: ReportMaterial, network: str) -> int:
    own = material.scores[material.scores["network"] == network]
    return int(patient_rows(own)["case_id"].nunique())


def _places(ranking: Ranking) -> tuple[tuple[str, str], ...]:
    names = [case_id for case_id, _ in ranking]
    if len(names) < 2:
        return tuple(("the only patient", name) for name in names)
    if len(names) == 2:
        return ("best", names[0]), ("worst", names[1])
    return ("best", names[0]), ("median", names[len(names) // 2]), ("worst", names[-1])


def _shown(material: ReportMaterial, choice: Choice, place: str, case: Case) -> ShownCase:
    assert case.images is not None
    index = slice_shown(case.reference, material.labels)
    drawn = _first_seeds(case.predictions, choice.network)
    masks = [np.zeros_like(case.reference[index]), case.reference[index], *(mask[index] for mask in drawn.values())]
    window = _window(masks)
    tiles = [contour_tile(case.images[index][window], mask[window], material.labels) for mask in masks]
    titles = ("image", "reference", *(words(arm.training_set) for arm in drawn))
    name = f"{case.case_id} {case.frame}".strip()
    caption = f"slice {index + 1} of {len(case.reference)}"
    picture = Picture(png_address(_side_by_side(tiles)), f"{name}, {caption}: {listed(titles)}")
    return ShownCase(place, name, picture, titles, caption, _dice_table(material, choice.network, case.case_id))


def _first_seeds(predictions: Mapping[Arm, NDArray[np.uint8]], network: str) -> dict[Arm, NDArray[np.uint8]]:
    """Return the prediction of the lowest seed of each arm of a network."""
    found: dict[Arm, NDArray[np.uint8]] = {}
    for training_set in ARMS:
        own = sorted(arm for arm in predictions if (arm.network, arm.training_set) == (network, training_set))
        found |= {arm: predictions[arm] for arm in own[:1]}
    return found


def _window(masks: Sequence[NDArray[np.uint8]]) -> tuple[slice, slice]:
    """Return the square around everything that any mask holds, with a margin; the whole slice where all are empty."""
    height, width = masks[0].shape
    places = np.argwhere(np.any([mask > 0 for mask in masks], axis=0))
    if not len(places):
        return slice(0, height), slice(0, width)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    side = min(int((high - low).max()) + 2 * _MARGIN_PX, height, width)
    centre = (low + high) // 2
    top, left = (int(np.clip(c - side // 2, 0, n - side)) for c, n in zip(centre, (height, width), strict=True))
    return slice(top, top + side), slice(left, left + side)


def _side_by_side(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((_TILE_PX, _GAP_PX, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _dice_table(material: ReportMaterial, network: str, case_id: str) -> Table:
    """Return tissue, real only and real + GAN for every tissue of the patient, means over seeds."""
    scores = material.scores
    own = scores[
        (scores["network"] == network)
        & (scores["case_id"] == case_id)
        & (scores["rule"] == "positive")
        & (scores["metric"] == "dice")
    ]
    means: Mapping[Hashable, Any] = own.groupby(["tissue", "training_set"])["value"].mean().to_dict()
    tissues = [tissue for _, tissue in material.labels.foreground if tissue in set(own["tissue"])]
    rows = [[words(tissue), *(number(means.get((tissue, arm), np.nan), ".2f") for arm in ARMS)] for tissue in tissues]
    return table(f"Dice of {case_id}, in 3-D", ["tissue", *map(words, ARMS)], rows)
