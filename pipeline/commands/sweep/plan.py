"""What a sweep trains: its points, and how many slices each may have for all to have equally many.

The stores that a sweep mixes: which slices each point may use, and its training set.

Scores of one of a sweep's models on the fold's test patients, as the scores assets form them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, some_of
from common.files import write_json
from engine.forge import Forge
from engine.outcome import Outcome, number
from imaging.labels import LabelSet
from imaging.slices.mixing import write_training_set
from imaging.slices.store import SliceStore
from imaging.studies.leakage import assert_no_leak, copy_rows, rows_of_training_patients, with_fewer_patients
from imaging.studies.split import FoldSplit, read_split

ALL = "all"
SMALLEST_TOTAL = 10


@dataclass(frozen=True)
class SweepPoint:
    """One point of the curve: the share of synthetic slices and the number of real patients, None for all."""

    share: float
    patients: int | None = None

    @property
    def name(self) -> str:
        """The point's name, of its folder and its runs."""
        return f"share_{self.share:g}_patients_{ALL if self.patients is None else self.patients}"

    def counts(self, total: int) -> dict[str, int]:
        """Return how many slices of each store make up `total`."""
        synthetic = round(total * self.share)
        return {"augmented_slices": total - synthetic, "synthetic_slices": synthetic}


def read_shares(text: str) -> tuple[float, ...]:
    """Read shares such as `0,0.25,1`; `InputError` where one is no share or is given twice."""
    shares = tuple(round(_number(part, "--synthetic-share", "0,0.25,0.5,0.75,1"), 4) for part in text.split(","))
    for share in shares:
        if not 0 <= share <= 1:
            raise InputError(f"--synthetic-share {share:g} is outside 0 to 1; 0 is real slices only, 1 synthetic only")
    return _sorted_once(shares, "--synthetic-share")


def read_patients(text: str) -> tuple[int | None, ...]:
    """Read numbers of real patients such as `10,20,all`; None stands for all."""
    names = [part.strip() for part in text.split(",")]
    if names.count(ALL) > 1:
        raise InputError(f"--real-patients names {ALL} twice; give each once")
    numbers = tuple(_number(name, "--real-patients", "10,20,all") for name in names if name != ALL)
    for patients in numbers:
        if patients < 1 or patients != int(patients):
            raise InputError(
                f"--real-patients {patients:g} is no number of patients; give whole numbers from 1, or {ALL}"
            )
    counted: tuple[int | None, ...] = tuple(int(patients) for patients in _sorted_once(numbers, "--real-patients"))
    return (*counted, None) if ALL in names else counted


def read_seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as `0,1,2`; empty for the profile's."""
    if not text:
        return ()
    numbers = tuple(_number(part, "--seeds", "0,1,2") for part in text.split(","))
    if any(number < 0 or number != int(number) for number in numbers):
        raise InputError(f"--seeds {text} are no whole numbers from 0; write them like 0,1,2")
    return tuple(int(patients) for patients in _sorted_once(numbers, "--seeds"))


def plan_points(shares: Sequence[float], patients: Sequence[int | None]) -> list[SweepPoint]:
    """Return every share with every number of patients, most patients first."""
    most_first = sorted(patients, key=lambda count: (count is not None, -(count or 0)))
    return [SweepPoint(share, count) for count in most_first for share in shares]


Pools = Mapping[SweepPoint, Mapping[str, int]]


def equal_total(pools: Pools, wanted: int | None, at_most: int) -> int:
    """Return how many slices every point gets.

    No slice is taken twice: a repeated slice is no further slice, and points would no longer have equally many.

    Args:
        pools: How many slices of each store every point may use.
        wanted: What was asked for; None for as many as all points can have.
        at_most: Of the profile; more are not taken unless asked for.

    Raises:
        InputError: A point has too few slices; the message says how many there are and what to do.
    """
    largest = min(_largest(point, pool) for point, pool in pools.items())
    if wanted is None:
        if largest < SMALLEST_TOTAL:
            raise InputError(_too_few(pools, SMALLEST_TOTAL, largest))
        return min(largest, at_most)
    if wanted > largest:
        raise InputError(_too_few(pools, wanted, largest))
    return wanted


def _largest(point: SweepPoint, pool: Mapping[str, int]) -> int:
    """Return the largest total whose parts the pool holds."""
    total = sum(pool.values())
    while total and not _fits(point, pool, total):
        total -= 1
    return total


def _fits(point: SweepPoint, pool: Mapping[str, int], total: int) -> bool:
    return all(count <= pool[name] for name, count in point.counts(total).items())


def _too_few(pools: Pools, wanted: int, largest: int) -> str:
    lacking = [
        f"{point.name} needs {count} of {name}, which has {pools[point][name]} of its patients"
        for point in pools
        for name, count in point.counts(wanted).items()
        if count > pools[point][name]
    ]
    advice = f"give --slices {largest}, " if largest >= SMALLEST_TOTAL else ""
    return (
        f"{wanted} slices a point: {some_of(lacking, 3, '; ')}; slices are not repeated: {advice}leave out such "
        "points, or make more with `scarforge run` and larger --set training_slices and --set synthetic_share"
    )


