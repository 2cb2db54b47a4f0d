"""The mask simulator: three strategies, acceptance, and who lent what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.seeds import random_generator
from gan.generation.hole import lesion_hole, ventricle_hole
from gan.simulator.anatomy import Anatomy, read_anatomy
from gan.simulator.config import STRATEGIES, SimulatorConfig
from gan.simulator.lesion_model import LesionModel, LesionPlan, measure_lesion
from gan.simulator.lesions import Donor, carry_lesion, grow_lesion
from gan.simulator.ring_model import RingModel, warp_anatomy
from imaging.labels import LabelSet, Tissue

WARPED_ANATOMY = "warped_anatomy"
HEALED_ANATOMY = "healed_anatomy"
_TURN_SPREAD = 0.12  # rad, of a lesion's direction from slice to slice
_SHARE_SPREAD = 0.15  # of the logarithm of its share of the wall


@dataclass(frozen=True, eq=False)
class Draft:
    """A simulated mask before its background is looked up.

    Attributes:
        mask: (H, W) uint8.
        hole: (H, W) uint8, 1 within the new ventricle or the one that was there; of lesions, within their wall.
        row: The recipient: which training slice gives the background.
        lenders: Rows of all training slices that lent a lesion, an anatomy or the background.
        strategy: One of `STRATEGIES`, or `warped_anatomy` or `healed_anatomy` for a real anatomy without infarct.
        refusals: Why earlier tries were refused, by strategy and reason.
    """

    mask: NDArray[np.uint8]
    hole: NDArray[np.uint8]
    row: int
    lenders: tuple[int, ...]
    strategy: str
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class _Try:
    """One attempt: a crop of labels on an anatomy, or the reason why there is none.

    `repainted` (h, w) marks healthy wall that is painted again as what it is.
    """

    reason: str = ""
    anatomy: Anatomy | None = None
    labels: NDArray[np.uint8] | None = None
    row: int = -1
    lenders: tuple[int, ...] = ()
    repainted: NDArray[np.bool_] | None = None


class MaskSimulator:
    """Simulates masks from the slices of training patients.

    Args:
        masks: (N, H, W) label maps of training slices.
        patients: Their N patients.
        labels: Their label set; without an infarct label only masks without infarct can be made.
        config: The simulator's configuration.
        spacing_mm: In-plane pixel size.
        seed: Of the plans that patients' lesions follow where lesions are painted.

    Raises:
        InputError: No slice shows a ventricle.
    """

    def __init__(
        self,
        masks: NDArray[np.uint8],
        patients: Sequence[str],
        labels: LabelSet,
        config: SimulatorConfig,
        spacing_mm: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.config, self.seed = config, seed
        self.patients = tuple(patients)
        self.masks = masks
        read = ((row, read_anatomy(mask, spacing_mm)) for row, mask in enumerate(masks))
        self.anatomies: dict[int, Anatomy] = {row: anatomy for row, anatomy in read if anatomy is not None}
        if not self.anatomies:
            raise InputError(f"none of {len(masks)} training slices shows a ventricle; check the masks and the split")
        self.holds_lesions = "no_reflow" in labels.tissues
        self.rows = tuple(self.anatomies)
        self.bearers = tuple(row for row in self.rows if self.anatomies[row].bears_lesions)
        self._numbers = {patient: number for number, patient in enumerate(dict.fromkeys(self.patients))}
        self._heights = _heights(self.patients)
        self._read_lesions()
        self.rings = RingModel.fit([self.anatomies[row] for row in self.bearers])
        self._shapes = np.array([self.anatomies[row].shape for row in self.bearers]).reshape(-1, 3)
        self._spread = self._shapes.std(axis=0) + 1e-6 if len(self._shapes) else np.ones(3)

    def simulate(self, category: str, rng: np.random.Generator) -> Draft:
        """Simulate one mask.

        Args:
            category: `no_infarct`, `infarct` or `no_reflow` (inside an infarct).
            rng: Source of the random choices.

        Raises:
            InputError: No strategy gives an acceptable mask.
        """
        refusals: Counter[tuple[str, str]] = Counter()
        for strategy in self._strategies(category, rng):
            for _ in range(self.config.attempts):
                tried = self._try(strategy, category, rng)
                reason = tried.reason or self._fault(tried, category)
                if not reason:
                    return self._finish(tried, strategy, refusals, rng)
                refusals[strategy, reason] += 1
        reasons = "; ".join(f"{name}: {why} ({times})" for (name, why), times in sorted(refusals.items()))
        raise InputError(
            f"no {category} mask could be simulated from {len(self.masks)} training slices "
            f"({reasons or 'no strategy is possible'}); widen the simulator's limits or add training patients"
        )

    def possible(self, category: str) -> dict[str, float]:
        """Return the strategies possible for a category with their shares, which sum to 1."""
        shares = {name: getattr(self.config.shares, name) for name in STRATEGIES}
        if self.rings is None or self.config.paint == "lesion":
            shares.pop("synthetic_anatomy")
        if self.config.paint == "lesion" and not (self.holds_lesions and self.bearers):
            return {}
        if category == "no_infarct":
            kept = HEALED_ANATOMY if self.config.paint == "lesion" else WARPED_ANATOMY
            real = {kept: shares.pop("hybrid_injection") + shares.pop("cross_subject_fusion")}
            return _normalised(shares | real)
        if not self.holds_lesions or not self.bearers:
            return {}
        if not self._can_fuse(category):
            shares.pop("cross_subject_fusion")
        return _normalised(shares)

    def _read_lesions(self) -> None:
        records, self._donors = [], []
        for row in self.bearers if self.holds_lesions else ():
            anatomy = self.anatomies[row]
            labels = self.masks[row][anatomy.box]
            measures = measure_lesion(anatomy, labels)
            if measures.infarct_share > 0:
                records.append(measures)
                self._donors.append(Donor(row, anatomy, labels, measures.angle))
        self.lesions = LesionModel.fit(records, self.config)
        self._no_reflow_donors = [d for d in self._donors if (d.labels == Tissue.NO_REFLOW).any()]

    def _lenders_of(self, category: str) -> list[Donor]:
        return self._no_reflow_donors if category == "no_reflow" else self._donors

    def _can_fuse(self, category: str) -> bool:
        lenders = {self.patients[donor.row] for donor in self._lenders_of(category)}
        recipients = {self.patients[row] for row in self.bearers}
        return bool(lenders) and len(lenders | recipients) > 1

    def _strategies(self, category: str, rng: np.random.Generator) -> list[str]:
        """Return the possible strategies in the order in which to try them, the first drawn by share."""
        shares = self.possible(category)
        if not shares:
            return []
        first = str(rng.choice(list(shares), p=list(shares.values())))
        return [first, *(name for name in shares if name != first)]

    def _try(self, strategy: str, category: str, rng: np.random.Generator) -> _Try:
        if strategy == WARPED_ANATOMY:
            return self._warp(rng)
        if strategy == HEALED_ANATOMY:
            return self._heal(rng)
        if strategy == "synthetic_anatomy":
            return self._synthesise(category, rng)
        if strategy == "hybrid_injection":
            row = self.bearers[rng.integers(len(self.bearers))]
            return self._grow(self.anatomies[row], category, row, rng)
        return self._fuse(category, rng)

    def _warp(self, rng: np.random.Generator) -> _Try:
        row = self.rows[rng.integers(len(self.rows))]
        warped = warp_anatomy(self.anatomies[row], self.config.warp, rng)
        if warped is None:
            return _Try("the ring opened")
        return _Try(anatomy=warped, labels=warped.labels, row=row, lenders=(row,))

    def _heal(self, rng: np.random.Generator) -> _Try:
        """Turn a lesion back to wall; where there is none, choose wall to be painted again as it is.

        Else all that is painted would be lesion, and the painting itself would give it away.
        """
        row = self.bearers[rng.integers(len(self.bearers))]
        anatomy = self.anatomies[row]
        if (self.masks[row] >= Tissue.INFARCT).any():
            return _Try(anatomy=anatomy, labels=anatomy.labels, row=row, lenders=(row,))
        grown = grow_lesion(anatomy, self.lesions.draw(False, rng), rng)
        if grown is None:
            return _Try("no such lesion grew in the wall")
        return _Try(anatomy=anatomy, labels=anatomy.labels, row=row, lenders=(row,), repainted=grown >= Tissue.INFARCT)

    def _synthesise(self, category: str, rng: np.random.Generator) -> _Try:
        """Draw a ring, then put it in place of a ventricle of about its size."""
        assert self.rings is not None
        first = self.anatomies[self.bearers[0]]
        middle = ((first.size[0] - 1) / 2, (first.size[1] - 1) / 2)
        ring = self.rings.draw(middle, first.size, first.spacing_mm, rng)
        if ring is None:
            return _Try("the ring left the slice")
        row = int(rng.choice(self._neighbours(ring, np.array(self.bearers))))
        moved = _move_to(ring, self.anatomies[row].centre_in_slice)
        if moved is None:
            return _Try("the ring left the slice")
        if category == "no_infarct":
            return _Try(anatomy=moved, labels=moved.labels, row=row, lenders=(row,))
        return self._grow(moved, category, row, rng)

    def _grow(self, anatomy: Anatomy, category: str, row: int, rng: np.random.Generator) -> _Try:
        if self.config.paint == "lesion":
            plan = self._plan(row, category, rng)
        else:
            plan = self.lesions.draw(category == "no_reflow", rng)
        labels = grow_lesion(anatomy, plan, rng)
        if labels is None:
            return _Try("no such lesion grew in the wall")
        return _Try(anatomy=anatomy, labels=labels, row=row, lenders=(row,))

    def _plan(self, row: int, category: str, rng: np.random.Generator) -> LesionPlan:
        """Draw one of the plans of the row's patient, and vary it from slice to slice a little."""
        plan = self.lesions.draw(category == "no_reflow", self._patient_generator(row, rng))
        low, high = self.config.infarct_limits
        share = plan.infarct_share * float(np.exp(_SHARE_SPREAD * rng.standard_normal()))
        turn = _TURN_SPREAD * float(rng.standard_normal())
        return replace(plan, infarct_share=float(np.clip(share, low, high)), angle=plan.angle + turn)

    def _patient_generator(self, row: int, rng: np.random.Generator) -> np.random.Generator:
        """Return the source of what all slices of a patient share in one of its plans, which `rng` draws."""
        patient = self._numbers[self.patients[row]]
        return random_generator(self.seed, "lesion plans", patient, int(rng.integers(self.config.lesion_plans)))

    def _lend(self, row: int, category: str, rng: np.random.Generator) -> tuple[Donor, np.random.Generator] | None:
        """Return the lesion that a slice borrows, and the source of the choices by which it is placed.

        Where lesions are painted, a plan of the recipient's patient names the lender, of whose slices the one at the
        recipient's height is taken, and the placement.
        """
        donors = [d for d in self._lenders_of(category) if self.patients[d.row] != self.patients[row]]
        if not donors:
            return None
        if self.config.paint == "ventricle":
            near = self._neighbours(self.anatomies[row], np.array([donor.row for donor in donors]))
            chosen = int(rng.choice(near))
            return next(d for d in donors if d.row == chosen), rng
        shared = self._patient_generator(row, rng)
        patient = shared.choice(sorted({self.patients[donor.row] for donor in donors}))
        own = [donor for donor in donors if self.patients[donor.row] == patient]
        return min(own, key=lambda donor: abs(self._heights[donor.row] - self._heights[row])), shared

    def _fuse(self, category: str, rng: np.random.Generator) -> _Try:
        row = self.bearers[rng.integers(len(self.bearers))]
        lent = self._lend(row, category, rng)
        if lent is None:
            return _Try("no other patient lends a lesion")
        (donor, placing), recipient = lent, self.anatomies[row]
        labels = carry_lesion(donor, recipient, category == "no_reflow", self.config, placing)
        if labels is None:
            return _Try("the lesion does not fit")
        return _Try(anatomy=recipient, labels=labels, row=row, lenders=(row, donor.row))

    def _neighbours(self, anatomy: Anatomy, rows: NDArray[np.int_]) -> NDArray[np.int_]:
        """Return the rows whose diameter, wall and eccentricity are nearest to the anatomy's."""
        places = np.searchsorted(self.bearers, rows)
        distance = (((self._shapes[places] - anatomy.shape) / self._spread) ** 2).sum(axis=1)
        return rows[np.argsort(distance, kind="stable")[: self.config.neighbours]]

    def _fault(self, tried: _Try, category: str) -> str:
        """Return why a mask is not acceptable, or nothing."""
        assert tried.anatomy is not None
        assert tried.labels is not None
        if category == "no_infarct":
            return ""
        measures = measure_lesion(tried.anatomy, tried.labels)
        low, high = self.config.infarct_limits
        if not low <= measures.infarct_share <= high:
            return "infarct share outside its limits"
        low, high = self.config.no_reflow_limits
        if category == "no_reflow" and not low <= measures.no_reflow_share <= high:
            return "no-reflow share outside its limits"
        return ""

    def _finish(
        self, tried: _Try, strategy: str, refusals: Counter[tuple[str, str]], rng: np.random.Generator
    ) -> Draft:
        assert tried.anatomy is not None
        assert tried.labels is not None
        mask = tried.anatomy.paste(tried.labels)
        both = np.stack([mask, self.masks[tried.row]])
        margin = self.config.hole_margin_px + int(rng.integers(self.config.hole_spread_px + 1))
        if self.config.paint == "ventricle":
            hole = ventricle_hole(both, margin).max(axis=0)
        else:
            painted = both.max(axis=0) >= Tissue.INFARCT
            if tried.repainted is not None:
                painted[tried.anatomy.box] |= tried.repainted
            hole = lesion_hole(painted, self.masks[tried.row] >= Tissue.NORMAL_MYOCARDIUM, margin)
        return Draft(mask, hole, tried.row, tried.lenders, strategy, refusals)


