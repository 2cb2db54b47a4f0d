"""Makes a pack of a trained model, measured on the patients that each network had not seen, and the card beside it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import known_digest, write_text
from common.pages.words import words
from common.progress import say, track
from engine.finished import Finished
from engine.record import is_finished
from engine.workspace import Workspace
from imaging.studies.split import PARTS
from pipeline.commands.models import (
    Member,
    ModelName,
    find_localisers,
    find_members,
    other_contrasts,
    step_reasons,
    with_others,
)
from pipeline.commands.output import records
from runtime.model_card import ModelCard, read_model_json, render_pack_card
from runtime.pack import (
    DATA,
    SUFFIX,
    Calibration,
    DataLicence,
    Flagged,
    KnownPatients,
    Manifest,
    Part,
    StepSaid,
    VolumeInterval,
    halved,
    is_pack_name,
    salted,
    stands_as,
    write_pack,
)
from segmentation.model_kind import REAL_ONLY, ModelKind

if TYPE_CHECKING:
    import pandas as pd

    from runtime.compute import Compute
    from segmentation.prediction.calibration import HeldOut
    from segmentation.prediction.familiarity import Familiarity

    Remembered = Mapping[Path, Familiarity | None]  # by model folder

SHIPPED_BYTES = 25_000_000  # what a pack that comes with ScarForge has at most


@dataclass(frozen=True)
class Origin:
    """What is packed: networks and localisers by folder, and where their runs lie (None: a model folder alone)."""

    name: ModelName
    members: Sequence[Member]
    localisers: Sequence[Path]
    workspace: Workspace | None

    def runs_of(self, localiser: Path) -> Workspace:
        """Return where the runs of a localiser lie: the model's, or another source's."""
        root = localiser.parents[1]
        if self.workspace is not None and root == self.workspace.root:
            return self.workspace
        return Workspace(root.parents[1], root.parent.name, root.name)


@dataclass(frozen=True)
class Measured:
    """What the networks made of patients whom they had not seen."""

    calibration: Calibration | None = None
    intervals: Mapping[str, VolumeInterval] | None = None
    flagged: Flagged | None = None
    results: Sequence[Mapping[str, Any]] = ()


def pack_model(
    home: Path,
    text: str,
    output: Path,
    localiser: str | None = None,
    localiser_folds: Sequence[int] = (),
    external: Sequence[Path] = (),
) -> Manifest:
    """Write a model as a pack and its card beside it, from its runs.

    Args:
        home: The workspace.
        text: `SOURCE/PROFILE/NETWORK/TRAINING_SET`, with `experiments/NAME/arms/ARM` in the middle for an arm's model;
            or a model folder.
        output: The file, whose name the model takes.
        localiser: `SOURCE/PROFILE` whose localisers go along instead of the model's own.
        localiser_folds: Only these of them; none: all.
        external: Output folders of `scarforge external-test`, told in the card.

    Raises:
        InputError: There is no such model, its runs do not tell whom it has seen, or the file cannot be written.
    """
    if output.suffix != SUFFIX or not is_pack_name(output.stem):
        raise InputError(f"-o {output}: name the file after the model, in small letters, such as models/lge{SUFFIX}")
    origin = _origin(home, text, localiser, localiser_folds)
    salt = hashlib.sha256("".join(map(_weights, origin.members)).encode()).hexdigest()[:16]
    networks = [_part(one, origin.name, salt) for one in origin.members]
    localisers = [_part(Member(one, _fold(one), 0), origin.runs_of(one), salt) for one in origin.localisers]
    remembered = {one.folder: _remembered(origin, one) for one in origin.members}
    measured = measure(origin, remembered) if origin.workspace else Measured()
    steps = step_reasons(home, origin.name, origin.members)
    manifest = Manifest(
        name=output.stem,
        scarforge=version("scarforge"),
        source=origin.name.source,
        profile=origin.name.profile,
        experiment=origin.name.experiment,
        network=origin.name.network,
        training_set=origin.name.training_set,
        label_set=ModelCard.read(origin.members[0].folder).label_set,
        networks=networks,
        localisers=localisers,
        steps=[StepSaid(step=one.step, applied=one.applied, why=one.why) for one in steps],
        calibration=measured.calibration,
        intervals=dict(measured.intervals or {}),
        salt=salt,
        patients=_patients(origin, salt),
        data=[DATA.get(one, _unknown(one)) for one in _sources(networks, localisers)],
        results=[dict(row) for row in measured.results],
        flagged=measured.flagged,
    )
    command = _command(origin, output, localiser, localiser_folds, external)
    card = render_pack_card(manifest, _about(origin.name), command, [_external(folder) for folder in external])
    manifest = manifest.model_copy(update={"about": card})
    written = write_pack(output, manifest, _tensors(origin, remembered))
    write_text(output.with_suffix(".md"), manifest.about)
    if (size := output.stat().st_size) > SHIPPED_BYTES:
        say(f"{output}: {size / 1e6:.1f} MB; packs that come with ScarForge have at most {SHIPPED_BYTES / 1e6:.0f} MB")
    return written


def _origin(home: Path, text: str, localiser: str | None, localiser_folds: Sequence[int]) -> Origin:
    if (Path(text) / "weights.safetensors").is_file():
        origin = _of_folder(Path(text))
    else:
        name = ModelName.parse(text)
        origin = Origin(name, find_members(home, name), (), name.workspace(home))
    if localiser is not None or origin.workspace is not None:
        folds = [member.fold for member in origin.members]
        if localiser is not None and is_pack_name(localiser):
            raise InputError(f"--localiser {localiser}: is a pack; name the SOURCE/PROFILE that trained it")
        folders, _ = find_localisers(home, origin.name, folds, localiser)
        kept = [folder for folder in folders if not localiser_folds or _fold(folder) in localiser_folds]
        origin = replace(origin, localisers=kept)
    return origin


def _of_folder(folder: Path) -> Origin:
    card = ModelCard.read(folder)
    training_set = card.training_set if card.says("training_set") else REAL_ONLY
    name = ModelName(card.source or "unknown", card.profile, card.network, training_set)
    return Origin(name, [Member(folder, card.fold, card.seed)], (), None)


def _weights(member: Member) -> str:
    return known_digest(member.folder / "weights.safetensors")


def _fold(folder: Path) -> int:
    return int(folder.name.rpartition("_")[2])


def _part(member: Member, trained: ModelName | Workspace, salt: str) -> Part:
    """Return the JSON of a model folder: patients as hashes, no path of this machine."""
    card = ModelCard.read(member.folder)
    said = card.model_dump(mode="json", exclude_unset=True)
    if card.says("patients"):
        said |= {"patients": sorted(salted(salt, one) for one in card.patients), "salt": salt}
    for ancestor in said.get("started_from", []):
        if ancestor.get("patients") and not ancestor.get("salt"):
            ancestor |= {"patients": sorted(stands_as(one, salt) for one in ancestor["patients"]), "salt": salt}
    config = dict(read_model_json(member.folder, "config.json"))
    if "start_from" in config:
        config["start_from"] = None  # the card names it by its digest
    return Part(
        source=trained.source, profile=trained.profile, fold=member.fold, seed=member.seed, config=config, card=said
    )


def _remembered(origin: Origin, member: Member) -> "Familiarity | None":
    """Return what a network remembers; where its training wrote less than a pack tells, from the slices beside it."""
    from imaging.slices.store import SliceStore
    from runtime.compute import choose_compute
    from segmentation.prediction.familiarity import read_familiarity, remember

    known = read_familiarity(member.folder)
    if origin.workspace is None or (known is not None and known.is_whole):
        return known
    place = origin.workspace.place("real_slices", member.fold)
    if known is None or not is_finished(place):
        return known
    with SliceStore.open(Finished.open(place, "real_slices").file("slices.h5"), verify=False) as real:
        patients = {part: list(real.rows.loc[real.rows["part"] == part, "case_id"].unique()) for part in PARTS}
        train, validation = patients["train"], patients["validation"]
        return remember(member.folder, real, train, validation, choose_compute("cpu", "fp32"))


def _tensors(origin: Origin, remembered: "Remembered") -> dict[str, Any]:
    from runtime.model_folder import read_weights
    from segmentation.prediction.familiarity import as_packed

    tensors: dict[str, Any] = {}
    folders = {f"network_{number}": member.folder for number, member in enumerate(origin.members)}
    folders |= {f"localiser_{number}": folder for number, folder in enumerate(origin.localisers)}
    for part, folder in folders.items():
        weights = {name: halved(one.numpy()) for name, one in read_weights(folder).items()}
        tensors |= {f"{part}.weights.{name}": one for name, one in weights.items()}
        if part.startswith("network"):
            tensors |= {f"{part}.familiarity.{name}": one for name, one in as_packed(remembered[folder]).items()}
    return tensors


def _patients(origin: Origin, salt: str) -> list[KnownPatients]:
    from pipeline.commands.seen_patients import known_patients

    source = origin.name.source
    if origin.workspace is None:
        seen = {one.fold: ModelCard.read(one.folder).patients for one in origin.members}
        hashed = {fold: sorted(salted(salt, name) for name in names) for fold, names in seen.items()}
        found = [KnownPatients(what="model", source=source, seen=hashed)]
    else:
        folds = sorted({one.fold for one in origin.members})
        found = [known_patients("model", origin.workspace, folds, salt)]
    borrowed = [folder for folder in origin.localisers if origin.runs_of(folder) != origin.workspace]
    if borrowed:
        found.append(known_patients("localiser", origin.runs_of(borrowed[0]), list(map(_fold, borrowed)), salt))
    return found


def _sources(networks: Sequence[Part], localisers: Sequence[Part]) -> list[str]:
    """Return every source that weights were trained on, those that trainings started from included."""
    started = [one for part in networks for one in part.card.get("started_from", [])]
    named = [part.source for part in (*networks, *localisers)] + [one.get("source") or "unknown" for one in started]
    return list(dict.fromkeys(named))


def _unknown(source: str) -> DataLicence:
    return DataLicence(name=source, licence="as the data's owner says", attribution="ask who trained it")


def measure(origin: Origin, remembered: "Remembered") -> Measured:
    """Measure every network on the test patients of its fold, whom it has not seen.

    Raises:
        InputError: The slices that lie there are not those that these networks were trained beside.
    """
    import pandas as pd

    from runtime.compute import choose_compute
    from segmentation.prediction.calibration import Pixels, calibrate, volume_intervals

    workspace = origin.workspace
    assert workspace is not None, "a model folder alone has no patients beside it"
    if not all(is_finished(workspace.place("real_slices", one.fold)) for one in origin.members):
        say("the real slices are not all there: nothing is measured")
        return Measured()
    compute, kind = choose_compute("cpu", "fp32"), origin.name.kind
    others = other_contrasts(workspace.home, ModelCard.read(origin.members[0].folder).label_set)
    found = [
        _held_out(workspace, kind, one, with_others(remembered[one.folder], others), compute)
        for one in track(origin.members, "measuring networks")
    ]
    flags = [flag for one in found for flag in one.flags]
    return Measured(
        calibration=calibrate(
            *(Pixels.joined(of) for of in zip(*((o.validation, o.test) for o in found), strict=True))
        ),
        intervals=volume_intervals(pd.concat([one.volumes for one in found], ignore_index=True)),
        flagged=Flagged(studies=len(flags), flagged=sum(flags)),
        results=_results(pd.concat([one.scores for one in found], ignore_index=True)),
    )


def _held_out(
    workspace: Workspace, kind: ModelKind, member: Member, remembered: "Familiarity | None", compute: "Compute"
) -> "HeldOut":
    from imaging.slices.part import PartSlices
    from imaging.slices.regions import read_regions
    from imaging.slices.store import SliceStore
    from imaging.studies.archive import StudyArchive
    from segmentation.prediction.calibration import measure_held_out
    from segmentation.prediction.segmenter import load_segmenter
    from segmentation.scoring.held_out import HeldOutPatients
    from segmentation.scoring.scores import ScoreIdentity

    place = workspace.place("real_slices", member.fold)
    real, model = Finished.open(place, "real_slices"), Finished.open(member.folder, kind.name)
    if model.record.behind.get(f"real_slices/fold_{member.fold}", real.record.data_version) != real.record.data_version:
        raise InputError(f"{place}: is not what {member.folder} was trained with; run this fold again")
    archive = StudyArchive.open(Finished.open(workspace.place("studies"), "studies").file("studies.h5"))
    segmenter = load_segmenter(model.model(), compute)
    with SliceStore.open(real.file("slices.h5"), verify=False) as store:
        patients = HeldOutPatients(archive, store, read_regions(real.file("regions.csv")))
        validation = PartSlices.of_part(store, "validation")
        identity = ScoreIdentity(member.fold, kind.network, kind.training_set, member.seed)
        return measure_held_out(segmenter, remembered, validation, patients, identity)


def _results(scores: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return Dice with intervals over the test patients of all folds."""
    from segmentation.comparison.arms import summarise

    return records(summarise(scores)[["rule", "tissue", "mean", "low", "high", "patients", "folds"]])


