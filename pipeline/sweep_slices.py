"""The stores that a sweep mixes: which slices each point may use, and its training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.fewer_patients import copy_rows, rows_of_training_patients, with_fewer_patients
from imaging.labels import LabelSet
from imaging.leakage import assert_no_leak
from imaging.mixing import write_training_set
from imaging.slice_store import SliceStore
from imaging.split import FoldSplit, read_split
from pipeline.forge import Forge
from pipeline.outcome import Outcome, number
from pipeline.sweep_plan import SweepPoint

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
        from assets.inputs import VARIED_SLICES

        names = (*_READ, "synthetic_slices") if any(point.share > 0 for point in points) else _READ
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
