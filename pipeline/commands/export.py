"""`scarforge export`: the networks of a trained model as ONNX or exported PyTorch graphs, each checked.

`scarforge export-dataset`: a fold's two training sets as data sets of nnU-Net, with the fold's own split.
"""

import shlex
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.parts.inputs import open_slices, open_split, open_studies
from common.errors import InputError
from common.files import mark_own, put_in_place, write_json
from common.progress import say
from engine.forge import Forge
from imaging.labels import LABEL_SETS
from imaging.slices.nnunet import SPLITS, write_nnunet
from imaging.slices.regions import RegionConfig
from pipeline.commands.models import Member, ModelName, find_members, find_model, opened_model
from pipeline.commands.output import check_folder
from runtime.model_card import ModelCard

if TYPE_CHECKING:  # imports torch
    from segmentation.prediction.export import Exported


def export(home: Path, model: str, format_: str, output: Path, fold: int | None = None) -> list[Path]:
    """Export every finished network of a model, one file a fold and seed, with `export.json` beside them.

    Args:
        home: The workspace.
        model: A pack's name or file, or `SOURCE/PROFILE/NETWORK/TRAINING_SET`.
        format_: Key of `segmentation.prediction.export.EXPORT_FORMATS`.
        output: Folder of the files.
        fold: Only this fold's networks.

    Raises:
        InputError: There is no such model or format, a file's probabilities are not PyTorch's, or nothing can be
            written.
    """
    from segmentation.prediction.export import EXPORT_FORMATS, export_model

    if format_ not in EXPORT_FORMATS:
        raise InputError(f"--format {format_!r} does not exist; choose {' or '.join(EXPORT_FORMATS)}")
    name = find_model(home, model)
    check_folder(output)
    members, done = find_members(home, name, fold), []
    for member in members:
        path = output / f"fold_{member.fold}_seed_{member.seed}{EXPORT_FORMATS[format_].suffix}"
        mark_own(output, (path.name, "export.json"))
        folder = opened_model(member.folder, name.asset)
        done.append(export_model(folder, path, format_))
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, at most {done[-1].difference:.1g} from PyTorch")
    write_json(output / "export.json", describe(name, members, done, format_))
    return [exported.path for exported in done]


def describe(name: ModelName, members: Sequence[Member], done: Sequence["Exported"], format_: str) -> dict[str, Any]:
    """Return what somebody needs to use the files without this project."""
    card = ModelCard.read(members[0].folder)
    labels = LABEL_SETS[card.label_set]
    return {
        "model": str(name),
        "format": format_,
        "scarforge": version("scarforge"),
        "input": {"name": "images", "type": "float32", "shape": ["slices", 1, *card.input_size]},
        "preparation": (
            f"short-axis slices at {card.spacing_mm:g} mm in plane, cut around the left ventricle; "
            f"{_intensity_rule(card)}"
        ),
        "output": {"name": "probabilities", "type": "float32", "classes": list(labels.tissues)},
        "ensemble": "the mean of the files' probabilities is what `scarforge predict` averages, but for its flips",
        "files": {
            exported.path.name: {
                "fold": member.fold,
                "seed": member.seed,
                "opset": exported.opset,
                "largest_difference_from_pytorch": exported.difference,
            }
            for member, exported in zip(members, done, strict=True)
        },
        "intended_use": card.intended_use if card.says("intended_use") else None,
    }


def _intensity_rule(card: ModelCard) -> str:
    if not card.says("region"):  # models of earlier versions
        return "intensities in [0, 1]"
    return RegionConfig.model_validate({key: card.region[key] for key in RegionConfig.model_fields}).intensity_rule


