"""Starting a training from the weights of another model, such as one of cine, where there are few patients.

What cannot be taken over are the last layers where the two draw different tissues; they start anew.
"""

from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError, some_of
from runtime.model_card import Ancestor, ModelCard
from runtime.model_folder import read_config, read_weights, weights_digest
from runtime.pack import stands_as
from segmentation.networks.blocks import SegmentationNetwork
from segmentation.training.config import NetworkConfig, TrainConfig

_SHAPE = ("name", "widths", "bottleneck", "module_width")
_KEPT_IN_LINEAGE = ("source", "profile", "fold", "patients", "salt")


def start_from(network: SegmentationNetwork, folder: Path, config: NetworkConfig) -> None:
    """Give a network, built from `config`, the weights of a model folder whose network has the same name and widths.

    Raises:
        InputError: The folder is no model, or of another network.
    """
    theirs = read_config(folder, TrainConfig).network
    differing = [name for name in _SHAPE if getattr(theirs, name) != getattr(config, name)]
    if differing:
        shown = ", ".join(f"{name} {getattr(theirs, name)} instead of {getattr(config, name)}" for name in differing)
        raise InputError(f"{folder}: cannot be started from, since it has {shown}; train one like this network")
    own, given = network.state_dict(), read_weights(folder)
    taken = {name: given[name] for name, tensor in own.items() if name in given and given[name].shape == tensor.shape}
    network.load_state_dict({**own, **taken})


def start_versions(place: Path | None) -> dict[str, str]:
    """Return which weights a training starts from, for cache keys, which a path alone does not tell."""
    return {} if place is None else {"start_from": weights_digest(place)}


def lineage(folder: Path) -> list[Ancestor]:
    """Return what a model's card says of its patients, and what it says of the models that it was started from."""
    card = ModelCard.read(folder)
    own = {name: value for name, value in card.said().items() if name in _KEPT_IN_LINEAGE}
    return [Ancestor(**own, weights=weights_digest(folder)), *(card.started_from if card.says("started_from") else [])]


def refuse_tested(folder: Path, source: str | None, tested: Iterable[str]) -> None:
    """Refuse a start from a model that has seen patients whom the new one is to be tested on.

    Args:
        folder: Of the model to start from.
        source: Where the new model's patients are from; those of two sources are taken for different people.
        tested: Their names.

    Raises:
        InputError: It has, or its card does not tell.
    """
    for one in lineage(folder):
        if None not in (source, one.source) and one.source != source:
            continue
        if one.patients is None:
            raise InputError(
                f"{folder}: its card does not tell on which patients of {one.source or 'which source'} it was "
                "trained, so that its scores here could flatter it; train it again, or start from another source's"
            )
        if known := [name for name in sorted(set(tested)) if stands_as(name, one.salt) in one.patients]:
            raise InputError(
                f"{folder}: was trained on {some_of(known)}, whom this fold tests: its scores would "
                "flatter it; start from a model of the same fold, or of another source"
            )
