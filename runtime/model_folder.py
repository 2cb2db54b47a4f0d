"""Model folders: weights as safetensors, the frozen configuration, and a model card. Nothing is unpickled."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.config import FrozenConfig
from common.errors import InputError
from common.files import known_digest, write_atomically, write_json

Config = TypeVar("Config", bound=FrozenConfig)
_WEIGHTS, _CARD = "weights.safetensors", "model_card.json"
_DIGEST = "weights_sha256"  # in the card, so that a folder tells wherever it is copied


def write_model_folder(
    folder: Path, weights: Mapping[str, torch.Tensor], config: FrozenConfig, card: Mapping[str, Any]
) -> None:
    """Write `weights.safetensors`, `config.json` and `model_card.json`, which holds the weights' digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / _WEIGHTS, lambda part: save_file(tensors, part))
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / _CARD, {**card, _DIGEST: known_digest(folder / _WEIGHTS)})


def finished_card(
    folder: Path, network: Mapping[str, torch.Tensor], config: FrozenConfig, card: Mapping[str, Any], seed: int
) -> dict[str, Any] | None:
    """Return the model card of a training that is over, None where it has still to be done or continued.

    It is over when the weights in `folder` are whole and fit their configuration, this one, and when the model card,
    which is written last, says of its origin what the caller says. A caller that does not tell the seed tells too
    little.

    Args:
        folder: Of the model.
        network: State of a network of this configuration.
        config: Of the network and its training.
        card: What the caller knows of the training: seed, fold, versions of the data.
        seed: Of the training.
    """
    try:
        found, weights = read_model_json(folder, "model_card.json"), read_weights(folder)
        written = read_model_json(folder, "config.json")
    except InputError:
        return None
    shapes, wanted = ({name: tensor.shape for name, tensor in state.items()} for state in (weights, network))
    origin = json.loads(json.dumps({**card, "seed": card.get("seed")}))
    same = written == config.model_dump(mode="json") and {**found, **origin} == found and found.get("seed") == seed
    return found if same and shapes == wanted else None


def read_config(folder: Path, config_class: type[Config]) -> Config:
    """Read `config.json` of a model folder.

    Raises:
        InputError: The file is absent, or of another kind of model.
    """
    try:
        return config_class.model_validate(read_model_json(folder, "config.json"))
    except ValidationError as error:
        named = ", ".join(sorted({".".join(map(str, one["loc"])) for one in error.errors()}))
        raise InputError(
            f"{folder}/config.json: is no {config_class.__name__} ({named}); name another model"
        ) from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read `weights.safetensors` of a model folder onto the CPU.

    Where the card holds their digest, they have to fit it; beside a card that holds none they are taken as they are.

    Raises:
        InputError: The file is absent, truncated, not safetensors, or not the one that the card was written for.
    """
    path = folder / _WEIGHTS
    try:
        _require_of_card(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rematerialise the model asset") from error


def _require_of_card(path: Path) -> None:
    card = path.with_name(_CARD)
    written = read_model_json(path.parent, _CARD).get(_DIGEST) if card.exists() else None
    if written is not None and known_digest(path) != written:
        raise InputError(
            f"{path}: is not the file that its {_CARD} was written for; copy the whole model folder again, or "
            "rematerialise the model asset"
        )


def weights_digest(folder: Path) -> str:
    """Return what tells a model's weights from others: for cache keys.

    Raises:
        InputError: The folder has no weights.
    """
    try:
        return known_digest(folder / _WEIGHTS)
    except OSError as error:
        raise InputError(
            f"{folder}: is no model folder to start from ({error}); name one with weights.safetensors, such as "
            "WORKSPACE/acdc/quick/attention_res_unet_real_only/fold_0/seed_0"
        ) from error


def read_model_json(folder: Path, name: str) -> dict[str, Any]:
    """Read `config.json` or `model_card.json` of a model folder.

    Raises:
        InputError: The file is absent, no JSON or no mapping; also later, when an entry is asked for that it lacks.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=partial(_Entries, path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rematerialise the model asset") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no names with values; rematerialise the model asset")
    return content


class _Entries(dict[str, Any]):
    """What a model's file says, at any depth; an entry that it lacks is the file's fault, told in one line."""

    def __init__(self, path: Path, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise InputError(
            f"{self._path}: lacks {name!r}: another version wrote it, or it was edited; rematerialise the model asset"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy in another process is a plain one
