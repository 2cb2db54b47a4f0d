"""The table of networks: a network is one module and one line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from segmentation.networks.attention_res_unet import AttentionResUNet
from segmentation.networks.blocks import SegmentationNetwork
from segmentation.networks.halsr_net import HalsrNet
from segmentation.training.config import NetworkConfig


def _attention_res_unet(config: NetworkConfig, num_classes: int) -> SegmentationNetwork:
    return AttentionResUNet(
        num_classes=num_classes,
        widths=config.widths,
        bottleneck=config.bottleneck,
        dropout=config.dropout[-1],
    )


def _halsr_net(config: NetworkConfig, num_classes: int) -> SegmentationNetwork:
    return HalsrNet(
        num_classes=num_classes,
        widths=config.widths,
        bottleneck=config.bottleneck,
        module_width=config.module_width,
        dropout=config.dropout,
    )


NETWORKS: Mapping[str, Callable[[NetworkConfig, int], SegmentationNetwork]] = MappingProxyType(
    {"attention_res_unet": _attention_res_unet, "halsr_net": _halsr_net}
)


def build_network(config: NetworkConfig, num_classes: int = 5) -> SegmentationNetwork:
    """Build a network with random weights drawn from torch's current generator.

    Args:
        config: Name and size.
        num_classes: Label values of the label set, background included.

    Returns:
        A module that maps (N, 1, H, W) to `SegmentationOutput` with logits (N, num_classes, H, W).
    """
    return NETWORKS[config.name](config, num_classes)