def _command(
    origin: Origin, output: Path, localiser: str | None, localiser_folds: Sequence[int], external: Sequence[Path]
) -> str:
    """Return the command that packs this model, in which no path of this machine stands."""
    parts = [
        f"scarforge models pack {origin.name if origin.workspace else 'DIR'} -o {output.name}",
        *([f"--localiser {localiser}"] if localiser else []),
        *(f"--localiser-fold {fold}" for fold in localiser_folds),
        *("--external DIR" for _ in external),
    ]
    return " ".join(parts)


def _about(name: ModelName) -> str:
    return name.kind.about if name.kind.known else f"{name.kind}."


def _external(folder: Path) -> str:
    from pandas import read_csv

    said, table = read_model_json(folder, "external_test.json"), read_csv(folder / "summary.csv")
    chosen = table[(table["rule"] == "positive") & (table.get("metric", "dice") == "dice")]
    lines = ["| tissue | Dice | 95 % interval |", "|---|---|---|"]
    for row in chosen.to_dict("records"):
        tissue = words(row["tissue"])
        lines.append(f"| {tissue} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} |")
    scored = "; ".join(
        f"{one['scored']} of {one['studies']} studies, {one['flagged']} flagged" for one in said["models"]
    )
    return "\n".join([f"{said['source']}: {scored}.", "", *lines])
