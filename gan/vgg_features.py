"""ImageNet features of VGG16, from a weights file that the caller names.

What does not live here: a place to look for weights; nothing is ever downloaded.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imaging.errors import InputError
from training.compute import Compute

# torchvision.models.vgg16().features: widths of the 3 x 3 convolutions, M a 2 x 2 pooling.
_LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH = 32


def vgg16_features(
    weights: Path, compute: Compute, size_px: int = 96
) -> Callable[[NDArray[np.floating]], NDArray[np.float32]]:
    """Return a function from slices (N, H, W) in [0, 1] to the spatial mean of VGG16's last block (N, 512).

    Slices are resized to `size_px`, repeated to three channels and standardised as ImageNet is.

    Args:
        weights: A safetensors file with `features.<layer>.weight` and `.bias` as torchvision names them.
        compute: What to run on; features are computed in float32.
        size_px: Height and width the network sees.

    Raises:
        InputError: The file cannot be read or lacks a layer.
    """
    network = load_vgg16(weights).to(compute.device)
    mean = torch.tensor(_MEAN, device=compute.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=compute.device).view(1, 3, 1, 1)

    def features(images: NDArray[np.floating]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = torch.as_tensor(np.asarray(images[start : start + _BATCH], dtype=np.float32))
            batch = F.interpolate(
                batch.unsqueeze(1).to(compute.device),
                size=(size_px, size_px),
                mode="bilinear",
                antialias=True,
            )
            parts.append(_pooled(network, (batch - mean) / std))
        return np.concatenate(parts) if parts else np.empty((0, 512), np.float32)

    return features


def load_vgg16(weights: Path) -> nn.Sequential:
    """Return VGG16's convolutions up to the last activation, frozen, on the CPU."""
    network = _build()
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{weights}: cannot be read as VGG16 weights ({error}); name a safetensors file with features.* keys"
        ) from error
    wanted = {name: tensors.get(f"features.{name}") for name in network.state_dict()}
    missing = [f"features.{name}" for name, tensor in wanted.items() if tensor is None]
    if missing:
        raise InputError(f"{weights}: lacks {missing[0]} and {len(missing) - 1} more; give VGG16's weights")
    network.load_state_dict({name: tensor for name, tensor in wanted.items() if tensor is not None})
    return network.requires_grad_(False).eval()


def _build() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for entry in _LAYOUT:
        if isinstance(entry, int):
            layers += [nn.Conv2d(channels, entry, kernel_size=3, padding=1), nn.ReLU()]
            channels = entry
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@torch.no_grad()
def _pooled(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    pooled: NDArray[np.float32] = network(images).mean(dim=(2, 3)).cpu().numpy()
    return pooled
