"""Transplanted lesions: a lesion's own pixels carried into another patient's healthy wall, without a network.

The yardstick that a generator of lesions has to beat, and an arm of its own (`synthesis.method: transplant`). Cut and
paste between real scans follows Soft-CP (arXiv 2203.10507), TumorCP and CarveMix; here the lesion bends with the wall
(`gan.generation.wall`). Cavity, both borders of the wall and all that lies outside stay the camera's pixels and the
expert's labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.progress import track
from common.seeds import random_generator
from gan.generation.refusal import Draws, Filter, draw_until_accepted, write_draws
from gan.generation.wall import Labels, Placement, Wall, draw_placement, heal, read_wall, transplant
from gan.training.config import TransplantConfig
from imaging.labels import LabelSet, Tissue, patient_group
from imaging.slices.balance import BalanceConfig, apportion, category_shares, slice_categories
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

_BLOCK_SLICES = 256
_MOST_TRIES = 60


@dataclass(frozen=True, eq=False)
class TransplantedSlice:
    """One slice of the arm: a healthy slice as it is, or with a lesion of another patient.

    Attributes:
        row: The recipient's row among the training slices.
        lenders: Rows of all slices that lent something, the recipient's among them.
        image: (H, W) float16.
        mask: (H, W) uint8.
        hole: (H, W) uint8, 1 where the image is not the camera's, or a lesion lies.
    """

    row: int
    lenders: tuple[int, ...]
    image: NDArray[np.float16]
    mask: Labels
    hole: Labels


class Transplanter:
    """Draws donors and recipients among the slices of training patients.

    Args:
        images: (N, H, W) in [0, 1].
        masks: (N, H, W) label maps.
        patients: Their N patients.
        config: How lesions are carried over.
        spacing_mm: In-plane pixel size.

    Raises:
        InputError: No slice without lesion shows a closed wall.
    """

    def __init__(
        self,
        images: NDArray[np.floating],
        masks: Labels,
        patients: Sequence[str],
        config: TransplantConfig,
        spacing_mm: float = 1.0,
    ) -> None:
        self._images, self._masks, self._config = images, masks, config
        self._patients = np.asarray(patients)
        walls = ((row, read_wall(images[row], masks[row], spacing_mm)) for row in range(len(masks)))
        self._walls = {row: wall for row, wall in walls if wall is not None}
        content = {row: int(wall.labels.max()) for row, wall in self._walls.items()}
        self._healthy = [row for row, value in content.items() if value < Tissue.INFARCT]
        healed = {row: heal(wall) for row, wall in self._walls.items() if content[row] >= Tissue.INFARCT}
        self._healed = {row: wall for row, wall in healed.items() if wall is not None}
        self._donors = {
            "infarct": [row for row, value in content.items() if value == Tissue.INFARCT],
            "no_reflow": [row for row, value in content.items() if value == Tissue.NO_REFLOW],
        }
        if not self._healthy:
            raise InputError(
                f"none of {len(masks)} training slices shows a closed wall without lesion to transplant into; "
                "use synthesis.method=pix2pix, or add patients without infarct"
            )

    def possible(self) -> set[str]:
        """Return the categories of slices that can be made."""
        return {"no_infarct"} | {name for name, rows in self._donors.items() if rows}

    def make(self, category: str, rng: np.random.Generator) -> TransplantedSlice:
        """Make one slice of a category: `no_infarct`, `infarct` or `no_reflow`.

        Raises:
            InputError: No lesion of that category fits into any wall that was tried.
        """
        if category == "no_infarct":
            row = self._healthy[rng.integers(len(self._healthy))]
            mask = self._masks[row]
            return TransplantedSlice(row, (row,), self._images[row].astype(np.float16), mask, np.zeros_like(mask))
        for _ in range(_MOST_TRIES):
            made = self._try(category, rng)
            if made is not None:
                return made
        raise InputError(
            f"no {category} lesion of {len(self._donors[category])} slices fitted into {len(self._healthy)} healthy "
            f"walls in {_MOST_TRIES} tries; lower transplant.minimum_infarct_px or minimum_no_reflow_px"
        )

    def _try(self, category: str, rng: np.random.Generator) -> TransplantedSlice | None:
        recipient, wall = self._draw_recipient(rng)
        donor = self._draw_donor(category, self._patients[recipient], rng)
        if donor is None:
            return None
        image, labels = transplant(self._walls[donor], wall, draw_placement(self._config, rng), self._config)
        enough = (labels >= Tissue.INFARCT).sum() >= self._config.minimum_infarct_px
        if category == "no_reflow":
            enough &= (labels == Tissue.NO_REFLOW).sum() >= self._config.minimum_no_reflow_px
        if not enough:
            return None
        before = self._images[recipient].astype(np.float16)
        whole, mask = before.copy(), wall.anatomy.paste(labels)
        whole[wall.anatomy.box] = image
        hole = ((whole != before) | (mask >= Tissue.INFARCT)).astype(np.uint8)
        return TransplantedSlice(recipient, (recipient, donor), whole, mask, hole)

    def _draw_recipient(self, rng: np.random.Generator) -> tuple[int, Wall]:
        """Draw a slice to carry a lesion into: a healthy one, or one whose own lesion is covered."""
        if self._healed and rng.random() < self._config.healed_share:
            row = list(self._healed)[rng.integers(len(self._healed))]
            return row, self._healed[row]
        row = self._healthy[rng.integers(len(self._healthy))]
        return row, self._walls[row]

    def _draw_donor(self, category: str, recipient: str, rng: np.random.Generator) -> int | None:
        """Draw a donor's slice: first the patient, so that each lends as often, then one of the slices."""
        rows = np.array(self._donors[category])
        others = rows[self._patients[rows] != recipient]
        if not len(others):
            return None
        patient = rng.choice(np.unique(self._patients[others]))
        return int(rng.choice(others[self._patients[others] == patient]))


