"""The run tags of automation: which night a run belongs to, what started it, and whether it must train again."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.config import YES
from common.pages.words import words
from engine.record import cache_key

NIGHT_TAG = "scarforge/night"
STARTED_BY_TAG = "scarforge/started_by"
FORCE_TAG = "scarforge/force"
PARENT_KEY_TAG = "scarforge_parent"  # in MLflow: the `scarforge_key` of the run that this one is shown under
KEY_TAG = "scarforge_key"

BY_SCHEDULE, BY_SENSOR = "nightly", "new_studies"
_TITLES = {BY_SCHEDULE: "Night", BY_SENSOR: "New studies"}


@dataclass(frozen=True)
class RunIdentity:
    """What makes a run in MLflow this run and no other.

    Attributes:
        asset: What is made.
        fold: Of a partitioned asset.
        seed: Of a training or its scores.
        cache_key: Of the result, or the attempt where it is forced.
    """

    asset: str
    fold: int | None
    seed: int | None
    cache_key: str

    @property
    def key(self) -> str:
        """Everything in one text, by which the run is found again."""
        places = {"fold": self.fold, "seed": self.seed}
        named = [f"{name}_{number}" for name, number in places.items() if number is not None]
        return "/".join([self.asset, *named, self.cache_key])


def run_name(fold: int | None, seed: int | None, *parts: str) -> str:
    """Return a run's name for people, what tells it from the others first: MLflow shows some twenty letters."""
    places = {"f": fold, "s": seed if fold is not None else None}
    return " ".join([*(f"{name}{number}" for name, number in places.items() if number is not None), *map(words, parts)])


def night_tags(run_tags: Mapping[str, str], source: str, profile: str) -> dict[str, str]:
    """Return the MLflow tags that put a run under its night; none for a run that a person started."""
    night = run_tags.get(NIGHT_TAG)
    if not night:
        return {}
    started_by = run_tags.get(STARTED_BY_TAG, BY_SCHEDULE)
    return {
        "night": night,
        "started_by": started_by,
        PARENT_KEY_TAG: f"night/{source}/{profile}/{started_by}/{night}",
    }


def night_name(tags: Mapping[str, str]) -> str:
    """Return a night's name for people, from the MLflow tags of a run of that night."""
    title = _TITLES.get(tags.get("started_by", ""), "Night")
    return f"{title} {tags['night']}, {tags.get('source', '')} {tags.get('profile', '')}"


def forced_attempt(run_tags: Mapping[str, str], root_run_id: str, key: str) -> str:
    """Return what names a forced training, the same for every retry of one Dagster run; empty if nothing is forced.

    Args:
        run_tags: Of the Dagster run; `scarforge/force: true` forces.
        root_run_id: The run whose retry this is, or the run itself.
        key: The cache key of the result.
    """
    if run_tags.get(FORCE_TAG, "").lower() not in YES:
        return ""
    return cache_key(key, {"forced by run": root_run_id}, None)
