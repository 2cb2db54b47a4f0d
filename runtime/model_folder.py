"""Model folders: weights as safetensors, the frozen configuration, and a model card. Nothing is unpickled."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from common.config import FrozenConfig
from common.errors import InputError, one_line
from common.files import known_digest, of_the_disk, write_atomically, write_json
from runtime.model_card import CARD, ModelCard, read_model_json
from runtime.pack import packed

Config = TypeVar("Config", bound=FrozenConfig)
Network = TypeVar("Network", bound=nn.Module)
_WEIGHTS = "weights.safetensors"


def write_model_folder(
    folder: Path, weights: Mapping[str, torch.Tensor], config: FrozenConfig, card: ModelCard
) -> None:
    """Write `weights.safetensors`, `config.json` and `model_card.json`, which holds the weights' digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / _WEIGHTS, lambda part: save_file(tensors, part))
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / CARD, card.completed(weights_sha256=known_digest(folder / _WEIGHTS)).said())


def finished_card(
    folder: Path, network: Mapping[str, torch.Tensor], config: FrozenConfig, card: ModelCard, seed: int
) -> ModelCard | None:
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
        found, weights = ModelCard.read(folder), read_weights(folder)
        written = read_model_json(folder, "config.json")
    except InputError:
        return None
    shapes, wanted = ({name: tensor.shape for name, tensor in state.items()} for state in (weights, network))
    same_origin = card.says("seed") and card.seed == seed and {**found.said(), **card.said()} == found.said()
    return found if same_origin and written == config.model_dump(mode="json") and shapes == wanted else None


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
    """Read `weights.safetensors` of a model folder, or the weights of a pack's, onto the CPU as float32.

    Where the card holds their digest, they have to fit it; beside a card that holds none they are taken as they are.

    Raises:
        InputError: The file is absent, truncated, not safetensors, or not the one that the card was written for.
    """
    path = folder / _WEIGHTS
    if pack := packed(folder):
        return {name: torch.from_numpy(one) for name, one in pack.arrays(folder.name, "weights").items()}
    try:
        _require_of_card(path)
        path.open("rb").close()  # safetensors tells every fault of opening as an absent file
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the model asset"
        ) from error


def load_weights(build: Callable[[], Network], folder: Path) -> Network:
    """Return a model folder's network on the CPU.

    It is built without memory of its own: whatever sizes its configuration announces, no more is taken than its
    weights have.

    Args:
        build: Builds the network of the folder's configuration.
        folder: Of the model.

    Raises:
        RuntimeError: The weights are not those of such a network.
        InputError: The weights cannot be read.
    """
    with torch.device("meta"):
        network = build()
    network.load_state_dict(read_weights(folder), assign=True)
    return network


def _require_of_card(path: Path) -> None:
    if not path.with_name(CARD).exists():
        return
    card = ModelCard.read(path.parent)
    if card.says("weights_sha256") and known_digest(path) != card.weights_sha256:
        raise InputError(
            f"{path}: is not the file that its {CARD} was written for; copy the whole model folder again, or "
            "rematerialise the model asset"
        )


def weights_digest(folder: Path) -> str:
    """Return what tells a model's weights from others: for cache keys.

    Raises:
        InputError: The folder has no weights.
    """
    if pack := packed(folder):
        return pack.digest
    try:
        return known_digest(folder / _WEIGHTS)
    except OSError as error:
        raise InputError(
            f"{folder}: is no model folder to start from ({error}); name one with weights.safetensors, such as "
            "WORKSPACE/acdc/quick/attention_res_unet_real_only/fold_0/seed_0"
        ) from error
