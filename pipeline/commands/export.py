"""`scarforge export`: the networks of a trained model as ONNX or exported PyTorch graphs, each checked."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.files import mark_own, write_json
from common.progress import say
from engine.finished import Finished
from imaging.labels import LABEL_SETS
from imaging.slices.regions import RegionConfig
from pipeline.commands.models import Member, ModelName, find_members
from pipeline.commands.output import check_folder
from runtime.model_card import ModelCard

if TYPE_CHECKING:  # imports torch
    from segmentation.prediction.export import Exported


def export(home: Path, model: str, format_: str, output: Path, fold: int | None = None) -> list[Path]:
    """Export every finished network of a model, one file a fold and seed, with `export.json` beside them.

    Args:
        home: The workspace.
        model: `SOURCE/PROFILE/NETWORK/TRAINING_SET`.
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
    name = ModelName.parse(model)
    check_folder(output)
    members, done = find_members(home, name, fold), []
    for member in members:
        path = output / f"fold_{member.fold}_seed_{member.seed}{EXPORT_FORMATS[format_].suffix}"
        mark_own(output, (path.name, "export.json"))
        folder = Finished.open(member.folder, name.asset).model()
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