def write_transplants(
    path: Path,
    real: SliceStore,
    train_index: NDArray[np.integer],
    count: int,
    config: TransplantConfig,
    balance: BalanceConfig,
    seed: int,
    code_version: str,
) -> None:
    """Write `count` slices with transplanted lesions into a store at `path`.

    Args:
        path: The slice store to write; `case_id` is the recipient, `donor_ids` names donor and recipient, and the
            extra `hole` says where the image is not the camera's.
        real: The real slices.
        train_index: Rows of `real` that may lend anything: those of training patients.
        count: How many slices to write.
        config: How lesions are carried over.
        balance: Shares of slices with infarct and with no-reflow; the others are healthy slices as they are.
        seed: Decides everything.
        code_version: Version of the code, for the store's attributes.

    Raises:
        InputError: No training slice, a count below 1, nothing to transplant from or into, or a full disk.
    """
    if count < 1 or not len(train_index):
        raise InputError(f"{path}: asked for {count} slices from {len(train_index)} training slices; give at least 1")
    train_index = np.asarray(train_index)
    rows = real.rows.iloc[train_index].reset_index(drop=True)
    images, masks = real.images(train_index), real.masks(train_index)
    transplanter = Transplanter(images, masks, rows["case_id"].tolist(), config, real.attributes.spacing_mm)
    categories = _draw_categories(transplanter, count, balance, seed)
    attributes = _attributes(real, count, config, balance, seed, code_version)
    with SliceStoreWriter(path, attributes, extras=("hole",)) as writer:
        for start in track(range(0, count, _BLOCK_SLICES), "transplanting lesions"):
            numbers = range(start, min(start + _BLOCK_SLICES, count))
            made = [
                transplanter.make(str(categories[number]), random_generator(seed, "transplants", number))
                for number in numbers
            ]
            described = _describe(made, rows, numbers, real.label_set)
            images_made, masks_made, holes = (
                np.stack([getattr(m, name) for m in made]) for name in ("image", "mask", "hole")
            )
            writer.append(images_made, masks_made, described, hole=holes)


def take_slices(transplants: SliceStore, path: Path, seed: int, code_version: str) -> None:
    """Write transplanted slices, or a folder's, as the synthetic slices that they are, into a store at `path`."""
    with SliceStoreWriter(path, _taken(transplants, seed, code_version), extras=transplants.extras) as writer:
        for start in range(0, len(transplants), _BLOCK_SLICES):
            block = np.arange(start, min(start + _BLOCK_SLICES, len(transplants)))
            rows = transplants.rows.iloc[block].reset_index(drop=True)
            # A slice store's further images, not Django's SQL.
            extras = {name: transplants.extra(name, block) for name in transplants.extras}  # noqa: S610
            writer.append(transplants.images(block), transplants.masks(block), rows, **extras)


