"""Candidates and champions: which model of each kind is trusted, kept in the workspace and told to MLflow.

The workspace decides and MLflow repeats it, so that a tracking server that is away delays what is shown there and
nothing else. A kind is one network on one training set in one fold; its champion keeps the scores it was judged by,
since the next training replaces the model's folder.

A model card as the text of a version in MLflow's model registry.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, one_line
from common.files import known_digest, of_the_disk, read_sealed, write_sealed
from common.pages.words import words
from runtime.model_card import ModelCard

if TYPE_CHECKING:
    import pandas as pd

    from segmentation.comparison.arms import ScoredTable
    from segmentation.comparison.promotion import Judgement
    from segmentation.model_kind import ModelKind


_FIELDS = ("network", "training_set", "source", "profile", "fold", "seed", "label_set", "slices", "steps", "precision")


def describe_version(card: ModelCard, scores: "pd.DataFrame", seed: int) -> str:
    """Return Markdown: what the model is, its Dice on test patients, what it is for and where the full card lies.

    Args:
        card: Of the model folder.
        scores: Table of the model's scores on the fold's test patients.
        seed: Which of the model's seeds.
    """
    lines = ["| | |", "|---|---|"]
    lines += [f"| {words(name)} | {getattr(card, name)} |" for name in _FIELDS if card.says(name)]
    for start in (card.started_from if card.says("started_from") else [])[:1]:
        told = {"source": start.source, "profile": start.profile, "fold": start.fold}
        where = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
        lines.append(f"| started from | {where or 'a model whose card names no source'} |")
    lines += [
        "",
        "Mean Dice on the fold's test patients (rule `positive`):",
        "",
        "| tissue | Dice | patients |",
        "|---|---|---|",
    ]
    chosen = scores[(scores["seed"] == seed) & (scores["rule"] == "positive") & (scores["metric"] == "dice")]
    for tissue, rows in chosen.groupby("tissue", sort=False):
        lines.append(f"| {words(str(tissue))} | {rows['value'].mean():.3f} | {rows['case_id'].nunique()} |")
    use = card.intended_use if card.says("intended_use") else ""
    lines += ["", use, "The full card is `model_card.json` among the model's files."]
    return "\n".join(lines)


CANDIDATE, CHAMPION = "candidate", "champion"
_BEGUN = "begun.json"


@dataclass(frozen=True)
class Candidate:
    """A model that has just been scored, all its seeds; `trainings` and `cards` go by seed."""

    kind: "ModelKind"
    version: str
    table: "ScoredTable"
    trainings: Mapping[int, str]
    cards: Mapping[int, ModelCard]


@dataclass(frozen=True)
class Champion:
    """What the workspace remembers of a champion, beside its table of scores."""

    version: str
    since: str
    reason: str
    manifest: Mapping[str, str]
    scores: str
    scores_sha256: str = ""  # of the table's file


@dataclass(frozen=True)
class Decision:
    """What was decided about a candidate, and who the champion is now."""

    candidate: Candidate
    judgement: "Judgement"
    champion: Champion

    @property
    def is_champion(self) -> bool:
        """Whether the candidate holds the title, by this decision or since before."""
        return self.champion.version == self.candidate.version


class ChampionBook:
    """The champions of one fold: a JSON file and a table of scores for each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begun(self) -> str:
        """Return when this book was begun, beginning it now if need be; a book that was moved away begins anew."""
        path = self.folder / _BEGUN
        if not path.exists():
            write_sealed(path, {"begun": _now()})
        try:
            return str(self._json(path)["begun"])
        except KeyError as error:
            raise self._unreadable(path, error) from error

    def champion(self, kind: "ModelKind") -> Champion | None:
        """Return the champion of a kind, None where there is none yet.

        Raises:
            InputError: What is written about it cannot be read.
        """
        path = self.folder / f"{kind.name}.json"
        try:
            return Champion(**self._json(path)) if path.exists() else None
        except TypeError as error:  # written by another version of this program
            raise self._unreadable(path, error) from error

    def scored(self, champion: Champion) -> "ScoredTable":
        """Return the scores that a champion was judged by.

        Raises:
            InputError: They cannot be read.
        """
        from segmentation.comparison.arms import ScoredTable
        from segmentation.scoring.scores import read_scores

        path = self.folder / champion.scores
        if champion.scores_sha256 and path.is_file() and known_digest(path) != champion.scores_sha256:
            raise self._unreadable(path, InputError("it is not the table that the champion was judged by"))
        try:
            return ScoredTable(read_scores(path), champion.manifest)
        except InputError as error:
            raise self._unreadable(path, error) from error

    def crown(self, candidate: Candidate, reason: str, since: str) -> Champion:
        """Write down a new champion: its scores first, so that a kill in between leaves the old one whole."""
        from segmentation.scoring.scores import write_scores

        file = f"{candidate.kind.name}.{_digest(candidate)}.csv"
        write_scores(self.folder / file, candidate.table.scores)
        digest = known_digest(self.folder / file)
        champion = Champion(candidate.version, since, reason, dict(candidate.table.manifest), file, digest)
        write_sealed(self.folder / f"{candidate.kind.name}.json", asdict(champion))
        for old in self.folder.glob(f"{candidate.kind.name}.*.csv"):
            if old.name != file:
                old.unlink()
        return champion

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            return dict(read_sealed(path))
        except (OSError, ValueError, TypeError) as error:
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: Path, error: Exception) -> InputError:
        return of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); move {self.folder} away to let the next candidates begin anew"
        )


