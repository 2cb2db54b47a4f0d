"""Finds trained models by name, in a workspace or in a pack, and loads them with their localisers."""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from common.errors import InputError, some_of
from engine.finished import Finished
from engine.record import is_finished, read_record
from engine.remote import Remote
from engine.workspace import ARMS, EXPERIMENTS, Workspace, packs_of
from imaging.labels import LABEL_SETS
from imaging.slices.regions import RegionConfig
from imaging.sources.table import reads_folder
from runtime.model_card import ModelCard, read_model_json
from runtime.pack import SUFFIX, Calibration, Pack, VolumeInterval, is_pack_name, named_packs, packed
from segmentation.model_kind import TRAINING_SETS, ModelKind, model_kinds
from segmentation.networks.table import NETWORKS

if TYPE_CHECKING:  # both import torch
    from runtime.compute import Compute
    from segmentation.localiser.box_prediction import Localiser
    from segmentation.prediction.familiarity import Cloud, Familiarity
    from segmentation.prediction.post_processing import StepReason
    from segmentation.prediction.segmenter import Segmenter

DEFAULT = "lge"  # the pack that `predict` takes where no model is named
REFERENCE_BOX = "none: cut around the reference"
_SHAPE = "SOURCE/PROFILE/NETWORK/TRAINING_SET, such as emidec/quick/attention_res_unet/real_only"


