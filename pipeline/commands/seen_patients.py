"""Whom models and localisers have seen, as a workspace's splits and archives of studies tell, or a pack's hashes."""

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError, some_of
from engine.finished import Finished
from engine.remote import Remote
from engine.workspace import Workspace
from imaging.sources.table import reads_folder
from imaging.studies.archive import StudyArchive
from imaging.studies.split import read_split
from imaging.studies.study import digest_of
from pipeline.commands.models import LoadedModel, find_localisers, find_members, find_model
from runtime.model_card import ModelCard
from runtime.pack import KnownPatients, Manifest, Pack, is_pack_name, salted
from segmentation.evaluation.external_test import SeenPatients

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
    """Return the models of the workspace, and the localisers named instead of their own; `seen_by_packs` tells others.

    A model's own localisers have seen the patients that its networks have.
    """
    found = []
    for model in models:
        name = model.name
        if name.pack:
            continue
        cards = [ModelCard.read(one.folder) for one in model.members]
        parents = [card.parents for card in cards if card.says("parents")]
        found.append(
            Trained(
                what=f"model {name}",
                workspace=name.workspace(home),
                folds=frozenset(member.fold for member in model.members),
                choices=frozenset(member.fold for member in find_members(home, name)),
                split_versions=frozenset(each[SPLIT] for each in parents if SPLIT in each),
            )
        )
    if localiser is not None and not is_pack_name(localiser):
        folders, label = find_localisers(home, models[0].name, (), localiser)
        *_, source, profile, _, _ = folders[0].parts
        folds = frozenset(int(folder.name.removeprefix("fold_")) for folder in folders)
        found.append(Trained(f"localiser {label}", Workspace(home, source, profile), folds))
    return found


def seen_by_packs(home: Path, models: Sequence[LoadedModel], localiser: str | None) -> list[SeenPatients]:
    """Return whom the networks and localisers of packs have seen."""
    found = []
    for model in models:
        if model.name.pack:
            said, folds = Pack.open(model.name.pack).manifest, {member.fold for member in model.members}
            found += [
                _of_manifest(said, one, folds if one.what == "model" else set(one.seen))
                for one in said.patients
                if one.what == "model" or localiser is None
            ]
    if localiser is not None and is_pack_name(localiser) and (path := find_model(home, localiser).pack):
        said = Pack.open(path).manifest
        used = {part.source for part in said.localisers}
        found += [_of_manifest(said, one, set(one.seen)) for one in said.patients if one.source in used]
    return found


def _of_manifest(said: Manifest, one: KnownPatients, folds: Iterable[int]) -> SeenPatients:
    chosen = [fold for fold in folds if fold in one.seen]
    return SeenPatients(
        what=f"model {said.name}" if one.what == "model" else f"the localiser of {said.name}",
        source=one.source,
        names=frozenset(name for fold in chosen for name in one.seen[fold]),
        images=None if one.images is None else frozenset(each for fold in chosen for each in one.images[fold]),
        unseen={fold: frozenset(names) for fold, names in sorted(one.unseen.items())},
        identified=one.identified,
        salt=said.salt,
    )


def known_patients(
    what: Literal["model", "localiser"], workspace: Workspace, folds: Sequence[int], salt: str
) -> KnownPatients:
    """Return whom the networks or localisers of some folds have seen, as salted hashes for a pack.

    Raises:
        InputError: The workspace does not tell.
    """
    identified = reads_folder(workspace.source)
    split_path = _fetched(workspace, SPLIT) / "patient_split.json"
    archive_path = _fetched(workspace, "studies") / "studies.h5"
    whole = Trained(f"the {what} of {workspace.source}/{workspace.profile}", workspace, frozenset(folds))
    _require_known(whole, split_path, archive_path, identified)
    splits = {fold: read_split(Finished.open(split_path.parent, SPLIT).file(split_path.name), fold) for fold in folds}
    images = None
    if archive_path.is_file():
        digests = _digests(archive_path)
        images = {fold: [digest for name in one.trained_on for digest in digests[name]] for fold, one in splits.items()}
    return KnownPatients(
        what=what,
        source=workspace.source,
        identified=identified,
        seen=_hashed(salt, {fold: one.trained_on for fold, one in splits.items()}),
        images=None if images is None else _hashed(salt, images),
        unseen=_hashed(salt, {fold: one.test for fold, one in splits.items()}) if what == "model" else {},
    )


def _hashed(salt: str, texts: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
    return {fold: sorted(salted(salt, text) for text in each) for fold, each in texts.items()}


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
                found.append(SeenPatients(what, source, frozenset(one.patients or ()), None, salt=one.salt))
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
    digests = _digests(archive_path, names)
    return frozenset(digest for each in digests.values() for digest in each)


def _digests(archive_path: Path, names: Container[str] | None = None) -> dict[str, list[str]]:
    """Return the digests of the images of each patient, or of those named."""
    archive = StudyArchive.open(Finished.open(archive_path.parent, "studies").file(archive_path.name))
    found: dict[str, list[str]] = {}
    for case_id, frame in archive.keys():  # noqa: SIM118 # no mapping
        if names is None or case_id in names:
            found.setdefault(case_id, []).append(digest_of(archive.load(case_id, frame).image))
    return found