def _heights(patients: Sequence[str]) -> NDArray[np.float64]:
    """Return how far up its patient's stack each slice lies, 0 to 1; a patient's rows are in the stack's order."""
    names = np.asarray(patients)
    heights = np.zeros(len(names))
    for patient in np.unique(names):
        rows = np.flatnonzero(names == patient)
        heights[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return heights


def _move_to(anatomy: Anatomy, centre: tuple[float, float]) -> Anatomy | None:
    """Return the anatomy with its centre at `centre` (to the pixel); None where it leaves the slice."""
    old = anatomy.centre_in_slice
    box = []
    for axis in (0, 1):
        shift = round(centre[axis] - old[axis])
        low, high = anatomy.box[axis].start + shift, anatomy.box[axis].stop + shift
        if low < 0 or high > anatomy.size[axis]:
            return None
        box.append(slice(low, high))
    return Anatomy(anatomy.labels, (box[0], box[1]), anatomy.size, anatomy.spacing_mm)


def _normalised(shares: dict[str, float]) -> dict[str, float]:
    """Return the shares above 0 scaled to sum to 1; equal ones where all are 0."""
    total = sum(shares.values())
    if not total:
        return dict.fromkeys(shares, 1 / len(shares))
    return {name: share / total for name, share in shares.items() if share > 0}