class ModelName(NamedTuple):
    """What a model is called on the command line.

    Attributes:
        source: What it was trained on.
        profile: With which settings.
        network: Its network.
        training_set: Its training set.
        experiment: `<experiment>/arms/<arm>` of an experiment's model; empty for the graph's own.
        pack: The file that holds it; None for a model of the workspace.
    """

    source: str
    profile: str
    network: str
    training_set: str
    experiment: str = ""
    pack: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read `SOURCE/PROFILE/NETWORK/TRAINING_SET`; an arm's have `experiments/NAME/arms/ARM` in the middle."""
        parts = text.strip("/").split("/")
        source, profile, *arm, network, training_set = parts if len(parts) in (4, 8) else ("",) * 4
        if not all(_is_name(part) for part in parts) or not source or (arm and arm[::2] != [EXPERIMENTS, ARMS]):
            raise InputError(f"model {text!r} is not a name; write {_SHAPE}, or a name of `scarforge models list`")
        return cls(source, profile, network, training_set, "/".join(arm[1:]))

    @classmethod
    def of_pack(cls, path: Path) -> "ModelName":
        """Return the name of the model in a pack.

        Raises:
            InputError: It cannot be read.
        """
        said = Pack.open(path).manifest
        return cls(said.source, said.profile, said.network, said.training_set, said.experiment, path)

    def workspace(self, home: Path) -> Workspace:
        """Return where its runs lie in a workspace."""
        return Workspace(home, self.source, self.profile, self.experiment)

    @property
    def kind(self) -> ModelKind:
        """Its network and training set."""
        return ModelKind(self.network, self.training_set)

    @property
    def asset(self) -> str:
        """The asset that trains it."""
        return self.kind.name

    def __str__(self) -> str:
        if self.pack is not None:
            return self.pack.stem
        arm = (EXPERIMENTS, self.experiment) if self.experiment else ()
        return "/".join((self.source, self.profile, *arm, self.network, self.training_set))


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
        calibration: What its probabilities are tempered by; None for models of a workspace.
        intervals: How far its volumes may be off, by tissue and group; empty for models of a workspace.
    """

    name: ModelName
    members: tuple[Member, ...]
    segmenter: "Segmenter"
    localisers: tuple["Localiser", ...]
    localiser_name: str
    region: RegionConfig
    familiarity: tuple["Familiarity | None", ...]
    post_processing: tuple["StepReason", ...] = ()
    calibration: Calibration | None = None
    intervals: Mapping[str, VolumeInterval] = field(default_factory=dict)


def find_model(home: Path, text: str | None) -> ModelName:
    """Return the model that somebody named: a pack's name or file, or the name of a model of the workspace.

    Args:
        home: The workspace.
        text: What was given; None for the model that is taken where none is named.

    Raises:
        InputError: There is no such pack, or the text is no name.
    """
    if text is not None and text.endswith(SUFFIX):
        return ModelName.of_pack(Path(text))
    if text is not None and "/" in text:
        return ModelName.parse(text)
    packs, wanted = named_packs(packs_of(home)), DEFAULT if text is None else text
    if wanted in packs:
        return ModelName.of_pack(packs[wanted])
    there = f"there are {some_of(packs)}" if packs else "there is none"
    which = f"no model was named, and {wanted!r}" if text is None else f"model {wanted!r}"
    raise InputError(
        f"{which} is neither shipped nor added ({there}); add one with `scarforge models add FILE`, or give --model "
        "one that `scarforge models list` names"
    )


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
    from segmentation.prediction.familiarity import remembered_by
    from segmentation.prediction.segmenter import load_ensemble

    members = find_members(home, name, fold)
    folders: list[Path] = []
    localiser_name = REFERENCE_BOX
    if localise:
        folders, localiser_name = find_localisers(home, name, [member.fold for member in members], localiser)
    with ThreadPoolExecutor() as pool:  # digests of 100 MB each, which free the interpreter's lock
        places = list(pool.map(lambda member: opened_model(member.folder, name.asset), members))
    said = Pack.open(name.pack).manifest if name.pack else None
    reasons = step_reasons(home, name, members) if post_processing else ()
    sure_lesions_only = any(reason.step == "unsure_lesions" and reason.applied for reason in reasons)
    segmenter = load_ensemble(places, compute, flips, post_processing, sure_lesions_only)
    others = other_contrasts(home, segmenter.label_set.name)
    return LoadedModel(
        name=name,
        members=tuple(members),
        segmenter=segmenter,
        localisers=tuple(load_localiser(opened_model(place, "lv_localiser"), compute) for place in folders),
        localiser_name=localiser_name,
        region=_common_region(home, name, members),
        familiarity=tuple(
            with_others(remembered_by(place, count), others)
            for place, count in zip(places, segmenter.feature_counts(), strict=True)
        ),
        post_processing=reasons,
        calibration=said.calibration if said else None,
        intervals=said.intervals if said else {},
    )


def other_contrasts(home: Path, label_set: str) -> "dict[str, Cloud]":
    """Return how the training studies of each pack of another label set look; one that cannot be read tells nothing."""
    from segmentation.prediction.familiarity import contrast_of_pack

    found = {}
    for name, path in named_packs(packs_of(home)).items():
        with suppress(InputError):
            pack = Pack.open(path)
            if pack.manifest.label_set != label_set and (cloud := contrast_of_pack(pack)) is not None:
                found[name] = cloud
    return found


def with_others(familiarity: "Familiarity | None", others: "Mapping[str, Cloud]") -> "Familiarity | None":
    """Return what a network remembers beside what other models do."""
    return None if familiarity is None else replace(familiarity, others=others)


def opened_model(folder: Path, asset: str) -> Path:
    """Return a model folder after comparing it with its record; a pack has been compared with its own digest."""
    return folder if packed(folder) else Finished.open(folder, asset).model()


def step_reasons(home: Path, name: ModelName, members: Sequence[Member]) -> "tuple[StepReason, ...]":
    """Return which steps of post-processing a model takes where they are asked for, and why."""
    from segmentation.prediction.post_processing import StepReason, explain_steps, explain_sureness

    if name.pack:
        return tuple(StepReason(**step.model_dump()) for step in Pack.open(name.pack).manifest.steps)
    cards = [ModelCard.read(member.folder) for member in members]
    steps = explain_steps(cards)
    labels = [LABEL_SETS.get(card.label_set) for card in cards]
    if not all(one and one.has_lesions for one in labels):
        return steps
    return (*steps, explain_sureness([_judgement_of(home, name, member) for member in members]))


def _judgement_of(home: Path, name: ModelName, member: Member) -> Mapping[str, Any] | None:
    """Return what the scoring of this very network found about unsure lesions; None where it was not scored."""
    from segmentation.prediction.post_processing import UNSURE_FILE

    asset = name.workspace(home).place(name.kind.scores)
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
    found = _packed_members(name.pack) if name.pack else _members_here(home, name)
    chosen = [member for member in found if fold is None or member.fold == fold]
    if not chosen:
        raise InputError(_missing(home, name, fold))
    return chosen


def _members_here(home: Path, name: ModelName) -> list[Member]:
    place = name.workspace(home).place(name.asset)
    _fetch_published(home, place)
    return [
        Member(folder, int(folder.parent.name.removeprefix("fold_")), int(folder.name.removeprefix("seed_")))
        for folder in sorted(place.glob("fold_[0-9]/seed_[0-9]*"))
        if is_finished(folder)
    ]


def _packed_members(path: Path) -> list[Member]:
    pack = Pack.open(path)
    return [
        Member(folder, part.fold, part.seed)
        for folder, part in zip(pack.folders("network"), pack.manifest.networks, strict=True)
    ]


def find_localisers(home: Path, name: ModelName, folds: Sequence[int], other: str | None) -> tuple[list[Path], str]:
    """Return the localisers' folders and what to call them: of these folds, or all of another source or pack.

    Raises:
        InputError: One is missing.
    """
    if other is None and name.pack:
        return packed_localisers(name.pack, folds)
    if other is not None and is_pack_name(other):
        return packed_localisers(find_model(home, other).pack or Path(other), ())
    source, profile = (name.source, name.profile) if other is None else _source_and_profile(other)
    experiment = name.experiment if other is None else ""
    place = Workspace(home, source, profile, experiment).place("lv_localiser")
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


def packed_localisers(path: Path, folds: Sequence[int]) -> tuple[list[Path], str]:
    """Return the localisers of a pack: those of these folds where they have seen the networks' own patients, else all.

    Raises:
        InputError: It has none.
    """
    pack = Pack.open(path)
    said = pack.manifest
    pairs = [
        (folder, part)
        for folder, part in zip(pack.folders("localiser"), said.localisers, strict=True)
        if not folds or part.source != said.source or part.fold in folds
    ]
    if not pairs:
        raise InputError(f"{path}: has no localiser; name those of a source with --localiser SOURCE/PROFILE")
    origin = f"{pairs[0][1].source}/{pairs[0][1].profile}"
    folded = ", ".join(str(part.fold) for _, part in pairs)
    return [folder for folder, _ in pairs], f"{said.name}: {origin}, fold {folded}"


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
    if name.pack:
        return f"model {name}{which} is not in {name.pack}; leave out --fold, or name another"
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
    slices = name.workspace(home).place("real_slices", member.fold)
    values: Mapping[str, Any] = card.region if card.says("region") else _region_of_store(slices)
    try:
        return RegionConfig.model_validate({key: values[key] for key in RegionConfig.model_fields})
    except (ValidationError, KeyError) as error:
        raise InputError(f"{member.folder}: its regions cannot be cut ({values}); name another model") from error


def _region_of_store(folder: Path) -> Mapping[str, Any]:
    from imaging.slices.store import SliceStore

    with SliceStore.open(Finished.open(folder, "real_slices").file("slices.h5"), verify=False) as store:
        return store.attributes.parameters
