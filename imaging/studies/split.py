"""Splits patients into training, validation and test parts, stratified by group, one split a fold."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.errors import UNFIT, InputError, one_line
from common.files import of_the_disk, read_json, write_text
from common.seeds import derive_seed, random_generator
from imaging.labels import PATIENT_GROUPS

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

_REMEDY = "rematerialise `patient_split`"


@dataclass(frozen=True)
class FoldSplit:
    """The patients of one fold's parts, each sorted; no patient is in two parts.

    Those `left_out` are in none, where fewer are trained on than there are: nothing is made of them.
    """

    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patients = Counter(chain(self.train, self.validation, self.test, self.left_out))
        twice = [patient for patient, times in patients.items() if times > 1]
        if twice:
            raise InputError(f"fold {self.fold}: patients {twice} are in more than one part; {_REMEDY}")
        empty = [part for part in PARTS if not getattr(self, part)]
        if empty:
            raise InputError(f"fold {self.fold}: the parts {empty} are empty; use fewer folds or more patients")

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Those whom a model of this fold has seen, sorted: validation chooses its weights."""
        return tuple(sorted(self.train + self.validation))

    def part_of(self, case_id: str) -> Part:
        """Return the part that a patient is in; raises `InputError` when it is in none."""
        for part in PARTS:
            if case_id in getattr(self, part):
                return part
        raise InputError(f"patient {case_id!r} is in no part of fold {self.fold}; {_REMEDY}")


def split_patients(
    groups: Mapping[str, str], folds: int = 5, validation_share: float = 0.15, seed: int = 0
) -> list[FoldSplit]:
    """Split patients into folds, each patient a test patient once; independent of the order of `groups`.

    Args:
        groups: Group of each patient, by `case_id`.
        folds: Number of folds, at least 2.
        validation_share: Share of each fold's other patients that validate; of every group that has two or
            more of them at least one, and never all.
        seed: Seed of the shuffles.

    Raises:
        InputError: There are too few patients to fill every fold's parts, or an argument is out of range.
    """
    if folds < 2:
        raise InputError(f"{folds} folds leave nothing to train on; use at least 2")
    if not 0 < validation_share < 1:
        raise InputError(f"validation share {validation_share} is not between 0 and 1; use 0.15, say")
    needed = max(folds, 4 if folds == 2 else 3)  # every fold keeps one patient to train and one to validate
    if len(groups) < needed:
        raise InputError(
            f"{len(groups)} patients cannot be split into {folds} folds of training, validation and test "
            f"patients; give at least {needed} patients or use fewer folds"
        )
    patients = sorted(groups)
    tests = _test_parts([groups[patient] for patient in patients], folds, derive_seed(seed, "folds"))
    splits = []
    for fold, positions in enumerate(tests):
        test = {patients[position] for position in positions}
        rest = {patient: groups[patient] for patient in patients if patient not in test}
        validation = _validation_part(rest, validation_share, seed, fold)
        train = tuple(patient for patient in rest if patient not in validation)
        splits.append(FoldSplit(fold, train, tuple(sorted(validation)), tuple(sorted(test))))
    return splits


def write_splits(path: Path, splits: Sequence[FoldSplit], seed: int | None = None, studies: str = "") -> None:
    """Write all folds as one JSON file, written aside and renamed.

    The seed, where it is given, tells the file from that of another seed which happens to deal out patients alike:
    what is made from it draws by that seed too. So does the digest of the studies that were split: another label of a
    patient leaves the parts as they are, and not what is made from it.
    """
    given: dict[str, int | str] = {"studies": studies} if studies else {}
    given |= {} if seed is None else {"seed": seed}
    text = json.dumps({**given, "folds": [_to_json(split) for split in splits]}, indent=2) + "\n"
    write_text(path, text)


def read_split(path: Path, fold: int) -> FoldSplit:
    """Read one fold of what `write_splits` wrote.

    Raises:
        InputError: The file is missing or no such file, or has no such fold.
    """
    try:
        content = read_json(path)
        splits = {int(entry["fold"]): _from_json(entry) for entry in content["folds"]}
    except (OSError, *UNFIT) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: not a readable split ({one_line(repr(error))}); {_REMEDY}"
        ) from error
    if fold not in splits:
        raise InputError(f"{path}: there is no fold {fold}, only {sorted(splits)}; choose one of them")
    return splits[fold]


def split_digest(split: FoldSplit) -> str:
    """Return a SHA-256 of the fold's number and parts."""
    content = json.dumps(_to_json(split), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _to_json(split: FoldSplit) -> dict[str, Any]:
    """Return a fold's number and parts; those left out only where there are any, so that other digests stay."""
    content = asdict(split)
    return content if split.left_out else {name: value for name, value in content.items() if name != "left_out"}


def _from_json(entry: Mapping[str, Sequence[str]]) -> FoldSplit:
    train, validation, test = (tuple(str(patient) for patient in entry[part]) for part in PARTS)
    left_out = tuple(str(patient) for patient in entry.get("left_out", ()))
    return FoldSplit(int(str(entry["fold"])), train, validation, test, left_out)


def _test_parts(groups: Sequence[str], folds: int, seed: int) -> list[list[int]]:
    """Return the positions of each fold's test patients."""
    from sklearn.model_selection import StratifiedKFold  # a second, which every reader of a split would pay

    folding = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # A group smaller than the folds is dealt out as evenly as it can be, which is what is wanted.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        pairs = folding.split(np.zeros(len(groups)), _strata(groups, folds))
        return [test.tolist() for _, test in pairs]


def _strata(groups: Sequence[str], folds: int) -> list[str]:
    """Join the smallest groups until one has a patient for every fold, as scikit-learn demands."""
    names = {group: group for group in groups}
    while max((counts := Counter(names[group] for group in groups)).values()) < folds:
        smallest, second = sorted(counts, key=lambda name: (counts[name], name))[:2]
        joined = f"{smallest}+{second}"
        names = {group: joined if name in (smallest, second) else name for group, name in names.items()}
    return [names[group] for group in groups]


def _validation_part(groups: Mapping[str, str], share: float, seed: int, fold: int) -> set[str]:
    """Draw validation patients from each group of a fold's training patients."""
    chosen: set[str] = set()
    for index, group in enumerate(sorted(set(groups.values()), key=_group_order)):
        members = [patient for patient in groups if groups[patient] == group]
        if len(members) >= 2:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            order = random_generator(seed, "validation", fold, index).permutation(len(members))
            chosen.update(members[position] for position in order[:count])
    if not chosen:  # no group has two patients: any one validates
        patients = list(groups)
        chosen.add(patients[int(random_generator(seed, "validation", fold).integers(len(patients)))])
    return chosen


def _group_order(group: str) -> tuple[int, str]:
    return (PATIENT_GROUPS.index(group) if group in PATIENT_GROUPS else len(PATIENT_GROUPS), group)
