"""The table of networks: a network is one module here and one line in `NETWORKS`.

Reading it costs no PyTorch: the module of a network is imported when one is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentation.networks.blocks import SegmentationNetwork
    from segmentation.training.config import NetworkConfig


@dataclass(frozen=True)
class Network:
    """What a network is called, how large it is and where it lies.

    Attributes:
        module: The module that holds it; its `build(config, num_classes)` makes one with random weights.
        title: As people write it.
        published: Its size where a configuration names none.
        dropout_of_stages: Whether each encoder stage has a dropout rate of its own beside the bottleneck's.
    """

    module: str
    title: str
    published: Mapping[str, Any]
    dropout_of_stages: bool = False

    def dropout_rates(self, stages: int) -> int:
        """Return how many dropout rates it takes with so many encoder stages."""
        return stages + 1 if self.dropout_of_stages else 1

    @property
    def build(self) -> "Callable[[NetworkConfig, int], SegmentationNetwork]":
        """The function that makes one."""
        builder: Callable[[NetworkConfig, int], SegmentationNetwork] = import_module(self.module).build
        return builder


_TABLE: dict[str, Network] = {
    # Source A gives no widths; these are ours (see `attention_res_unet`).
    "attention_res_unet": Network(
        "segmentation.networks.attention_res_unet",
        "Attention Res-UNet",
        MappingProxyType({"widths": (64, 128, 256, 512, 512), "bottleneck": 512, "dropout": (0.0,)}),
    ),
    # Source B: Fakhfakh et al. 2025.
    "halsr_net": Network(
        "segmentation.networks.halsr_net",
        "HALSR-Net",
        MappingProxyType({"widths": (64, 128, 256, 512), "bottleneck": 512, "dropout": (0.25, 0.30, 0.35, 0.35, 0.5)}),
        dropout_of_stages=True,
    ),
}
NETWORKS: Mapping[str, Network] = MappingProxyType(_TABLE)


def build_network(config: "NetworkConfig", num_classes: int = 5) -> "SegmentationNetwork":
    """Build a network with random weights drawn from torch's current generator.

    Args:
        config: Name and size.
        num_classes: Label values of the label set, background included.

    Returns:
        A module that maps (N, 1, H, W) to `SegmentationOutput` with logits (N, num_classes, H, W).
    """
    return NETWORKS[config.name].build(config, num_classes)