FORMATS = ("nnunet",)
_ARMS = {"training_set_real_only": "RealOnly", "training_set_real_plus_gan": "RealPlusGan"}
_IDS = range(1, 1000)  # that nnU-Net writes with three digits
_COMMANDS = """\
export nnUNet_raw={raw} nnUNet_preprocessed={raw}/preprocessed nnUNet_results={raw}/results
nnUNetv2_plan_and_preprocess -d {ids} -c 2d --verify_dataset_integrity
{copies}
# Once for each ID ({ids}) and F, 0 to 4: nnU-Net's folds all have this split and differ in their random start.
nnUNetv2_train ID 2d F
nnUNetv2_predict -d ID -c 2d -f F -i {raw}/{first}/imagesTs -o {raw}/predictions/ID/seed_F
scarforge compare --reference {raw}/{first}/labelsTs {predictions} -o {raw}/comparison"""


def export_dataset(forge: Forge, fold: int, format_: str, output: Path, first_id: int = 501) -> list[Path]:
    """Write both arms of a fold, print the commands that train on them, and return their folders.

    Args:
        forge: Of the run whose training sets are finished.
        fold: The fold.
        format_: One of `FORMATS`.
        output: The folder that nnU-Net calls `nnUNet_raw`.
        first_id: Number of the real-only data set; the other has the next.

    Raises:
        InputError: The format or the number is unknown, a training set is not finished or holds other patients than the
            fold's, or there is a data set of this number.
    """
    if format_ not in FORMATS:
        raise InputError(f"--format {format_!r} is unknown; choose one of {', '.join(FORMATS)}")
    check_folder(output)
    title = f"{_camel(forge.source)}{_camel(forge.profile)}Fold{fold}"
    folders = {
        asset: output / f"Dataset{first_id + place:03d}_{title}{name}"
        for place, (asset, name) in enumerate(_ARMS.items())
    }
    _refuse_taken(output, first_id)
    mark_own(output, (name for folder in folders.values() for name in (folder.name, _partial(folder).name)))
    for asset, folder in folders.items():
        _write(forge, fold, asset, folder)
    print(_commands(output, list(folders.values()), first_id))
    return list(folders.values())


def _refuse_taken(output: Path, first_id: int) -> None:
    for number in (first_id, first_id + 1):
        if number not in _IDS:
            raise InputError(f"--id {first_id}: nnU-Net numbers data sets from 1 to 999, and two are written")
        for there in output.glob(f"Dataset{number:03d}_*"):
            raise InputError(f"{there}: is data set {number} already; remove it, or give another --output or --id")


def _write(forge: Forge, fold: int, asset: str, folder: Path) -> None:
    """Write one arm beside its place, and move it there when it is whole."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    table = open_studies(forge).table()
    slice_mm = dict(zip(zip(table["case_id"], table["frame"], strict=True), table["slice_mm"], strict=True))
    with open_slices(forge, asset, fold) as training, open_slices(forge, "real_slices", fold) as real:
        counts = write_nnunet(partial, training, real, open_split(forge, fold), slice_mm)
        digests = {"training_set": training.digest, "real_slices": real.digest}
    told = {"source": forge.source, "profile": forge.profile, "fold": fold, "asset": asset, "cases": counts, **digests}
    write_json(partial / "scarforge.json", {**told, "scarforge": version("scarforge")})
    put_in_place(partial, folder)
    say(f"{folder}: {counts['train']} slices to train on, {counts['validation']} to validate, {counts['test']} studies")


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _commands(output: Path, folders: Sequence[Path], first_id: int) -> str:
    """Return what to type next; `splits_final.json` goes where nnU-Net looks for it before it draws one of its own."""
    raw = shlex.quote(str(output.absolute()))
    numbers = [first_id + place for place in range(len(folders))]
    copies = [f"cp {raw}/{folder.name}/{SPLITS} {raw}/preprocessed/{folder.name}/" for folder in folders]
    predictions = " ".join(f"{raw}/predictions/{number}" for number in numbers)
    return _COMMANDS.format(
        raw=raw,
        ids=" ".join(map(str, numbers)),
        copies="\n".join(copies),
        first=folders[0].name,
        predictions=predictions,
    )


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
