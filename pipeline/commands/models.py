"""Finds the trained models of a workspace by name, and loads them with their localisers."""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import InputError, some_of
from engine.finished import Finished
from engine.record import is_finished, read_record
from engine.remote import Remote
from engine.workspace import Workspace
from imaging.labels import LABEL_SETS
from imaging.slices.regions import RegionConfig
from imaging.sources.table import reads_folder
from runtime.model_card import ModelCard, read_model_json
from segmentation.model_kind import TRAINING_SETS, ModelKind, model_kinds
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:  # both import torch
    from runtime.compute import Compute
    from segmentation.localiser.box_prediction import Localiser
    from segmentation.prediction.familiarity import Familiarity
    from segmentation.prediction.post_processing import StepReason
    from segmentation.prediction.segmenter import Segmenter

REFERENCE_BOX = "none: cut around the reference"
_SHAPE = "SOURCE/PROFILE/NETWORK/TRAINING_SET, such as emidec/quick/attention_res_unet/real_only"


class ModelName(NamedTuple):
    """What a model is called on the command line."""

    source: str
    profile: str
    network: str
    training_set: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read `SOURCE/PROFILE/NETWORK/TRAINING_SET`."""
        parts = text.strip("/").split("/")
        if len(parts) != len(cls._fields) or not all(_is_name(part) for part in parts):
            raise InputError(f"model {text!r} is not a name; write {_SHAPE}")
        return cls(*parts)

    @property
    def kind(self) -> ModelKind:
        """Its network and training set."""
        return ModelKind(self.network, self.training_set)

    @property
    def asset(self) -> str:
        """The asset that trains it."""
        return self.kind.name

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class Member:
    """One trained network of a model."""

    folder: Path
    fold: int
    seed: int


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict.

    Attributes:
        name: As on the command line.
        members: Its networks.
        segmenter: The networks, averaged.
        localisers: Their boxes' median is taken.
        localiser_name: Where they come from, for people.
        region: How the training cut its regions.
        familiarity: What each member remembers of its training studies; None for older models.
        post_processing: Each step, whether it is applied and why; empty where none was asked for.
    """

    name: ModelName
    members: tuple[Member, ...]
    segmenter: "Segmenter"
    localisers: tuple["Localiser", ...]
    localiser_name: str
    region: RegionConfig
    familiarity: tuple["Familiarity | None", ...]
    post_processing: tuple["StepReason", ...] = ()


def load_model(
    home: Path,
    name: ModelName,
    fold: int | None,
    localiser: str | None,
    compute: "Compute",
    flips: bool | None,
    post_processing: bool = False,
    localise: bool = True,
) -> LoadedModel:
    """Load every finished seed and fold of a model, and the localisers.

    Args:
        home: The workspace.
        name: The model.
        fold: Only this fold.
        localiser: `SOURCE/PROFILE` whose localisers are taken instead of each fold's own.
        compute: Device and precision.
        flips: Flips at test time; None does as the model's configuration says.
        post_processing: Apply the steps that the validation patients of every member chose, and leave out unsure
            lesions unless they speak against it.
        localise: Load localisers; without, somebody else tells where the ventricle lies.

    Raises:
        InputError: There is no such model or localiser, or a folder is damaged.
    """
    from segmentation.localiser.box_prediction import load_localiser
    from segmentation.prediction.familiarity import read_familiarity
    from segmentation.prediction.segmenter import load_ensemble

    members = find_members(home, name, fold)
    folders: list[Path] = []
    localiser_name = REFERENCE_BOX
    if localise:
        folders, localiser_name = find_localisers(home, name, [member.fold for member in members], localiser)
    with ThreadPoolExecutor() as pool:  # digests of 100 MB each, which free the interpreter's lock
        places = list(pool.map(lambda member: Finished.open(member.folder, name.asset).model(), members))
    reasons = _reasons(home, name, members) if post_processing else ()
    sure_lesions_only = any(reason.step == "unsure_lesions" and reason.applied for reason in reasons)
    segmenter = load_ensemble(places, compute, flips, post_processing, sure_lesions_only)
    return LoadedModel(
        name=name,
        members=tuple(members),
        segmenter=segmenter,
        localisers=tuple(load_localiser(Finished.open(place, "lv_localiser").model(), compute) for place in folders),
        localiser_name=localiser_name,
        region=_common_region(home, name, members),
        familiarity=tuple(read_familiarity(place) for place in places),
        post_processing=reasons,
    )


def _reasons(home: Path, name: ModelName, members: Sequence[Member]) -> "tuple[StepReason, ...]":
    from segmentation.prediction.post_processing import explain_steps, explain_sureness

    cards = [ModelCard.read(member.folder) for member in members]
    steps = explain_steps(cards)
    labels = [LABEL_SETS.get(card.label_set) for card in cards]
    if not all(one and one.has_lesions for one in labels):
        return steps
    return (*steps, explain_sureness([_judgement_of(home, name, member) for member in members]))


def _judgement_of(home: Path, name: ModelName, member: Member) -> Mapping[str, Any] | None:
    """Return what the scoring of this very network found about unsure lesions; None where it was not scored."""
    from segmentation.prediction.post_processing import UNSURE_FILE

    asset = Workspace(home, name.source, name.profile).place(name.kind.scores)
    _fetch_published(home, asset)
    place = asset / member.folder.parent.name / member.folder.name
    if not is_finished(place) or not (scored := Finished.open(place, name.kind.scores)).holds(UNSURE_FILE):
        return None
    judgement = read_model_json(scored.file(UNSURE_FILE).parent, UNSURE_FILE)
    return judgement if judgement.get("model") == read_record(member.folder, name.asset).data_version else None


