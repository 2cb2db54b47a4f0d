"""Transplanted lesions: a lesion's own pixels carried into another patient's healthy wall, without a network.

The yardstick that a generator of lesions has to beat, and an arm of its own (`synthesis.method: transplant`). Cut and
paste between real scans follows Soft-CP (arXiv 2203.10507), TumorCP and CarveMix; here the lesion bends with the wall:
each pixel of the recipient's wall takes label and intensity from the place of the same angle and depth (0 at the
endocardium, 1 at the epicardium) in the donor's wall, read between its pixels. Cavity, both borders of the wall and all
that lies outside stay the camera's pixels and the expert's labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import InputError
from common.progress import track
from common.seeds import random_generator
from gan.simulator.anatomy import Anatomy, ray_angles, read_anatomy
from gan.training.config import TransplantConfig
from imaging.labels import LabelSet, Tissue, patient_group
from imaging.slices.balance import BalanceConfig, apportion, category_shares, slice_categories
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]

_FEWEST_NORMAL_PX = 20  # of remote wall and of blood, from which medians are taken
_LEAST_CONTRAST = 0.02  # of blood over remote wall, below which intensities cannot be compared
_BLOCK_SLICES = 256
_MOST_TRIES = 60
_RAY_SMOOTHING = 1.0  # of a wall's borders, in rays: their steps of a pixel must not show in what is carried
_LESIONS = (Tissue.INFARCT, Tissue.NO_REFLOW)
_HALF = 0.5
_PENUMBRA_PX = 2  # around a lesion, not remote wall either
_LEAST_REMOTE = 0.4  # of a wall whose lesion is covered
_LEAST_COVERED = 0.9  # of a lesion by remote wall at one other angle
_HEALED_FADE_PX = 0.8


@dataclass(frozen=True, eq=False)
class Wall:
    """A slice's wall with its intensities, on the box of its anatomy.

    Attributes:
        anatomy: The ventricle, lesions turned back.
        labels: (h, w) the expert's labels.
        image: (h, w) intensities in [0, 1].
        remote: Median of the normal myocardium.
        blood: Median of the cavity.
    """

    anatomy: Anatomy
    labels: Labels
    image: Floats
    remote: float
    blood: float

    @property
    def contrast(self) -> float:
        """How much brighter blood is than remote wall."""
        return self.blood - self.remote

    @property
    def angles(self) -> Floats:
        """(P,) angle of each pixel of the wall in radians."""
        return self.anatomy.angle[self.anatomy.myocardium]

    @property
    def depths(self) -> Floats:
        """(P,) share of the way from endocardium to epicardium at each pixel of the wall, along its ray, 0 to 1."""
        inner, outer = self._borders(self.angles)
        rows, columns = np.nonzero(self.anatomy.myocardium)
        radius = np.hypot(rows - self.anatomy.centre[0], columns - self.anatomy.centre[1])
        return np.clip((radius - inner) / np.maximum(outer - inner, 1), 0, 1)

    def places(self, angles: Floats, depths: Floats) -> Floats:
        """Return the (2, P) rows and columns, between pixels, of (P,) angles and depths of this wall."""
        inner, outer = self._borders(angles)
        radius = inner + depths * (outer - inner)
        row, column = self.anatomy.centre
        return np.stack([row + radius * np.sin(angles), column + radius * np.cos(angles)])

    def _borders(self, angles: Floats) -> tuple[Floats, Floats]:
        """Return the radii of endocardium and epicardium at (P,) angles, in pixels."""
        rays = ray_angles()
        inner, outer = (ndimage.gaussian_filter1d(radii, _RAY_SMOOTHING, mode="wrap") for radii in self.anatomy.radii)
        return tuple(np.interp(angles, rays, radii, period=2 * np.pi) for radii in (inner, outer))

    def wall_only(self, image: NDArray[np.generic]) -> Floats:
        """Return an image (h, w) whose pixels outside the wall are those of the nearest pixel of the wall."""
        return _nearest_of(self.anatomy.myocardium, image)


@dataclass(frozen=True)
class Placement:
    """Where a lesion goes: by how many radians it is turned about the ventricle, and whether it is mirrored."""

    turn: float
    mirrored: bool


def read_wall(image: NDArray[np.floating], mask: NDArray[np.integer], spacing_mm: float = 1.0) -> Wall | None:
    """Return the wall of a slice (H, W); None where it is no closed wall, or its intensities say nothing."""
    anatomy = read_anatomy(mask, spacing_mm)
    if anatomy is None or not anatomy.bears_lesions or not anatomy.closed:
        return None
    labels, intensities = mask[anatomy.box].astype(np.uint8), image[anatomy.box].astype(np.float64)
    remote, blood = (intensities[labels == value] for value in (Tissue.NORMAL_MYOCARDIUM, Tissue.CAVITY))
    if min(len(remote), len(blood)) < _FEWEST_NORMAL_PX:
        return None
    wall = Wall(anatomy, labels, intensities, float(np.median(remote)), float(np.median(blood)))
    return wall if wall.contrast >= _LEAST_CONTRAST else None


def draw_placement(config: TransplantConfig, rng: np.random.Generator) -> Placement:
    """Draw by how much a lesion is turned and whether it is mirrored."""
    most = np.pi if rng.random() < config.any_turn_share else np.radians(config.turn_deg)
    return Placement(float(rng.uniform(-most, most)), bool(rng.random() < config.mirror_share))


def transplant(
    donor: Wall, recipient: Wall, placement: Placement, config: TransplantConfig
) -> tuple[NDArray[np.float16], Labels]:
    """Carry the donor's lesion into the recipient's wall.

    Returns:
        The recipient's crop (h, w) in [0, 1] and its labels, both those of the recipient outside its wall.
    """
    angles = recipient.angles - placement.turn
    places = donor.places(-angles if placement.mirrored else angles, recipient.depths)
    wall = recipient.anatomy.myocardium
    labels = recipient.labels.copy()
    labels[wall] = np.maximum(_labels_at(donor, places), recipient.labels[wall])
    shades = recipient.image.copy()
    scale = (recipient.contrast / donor.contrast) ** config.contrast_power
    shades[wall] = recipient.remote + scale * (_read(donor.wall_only(donor.image), places) - donor.remote)
    return _blend(recipient, labels, shades, config).astype(np.float16), labels


def heal(wall: Wall) -> Wall | None:
    """Return a slice's wall with its lesion covered by its own remote wall at another angle.

    Hearts with an infarct are shaped otherwise than healthy ones: they, too, must be seen with other lesions.

    Returns:
        The slice without lesion; None where too little of its wall is remote, or nothing of it fits over the lesion.
    """
    tissue = wall.anatomy.myocardium
    lesion = ndimage.binary_dilation(wall.labels >= Tissue.INFARCT, iterations=_PENUMBRA_PX) & tissue
    if (tissue & ~lesion).sum() < _LEAST_REMOTE * tissue.sum():
        return None
    covered, depths = wall.anatomy.angle[lesion], wall.depths[lesion[tissue]]
    remote = wall.wall_only(tissue & ~lesion)
    views = [(turn, sign) for turn in ray_angles()[::3] for sign in (1, -1)]
    found = [_read(remote, wall.places(sign * covered + turn, depths)).mean() for turn, sign in views]
    if max(found) < _LEAST_COVERED:
        return None
    turn, sign = views[int(np.argmax(found))]
    shades = wall.image.copy()
    shades[lesion] = _read(_nearest_of(tissue & ~lesion, wall.image), wall.places(sign * covered + turn, depths))
    share = ndimage.gaussian_filter(lesion.astype(np.float64), _HEALED_FADE_PX) * tissue
    share[wall.labels >= Tissue.INFARCT] = 1
    image = wall.image + share * (shades - wall.image)
    return replace(wall, labels=np.minimum(wall.labels, Tissue.NORMAL_MYOCARDIUM).astype(np.uint8), image=image)


def _labels_at(donor: Wall, places: Floats) -> Labels:
    """Return the (P,) labels at places between the donor's pixels: each tissue where it covers half of the place."""
    at_least = {value: _read(donor.wall_only(donor.labels >= value), places) for value in _LESIONS}
    labels = np.full(places.shape[1], Tissue.NORMAL_MYOCARDIUM, dtype=np.uint8)
    for value, covered in at_least.items():
        labels[covered >= _HALF] = value
    return labels