def _number(text: str, option: str, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{option}: {text.strip()!r} is no number; write it like {example}")
    return number


def _sorted_once(numbers: tuple[float, ...], option: str) -> tuple[float, ...]:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise InputError(f"{option} names {some_of(f'{number:g}' for number in twice)} twice; give each once")
    return tuple(sorted(numbers))


_MIXED = ("augmented_slices", "synthetic_slices")
_READ = ("studies", "patient_split", "real_slices", "augmented_slices")


@dataclass(frozen=True)
class SweepSlices:
    """What a fold has finished.

    Attributes:
        files: The split and the stores, by the asset that wrote them.
        versions: Their data versions.
        split: The fold's parts.
        groups: Group of each patient.
        stores: `augmented_slices` and, where a point wants any, `synthetic_slices`.
        labels: The label set.
        seed: Decides which patients and slices are taken, as in the assets.
    """

    files: Mapping[str, Path]
    versions: Mapping[str, str]
    split: FoldSplit
    groups: Mapping[str, str]
    stores: Mapping[str, SliceStore]
    labels: LabelSet
    seed: int

    @classmethod
    def open(cls, forge: Forge, fold: int, points: Sequence[SweepPoint]) -> "SweepSlices":
        """Open the stores; `InputError` names what has to be materialised first."""
        from assets.parts.inputs import VARIED_SLICES

        names = (*_READ, "synthetic_slices") if any(point.share > 0 for point in points) else _READ
        forge.inputs("sweep", forge.records((name, fold, None) for name in names)).require_current()
        versions = {name: forge.version(name, fold) for name in names}
        written = {
            "patient_split": "patient_split.json",
            "real_slices": "slices.h5",
            "augmented_slices": "slices.h5",
            "synthetic_slices": VARIED_SLICES,
        }
        files = {name: forge.finished(name, fold).file(file) for name, file in written.items() if name in names}
        split = read_split(files["patient_split"], fold)
        real = SliceStore.open(files["real_slices"], verify=False)
        groups = dict(zip(real.rows["case_id"], real.rows["group"], strict=True))
        stores = {name: SliceStore.open(files[name], verify=False) for name in files if name in _MIXED}
        for name, store in stores.items():
            assert_no_leak(store.rows, split, name)
        return cls(files, versions, split, groups, stores, real.label_set, forge.settings().split_seed)

    def split_of(self, point: SweepPoint) -> FoldSplit:
        """Return the fold with the training patients of a point."""
        if point.patients is None:
            return self.split
        return with_fewer_patients(self.split, self.groups, point.patients, self.seed)

    def pool(self, point: SweepPoint) -> dict[str, int]:
        """Return how many slices of each store come from a point's patients alone."""
        counts = {"augmented_slices": 0, "synthetic_slices": 0}
        return counts | {
            name: len(rows_of_training_patients(store, self.split_of(point))) for name, store in self.stores.items()
        }

    def versions_of(self, *names: str) -> dict[str, str]:
        """Return the data versions of these assets."""
        return {name: self.versions[name] for name in names}

    def recipe(self, point: SweepPoint, total: int) -> dict[str, Any]:
        """Return everything that decides a point's training set besides the stores."""
        return {"counts": point.counts(total), "patients": self.split_of(point).train, "seed": self.seed}

    def mix(self, folder: Path, point: SweepPoint, total: int, code_version: str) -> Outcome:
        """Write a point's training set as the arms' are written, and assert that only its patients are in it."""
        split, counts = self.split_of(point), point.counts(total)
        wanted = {name: count for name, count in counts.items() if count}
        if point.patients is None:
            parts = [(self.stores[name], count) for name, count in wanted.items()]
        else:
            parts = [(self._own(folder, name, split, code_version), count) for name, count in wanted.items()]
        path = folder / "slices.h5"
        write_training_set(path, parts, self.seed, code_version)
        for store, _ in parts:
            if store.path.parent == folder:
                store.close()
                store.path.unlink()
        assert_no_leak(SliceStore.open(path, verify=False).rows, split, str(path))
        return Outcome({name: number(count) for name, count in counts.items()})

    def _own(self, folder: Path, name: str, split: FoldSplit, code_version: str) -> SliceStore:
        store = self.stores[name]
        return copy_rows(folder / f"{name}.h5", store, rows_of_training_patients(store, split), code_version)


def score_model(
    forge: Forge, fold: int, network: str, training_set: str, seed: int, model: Path, folder: Path
) -> Outcome:
    """Write `scores.csv` and `manifest.json` into `folder`; return mean Dice by rule and tissue."""
    from assets.parts.inputs import open_slices, open_studies
    from assets.scores import dice_means
    from imaging.slices.regions import read_regions
    from runtime.compute import choose_compute
    from segmentation.prediction.segmenter import load_segmenter
    from segmentation.scoring.held_out import HeldOutPatients
    from segmentation.scoring.scores import ScoreIdentity, score_table, write_scores

    settings = forge.settings()
    patients = HeldOutPatients(
        open_studies(forge),
        open_slices(forge, "real_slices", fold),
        read_regions(forge.finished("real_slices", fold).file("regions.csv")),
    )
    segmenter = load_segmenter(model, choose_compute(settings.device, settings.precision))
    identity = ScoreIdentity(fold, network, training_set, seed)
    table = score_table(patients.cases(segmenter.labels(patients.images())), identity, patients.labels)
    write_scores(folder / "scores.csv", table)
    write_json(folder / "manifest.json", forge.manifest())
    means = dice_means(table).to_dict("records")
    values = {f"dice/{row['rule']}/{row['tissue']}": float(row["dice"]) for row in means}
    return Outcome({name: number(value) for name, value in values.items() if math.isfinite(value)})
