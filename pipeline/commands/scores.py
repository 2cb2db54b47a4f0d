"""`scarforge scores`: every finished fold of a source and profile as one table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from common.errors import InputError, some_of
from common.files import mark_own
from common.tables import write_csv
from engine.finished import Finished
from engine.record import is_finished
from engine.remote import Remote
from engine.tracking.links import run_id_of
from engine.workspace import Workspace
from pipeline.commands.output import check_folder, records
from runtime.model_card import read_model_json
from segmentation.model_kind import ModelKind, model_kinds

if TYPE_CHECKING:
    from imaging.labels import LabelSet
    from segmentation.comparison.arms import ScoredTable
    from segmentation.comparison.text import PooledScores

_TITLES = {
    "scores.csv": "As drawn",
    "scores_without_unsure_lesions.csv": "Without unsure lesions",
}


class _Place(NamedTuple):
    folder: Path
    kind: ModelKind
    fold: int
    seed: int

    def opened(self) -> Finished:
        """Open it: its files are compared with its record as they are read."""
        return Finished.open(self.folder, self.kind.scores)

    def __str__(self) -> str:
        return f"{self.kind.scores} fold {self.fold} seed {self.seed}"


@dataclass(frozen=True)
class AllFolds:
    """The scores of all finished folds.

    Attributes:
        about: Source, profile, folds of each model, and what was left out.
        text: Everything as Markdown.
        pooled: By title; those that are there.
    """

    about: Mapping[str, Any]
    text: str
    pooled: "Mapping[str, PooledScores]"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        tables = {
            title.lower().replace(" ", "_"): {
                "summary": records(found.summary),
                "detection": records(found.detection),
                "notes": list(found.notes),
            }
            for title, found in self.pooled.items()
        }
        return {**self.about, **tables}


def pool_scores(home: Path, source: str, profile: str, output: Path | None) -> AllFolds:
    """Return the tables of all finished folds, seeds and models, and write them.

    Args:
        home: The workspace.
        source: As `scarforge run` was given it.
        profile: As `scarforge run` was given it.
        output: Folder of scores.md, and of `summary`, `detection` and the MLflow `runs` as CSV; None writes nothing.

    Raises:
        InputError: No fold was scored, all scores are of models that have been trained anew since, or folds were scored
            with other data, settings or versions of ScarForge.
    """
    from segmentation.comparison.text import pool_folds, render_pooled

    if output:
        check_folder(output)
    workspace = Workspace(home, source, profile)
    _fetch(workspace)
    places = _finished(workspace)
    if not places:
        raise InputError(
            f"no fold of {source}/{profile} has scores in {home}; make some with "
            f"`scarforge run --source {source} --profile {profile} --fold 0`"
        )
    places, outdated = _of_today(workspace, places)
    if not places:
        raise InputError(
            f"no scores of {source}/{profile} are of what lies there now: {some_of(outdated, between='; ')}; rerun"
        )
    labels, parts = _labels(workspace), [_heading(source, profile, places, outdated)]
    every: dict[str, PooledScores] = {}
    for file, title in _TITLES.items():
        lacking = [place for place in places if not place.opened().holds(file)]
        if lacking and not labels.has_lesions:
            continue
        parts.append(f"## {title}")
        pooled = None if lacking else pool_folds(_read(places, file))
        every |= {title: pooled} if pooled else {}
        parts.append(render_pooled(pooled, labels) if pooled else _lacking(lacking))
        if output:
            _write(output, Path(file).stem.removeprefix("scores"), pooled)
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    if output:
        write_csv(_runs(places), output / "runs.csv")
        (output / "scores.md").write_text(text, encoding="utf-8")
    folds = {kind.name: _folds(places, kind) for kind in sorted({place.kind for place in places})}
    about = {"source": source, "profile": profile, "folds": folds, "left_out": list(outdated)}
    return AllFolds(about, text, every)


def _lacking(places: Sequence[_Place]) -> str:
    return f"Not there yet for {', '.join(map(str, places))}, scored by an older version; rerun these folds."


def _write(output: Path, suffix: str, pooled: "PooledScores | None") -> None:
    """Write both tables, or remove those of an earlier call."""
    mark_own(output, ("scores.md", "runs.csv"), ("summary*.csv", "detection*.csv"))
    for name in ("summary", "detection"):
        path = output / f"{name}{suffix}.csv"
        if pooled:
            write_csv(getattr(pooled, name), path)
        else:
            path.unlink(missing_ok=True)


def _fetch(workspace: Workspace) -> None:
    """Fetch what other machines have published of the studies, the models and their scores."""
    if (remote := Remote.of(workspace.home, os.environ)) is None:
        return
    remote.refresh(workspace.place("studies"))
    for kind in model_kinds():
        for asset in (kind.name, kind.scores):
            remote.refresh_below(workspace.place(asset))


def _finished(workspace: Workspace) -> list[_Place]:
    found = []
    for kind in model_kinds():
        for folder in sorted(workspace.place(kind.scores).glob("fold_[0-9]/seed_[0-9]*")):
            if is_finished(folder):
                fold, seed = (int(part.name.split("_")[1]) for part in (folder.parent, folder))
                found.append(_Place(folder, kind, fold, seed))
    return found


def _of_today(workspace: Workspace, places: Sequence[_Place]) -> tuple[list[_Place], list[str]]:
    """Return the places whose scores are of the model, slices and rules of now, and what is to be said of the rest."""
    from assets.scores import outdated
    from engine.forge import Forge

    forge = Forge(source=workspace.source, profile=workspace.profile, home=str(workspace.home))
    why = {place: outdated(forge, place.kind, place.fold, place.seed) for place in places}
    said = [f"{place}, {reason}" for place, reason in why.items() if reason]
    return [place for place in places if not why[place]], said


def _read(places: Sequence[_Place], file: str) -> list["ScoredTable"]:
    from segmentation.comparison.arms import ScoredTable
    from segmentation.scoring.scores import read_scores

    tables = []
    for place in places:
        scored = place.opened()
        manifest = read_model_json(scored.file("manifest.json").parent, "manifest.json")
        tables.append(ScoredTable(read_scores(scored.file(file)), manifest))
    return tables


def _labels(workspace: Workspace) -> "LabelSet":
    from imaging.studies.archive import StudyArchive

    return StudyArchive.open(Finished.open(workspace.place("studies"), "studies").file("studies.h5")).label_set


def _heading(source: str, profile: str, places: Sequence[_Place], outdated: Sequence[str]) -> str:
    kinds = sorted({place.kind for place in places})
    left_out = "\n\nLeft out, rerun them: " + "; ".join(outdated) + "." if outdated else ""
    told = [f"{kind.name}: folds {', '.join(map(str, _folds(places, kind)))}" for kind in kinds]
    return f"# {source}, profile {profile}: test patients of all finished folds\n\n" + "; ".join(told) + "." + left_out


def _folds(places: Sequence[_Place], kind: ModelKind) -> list[int]:
    return sorted({place.fold for place in places if place.kind == kind})


def _runs(places: Sequence[_Place]) -> pd.DataFrame:
    """Return the MLflow run of each training and its scores; empty where MLflow did not get it."""
    rows = []
    for place in places:
        model = place.kind.name
        trained = place.folder.parents[2] / model / place.folder.parent.name / place.folder.name
        of = {"training": (trained, model), "scores": (place.folder, place.kind.scores)}
        runs = {name: run_id_of(*where) if is_finished(where[0]) else "" for name, where in of.items()}
        rows.append({"model": model, "fold": place.fold, "seed": place.seed} | runs)
    return pd.DataFrame(rows)
