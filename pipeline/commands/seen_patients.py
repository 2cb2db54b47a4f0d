"""Whom a workspace's models and localisers have seen, as its splits and archives of studies tell."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, some_of
from engine.finished import Finished
from engine.remote import Remote
from engine.workspace import Workspace
from imaging.sources.table import reads_folder
from imaging.studies.archive import StudyArchive
from imaging.studies.split import read_split
from pipeline.commands.models import LoadedModel, find_localisers, find_members
from runtime.model_card import ModelCard
from segmentation.evaluation.external_test import SeenPatients, image_digest

SPLIT = "patient_split"


@dataclass(frozen=True)
class Trained:
    """What was trained on some folds of a source.

    Attributes:
        what: A model or localiser, for messages.
        workspace: Its source's and profile's.
        folds: Whose patients it has seen.
        choices: The folds that could be chosen alone instead.
        split_versions: Data versions of the split that its networks were trained with, as far as they tell.
    """

    what: str
    workspace: Workspace
    folds: frozenset[int]
    choices: frozenset[int] = frozenset()
    split_versions: frozenset[str] = frozenset()


def trained_things(home: Path, models: Sequence[LoadedModel], localiser: str | None) -> list[Trained]:
    """Return the models, and the localisers named instead of their own.

    A model's own localisers have seen the patients that its networks have.
    """
    found = []
    for model in models:
        name = model.name
        cards = [ModelCard.read(one.folder) for one in model.members]
        parents = [card.parents for card in cards if card.says("parents")]
        found.append(
            Trained(
                what=f"model {name}",
                workspace=Workspace(home, name.source, name.profile),
                folds=frozenset(member.fold for member in model.members),
                choices=frozenset(member.fold for member in find_members(home, name)),
                split_versions=frozenset(each[SPLIT] for each in parents if SPLIT in each),
            )
        )
    if localiser is not None:
        folders, label = find_localisers(home, models[0].name, (), localiser)
        *_, source, profile, _, _ = folders[0].parts
        folds = frozenset(int(folder.name.removeprefix("fold_")) for folder in folders)
        found.append(Trained(f"localiser {label}", Workspace(home, source, profile), folds))
    return found


def seen_patients(trained: Trained, tested: str) -> SeenPatients:
    """Return whom something has seen.

    Args:
        trained: It.
        tested: The source that is tested. What was trained on another need not tell: patients of two sources are
            two people, unless their images are the same.

    Raises:
        InputError: It was trained on the tested source, and the workspace does not tell on whom.
    """
    source = trained.workspace.source
    own = source == tested
    identified = reads_folder(source)
    split_path = _fetched(trained.workspace, SPLIT) / "patient_split.json"
    archive_path = _fetched(trained.workspace, "studies") / "studies.h5"
    if own:
        _require_known(trained, split_path, archive_path, identified)
    if not split_path.is_file():
        return SeenPatients(trained.what, source, frozenset(), None)
    split_path = Finished.open(split_path.parent, SPLIT).file(split_path.name)
    splits = {fold: read_split(split_path, fold) for fold in trained.folds | trained.choices}
    names = frozenset(name for fold in trained.folds for name in (*splits[fold].train, *splits[fold].validation))
    return SeenPatients(
        what=trained.what,
        source=source,
        names=names,
        images=_images(archive_path, names) if archive_path.is_file() else None,
        unseen={fold: frozenset(splits[fold].test) for fold in sorted(trained.choices)},
        identified=identified,
    )


def seen_at_the_start(models: Sequence[LoadedModel], tested: str) -> list[SeenPatients]:
    """Return whom the models had seen whose weights the given ones started from, as the cards tell.

    Raises:
        InputError: One was trained on the tested source, and the card does not tell on whom.
    """
    found = []
    for model in models:
        for member in model.members:
            card = ModelCard.read(member.folder)
            for one in card.started_from if card.says("started_from") else []:
                what, source = f"the model that {model.name} fold {member.fold} started from", one.source or tested
                if source == tested and one.patients is None:
                    raise InputError(
                        f"{member.folder}: its card does not tell on which patients {what} was trained; start from a "
                        "model that was trained anew, or test on another source"
                    )
                found.append(SeenPatients(what, source, frozenset(one.patients or ()), None))
    return found


def _require_known(trained: Trained, split_path: Path, archive_path: Path, identified: bool) -> None:
    """Raise `InputError` unless the workspace tells on whom something was trained."""
    needed = [split_path] if identified else [split_path, archive_path]
    for path in needed:
        if not path.is_file():
            raise InputError(
                f"{path}: is missing, so that {trained.what} cannot be told from its own training patients; copy it "
                "from where the model was trained, or test on another source"
            )
    here = Finished.open(split_path.parent, SPLIT).record.data_version if trained.split_versions else ""
    if other := sorted(trained.split_versions - {here}):
        raise InputError(
            f"{split_path}: is split {here}, {trained.what} was trained with {some_of(other)}; train it again, or "
            "test on another source"
        )


def _fetched(workspace: Workspace, asset: str) -> Path:
    """Return an asset's folder, fetched first where another machine has published it."""
    place = workspace.place(asset)
    if (remote := Remote.of(workspace.home, os.environ)) is not None:
        remote.refresh(place)
    return place


def _images(archive_path: Path, names: frozenset[str]) -> frozenset[str]:
    archive = StudyArchive.open(Finished.open(archive_path.parent, "studies").file(archive_path.name))
    keys = archive.keys()
    return frozenset(image_digest(archive.load(*key).image) for key in keys if key[0] in names)