def transplant_until_accepted(
    transplants: SliceStore,
    real: SliceStore,
    train_index: NDArray[np.integer],
    config: TransplantConfig,
    path: Path,
    seed: int,
    code_version: str,
    chosen: Filter,
) -> None:
    """Write transplanted slices into a store at `path`, other transplants of their category for those refused.

    Args:
        transplants: What `write_transplants` wrote.
        real: The real slices that it took them from.
        train_index: As it was given.
        config: As it was given.
        path: The slice store to write; `replica` is the number of the draw.
        seed: As it was given: refused slices are made again with the next numbers.
        code_version: Recorded in the store.
        chosen: What refuses.

    Raises:
        InputError: The real slices are others, or too many draws are refused.
    """
    if transplants.attributes.parent_digests != {"real": real.digest}:
        raise InputError(f"{transplants.path}: was made of other slices than {real.path}; rematerialise lesion_masks")
    categories = slice_categories(transplants.masks(), transplants.label_set)
    rows = real.rows.iloc[train_index].reset_index(drop=True)
    images, masks = real.images(train_index), real.masks(train_index)
    transplanter = Transplanter(images, masks, rows["case_id"].tolist(), config, real.attributes.spacing_mm)

    def draw_again(numbers: NDArray[np.intp], places: NDArray[np.intp]) -> Draws:
        made = [
            transplanter.make(str(categories[place]), random_generator(seed, "transplants", int(number)))
            for number, place in zip(numbers, places, strict=True)
        ]
        parts = [np.stack([getattr(m, name) for m in made]) for name in ("image", "mask", "hole")]
        return Draws(parts[0], parts[1], parts[2], _describe(made, rows, numbers.tolist(), real.label_set))

    # A slice store's further images, not Django's SQL.
    first = Draws(transplants.images(), transplants.masks(), transplants.extra("hole"), transplants.rows)  # noqa: S610
    accepted, refused = draw_until_accepted(first, draw_again, chosen)
    attributes = _taken(transplants, seed, code_version, refusal=chosen.told(len(first), refused))
    write_draws(path, attributes, [accepted])


def retransplant(
    images: NDArray[np.floating], masks: Labels, config: TransplantConfig, spacing_mm: float = 1.0
) -> NDArray[np.float32]:
    """Return slices (N, H, W) whose own lesions were carried to where they are: what the carrying itself changes.

    A slice without a closed wall stays as it is.
    """
    drawn = np.asarray(images, dtype=np.float32).copy()
    for image, mask in zip(drawn, masks, strict=True):
        wall = read_wall(image, mask, spacing_mm)
        if wall is not None:
            image[wall.anatomy.box] = transplant(wall, wall, Placement(0.0, mirrored=False), config)[0]
    return drawn


def _taken(transplants: SliceStore, seed: int, code_version: str, **parameters: Any) -> StoreAttributes:
    return replace(
        transplants.attributes,
        parent_digests={"lesion_masks": transplants.digest},
        seed=seed,
        code_version=code_version,
        parameters={"count": len(transplants), **parameters},
    )


def summarise_transplants(transplants: SliceStore) -> pd.DataFrame:
    """Return one row for each category with `category`, `slices`, `recipients` and `donors` (patients)."""
    rows = transplants.rows
    categories = slice_categories(transplants.masks(), transplants.label_set)
    found = []
    for name in np.unique(categories):
        own = rows[categories == name]
        lenders = {
            (case, lender)
            for case, names in zip(own["case_id"], own["donor_ids"], strict=True)
            for lender in names.split(";")
        }
        donors = {lender for case, lender in lenders if lender != case}
        found.append((name, len(own), own["case_id"].nunique(), len(donors)))
    return pd.DataFrame(found, columns=["category", "slices", "recipients", "donors"])


def _draw_categories(transplanter: Transplanter, count: int, balance: BalanceConfig, seed: int) -> NDArray[np.str_]:
    counts = apportion(count, category_shares(balance, transplanter.possible()))
    names = np.repeat(list(counts), list(counts.values()))
    return random_generator(seed, "transplants: categories").permutation(names)


def _describe(
    made: Sequence[TransplantedSlice], rows: pd.DataFrame, numbers: Sequence[int], labels: LabelSet
) -> pd.DataFrame:
    recipients = rows.iloc[[m.row for m in made]].reset_index(drop=True)
    lenders = [";".join(sorted(set(rows["case_id"].iloc[list(m.lenders)]))) for m in made]
    return recipients.assign(
        donor_ids=lenders,
        replica=np.asarray(numbers, dtype=np.int32),
        origin="synthetic",
        group=[patient_group(m.mask, labels) for m in made],
    )


def _attributes(
    real: SliceStore, count: int, config: TransplantConfig, balance: BalanceConfig, seed: int, code_version: str
) -> StoreAttributes:
    return replace(
        real.attributes,
        parent_digests={"real": real.digest},
        seed=seed,
        code_version=code_version,
        parameters={"count": count, "transplant": config.model_dump(), "balance": balance.model_dump()},
    )