def find_members(home: Path, name: ModelName, fold: int | None = None) -> list[Member]:
    """Return the finished networks of a model, all folds and seeds or those of one fold.

    Raises:
        InputError: There is none; the message names what the workspace holds, and the command that trains it.
    """
    place = Workspace(home, name.source, name.profile).place(name.asset)
    _fetch_published(home, place)
    found = [
        Member(folder, int(folder.parent.name.removeprefix("fold_")), int(folder.name.removeprefix("seed_")))
        for folder in sorted(place.glob("fold_[0-9]/seed_[0-9]*"))
        if is_finished(folder)
    ]
    chosen = [member for member in found if fold is None or member.fold == fold]
    if not chosen:
        raise InputError(_missing(home, name, fold))
    return chosen


def find_localisers(home: Path, name: ModelName, folds: Sequence[int], other: str | None) -> tuple[list[Path], str]:
    """Return the localisers' folders and what to call them: of these folds, or all of another source.

    Raises:
        InputError: One is missing.
    """
    source, profile = (name.source, name.profile) if other is None else _source_and_profile(other)
    place = Workspace(home, source, profile).place("lv_localiser")
    _fetch_published(home, place)
    finished = {
        int(folder.name.removeprefix("fold_")): folder
        for folder in sorted(place.glob("fold_[0-9]"))
        if is_finished(folder)
    }
    wanted = sorted(set(folds)) if other is None else sorted(finished)
    missing = [str(fold) for fold in wanted if fold not in finished]
    if missing or not wanted:
        raise InputError(
            f"{place}: has no finished localiser{_of_folds(missing)}; train it with "
            f"`{_command(source, profile, missing[0] if missing else '0')}`, or name another source with --localiser"
        )
    return [finished[fold] for fold in wanted], f"{source}/{profile}, fold {', '.join(map(str, wanted))}"


def _fetch_published(home: Path, place: Path) -> None:
    """Fetch what other machines have finished of an asset."""
    if (remote := Remote.of(home, os.environ)) is not None:
        remote.refresh_below(place)


def models_in(home: Path) -> list[str]:
    """Return the names of all finished models of a workspace, with their folds."""
    names = []
    for root, kind in product(sorted(home.glob("*/*")), model_kinds()):
        folds = {path.parent.parent.name[-1] for path in root.glob(f"{kind.name}/fold_[0-9]/seed_[0-9]*/record.json")}
        if folds:
            name = ModelName(root.parent.name, root.name, kind.network, kind.training_set)
            names.append(f"{name} ({_plural(sorted(folds))})")
    return names


def _missing(home: Path, name: ModelName, fold: int | None) -> str:
    there = models_in(home)
    holds = f"it holds {some_of(there, between='; ')}" if there else "it holds no trained model"
    remedy = (
        f"train it with `{_command(name.source, name.profile, str(fold or 0))}`"
        if name.kind.known
        else f"networks are {', '.join(NETWORKS)}, training sets {', '.join(TRAINING_SETS)}"
    )
    which = "" if fold is None else f", fold {fold},"
    return f"model {name}{which} is not in the workspace {home}; {holds}; {remedy}"


def _command(source: str, profile: str, fold: str) -> str:
    root = " --root DIR" if reads_folder(source) else ""
    return f"scarforge run --source {source}{root} --profile {profile} --fold {fold}"


def _of_folds(folds: Sequence[str]) -> str:
    return f" of {_plural(folds)}" if folds else ""


def _plural(folds: Sequence[str]) -> str:
    return f"fold{'s' * (len(folds) > 1)} {', '.join(folds)}"


def _source_and_profile(text: str) -> tuple[str, str]:
    parts = text.strip("/").split("/")
    if len(parts) != 2 or not all(_is_name(part) for part in parts):
        raise InputError(f"--localiser {text!r}: write SOURCE/PROFILE, such as acdc/quick")
    return parts[0], parts[1]


def _is_name(text: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*", text) is not None  # no path out of the workspace


def _common_region(home: Path, name: ModelName, members: Sequence[Member]) -> RegionConfig:
    regions = {member: _region(home, name, member) for member in members}
    first = regions[members[0]]
    for member, region in regions.items():
        if region != first:
            raise InputError(
                f"{member.folder}: was trained on regions of {region}, {members[0].folder} of {first}; "
                "name one fold with --fold, or train them alike"
            )
    return first


def _region(home: Path, name: ModelName, member: Member) -> RegionConfig:
    """Return how the regions were cut that a member was trained on: from its card, else from its real slices."""
    card = ModelCard.read(member.folder)
    slices = Workspace(home, name.source, name.profile).place("real_slices", member.fold)
    values: Mapping[str, Any] = card.region if card.says("region") else _region_of_store(slices)
    return RegionConfig.model_validate({key: values[key] for key in RegionConfig.model_fields})


def _region_of_store(folder: Path) -> Mapping[str, Any]:
    from imaging.slices.store import SliceStore

    with SliceStore.open(Finished.open(folder, "real_slices").file("slices.h5"), verify=False) as store:
        return store.attributes.parameters
