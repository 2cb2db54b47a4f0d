"""Which network each head of the configuration is."""

from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_finder import BoxFinder
from segmentation.localiser_footprint import FootprintNet
from segmentation.localiser_network import LocaliserNet


def build_finder(config: LocaliserConfig) -> BoxFinder:
    """Return the untrained network of the configured head."""
    return FootprintNet(config) if config.head == "footprint" else LocaliserNet(config)