def _nearest_of(region: NDArray[np.bool_], image: NDArray[np.generic]) -> Floats:
    """Return an image (h, w) whose pixels outside the region are those of the region's nearest pixel."""
    _, (rows, columns) = ndimage.distance_transform_edt(~region, return_indices=True)
    return image[rows, columns].astype(np.float64)


def _read(image: Floats, places: Floats) -> Floats:
    """Read an image (h, w) at (2, P) rows and columns, linearly between its pixels."""
    return np.asarray(ndimage.map_coordinates(image, places, order=1, mode="nearest"))


def _blend(recipient: Wall, labels: Labels, shades: Floats, config: TransplantConfig) -> Floats:
    """Return the recipient (h, w) with the carried shades faded in where the lesion lies, inside the wall only.

    Wall pixels at the epicardium hold something of what lies beyond it, as the camera's do: there the fading is half
    done. At the endocardium the lesion's own pixels show how it meets the blood.
    """
    wall = recipient.anatomy.myocardium
    grain = recipient.image - ndimage.gaussian_filter(recipient.image, config.grain_px)
    painted = ndimage.gaussian_filter(shades, config.smooth_px) + config.grain_share * grain
    lesion = ndimage.binary_dilation(labels >= Tissue.INFARCT)
    share = ndimage.gaussian_filter(lesion.astype(np.float64), config.fade_px)
    # Deep inside 1, at the epicardium somewhat over a half: a lesion that reaches it must stay visible.
    ventricle = recipient.anatomy.filled.astype(np.float64)
    within = np.clip(1.3 * ndimage.gaussian_filter(ventricle, config.fade_px), 0, 1) * wall
    return np.clip(recipient.image + share * within * (painted - recipient.image), 0, 1)


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


def take_transplants(transplants: SliceStore, path: Path, seed: int, code_version: str) -> None:
    """Write transplanted slices as the synthetic slices that they are, into a store at `path`."""
    attributes = replace(
        transplants.attributes,
        parent_digests={"lesion_masks": transplants.digest},
        seed=seed,
        code_version=code_version,
        parameters={"count": len(transplants)},
    )
    with SliceStoreWriter(path, attributes, extras=("hole",)) as writer:
        for start in range(0, len(transplants), _BLOCK_SLICES):
            block = np.arange(start, min(start + _BLOCK_SLICES, len(transplants)))
            rows = transplants.rows.iloc[block].reset_index(drop=True)
            # A slice store's further images, not Django's SQL.
            holes = transplants.extra("hole", block)  # noqa: S610
            writer.append(transplants.images(block), transplants.masks(block), rows, hole=holes)


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
