"""What a sweep trains: its points, and how many slices each may have for all to have equally many."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imaging.errors import InputError, some_of

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
    for number in numbers:
        if number < 1 or number != int(number):
            raise InputError(
                f"--real-patients {number:g} is no number of patients; give whole numbers from 1, or {ALL}"
            )
    counted: tuple[int | None, ...] = tuple(int(number) for number in _sorted_once(numbers, "--real-patients"))
    return (*counted, None) if ALL in names else counted


def read_seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as `0,1,2`; empty for the profile's."""
    if not text:
        return ()
    numbers = tuple(_number(part, "--seeds", "0,1,2") for part in text.split(","))
    if any(number < 0 or number != int(number) for number in numbers):
        raise InputError(f"--seeds {text} are no whole numbers from 0; write them like 0,1,2")
    return tuple(int(number) for number in _sorted_once(numbers, "--seeds"))


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