def decide(book: ChampionBook, candidate: Candidate) -> Decision:
    """Judge a candidate against the champion of its kind, and crown it where it is the first or better."""
    from segmentation.comparison.promotion import SAME, Judgement, judge_candidate

    held = book.champion(candidate.kind)
    if held is not None and held.version == candidate.version:  # scored anew, perhaps by newer rules
        champion = book.crown(candidate, held.reason, held.since)
        return Decision(candidate, Judgement(promoted=False, reason=SAME), champion)
    judgement = judge_candidate(candidate.table, book.scored(held) if held else None)
    if held is None or judgement.promoted:
        held = book.crown(candidate, judgement.reason, _now())
    return Decision(candidate, judgement, held)


def registered_name(source: str, profile: str, kind: "ModelKind", fold: int) -> str:
    """Return the name of a kind in MLflow's model registry."""
    return f"scarforge-{source}-{profile}-{kind.name}-fold_{fold}"


def tell_registry(
    tracking: Mapping[str, Any], decisions: Sequence[Decision], source: str, profile: str, fold: int
) -> str:
    """Tell MLflow what was decided, now or when it can be reached; return the run that says so, empty if it cannot.

    Args:
        tracking: From `Forge.tracking`.
        decisions: Of this fold.
        source: Format of the studies.
        profile: Of the settings.
        fold: Which fold.
    """
    from engine.tracking.publish import replay
    from engine.tracking.store import tracking_places
    from engine.tracking.tracker import Tracker

    places = tracking_places(Path(tracking["home"]), {"MLFLOW_TRACKING_URI": tracking["uri"]})
    replay(places, every=False)  # a version needs its training to be there
    with Tracker.of(tracking) as tracker:
        tracker.final(_figures(decisions))
        for decision in decisions:
            name = registered_name(source, profile, decision.candidate.kind, fold)
            _tell_kind(tracker, name, decision, fold)
    return tracker.run_id


def _tell_kind(tracker: Any, name: str, decision: Decision, fold: int) -> None:
    candidate, kind, judgement = decision.candidate, decision.candidate.kind, decision.judgement
    tags = {"network": kind.network, "training_set": kind.training_set, "fold": fold}
    tags |= {"data_version": candidate.version, "judgement": judgement.reason}
    titles = [CANDIDATE]
    if decision.is_champion:
        titles.append(CHAMPION)
        tags |= {"champion_reason": decision.champion.reason, "champion_since": decision.champion.since}
    first = min(candidate.trainings)
    for seed, training in candidate.trainings.items():
        tracker.version(
            name,
            training,
            [title if seed == first else f"{title}-seed-{seed}" for title in titles],
            {**tags, "seed": seed},
            about=f"{kind.network} trained on {kind.training_set}, fold {fold}. `champion` is the version "
            "that no later one was shown to beat; `candidate` is the latest.",
            description=describe_version(candidate.cards[seed], candidate.table.scores, seed),
        )


def _figures(decisions: Sequence[Decision]) -> dict[str, float]:
    figures = {}
    for decision in decisions:
        kind = decision.candidate.kind.name
        figures[f"promoted/{kind}"] = float(decision.judgement.promoted)
        for tissue in decision.judgement.tissues:
            figures[f"difference_to_champion/{kind}/{tissue.tissue}"] = tissue.difference.value
    return {name: value for name, value in figures.items() if value == value}


def _digest(candidate: Candidate) -> str:
    """Return a short name for a model with its scores, for a file's name."""
    scores = candidate.table.scores.to_csv(index=False)
    return hashlib.sha256(f"{candidate.version}\n{scores}".encode()).hexdigest()[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
