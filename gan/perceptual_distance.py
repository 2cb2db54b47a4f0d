"""LPIPS, the learned perceptual distance of image pairs (Zhang et al. 2018), from a weights file that is named.

The networks and the linear layers are torchmetrics'; only the convolutions' ImageNet weights come from the file.
What does not live here: a place to look for weights; nothing is ever downloaded.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from gan.quality_slices import Images, PairDistance
from imaging.errors import InputError
from training.compute import Compute

Backbone = Literal["alexnet", "vgg16"]
_NAMES: dict[Backbone, Literal["alex", "vgg"]] = {"alexnet": "alex", "vgg16": "vgg"}
_BATCH = 16


def perceptual_distance(weights: Path, backbone: Backbone, compute: Compute) -> PairDistance:
    """Return a function from two sets of slices (N, H, W) in [0, 1] to the LPIPS of each pair (N,).

    Slices are repeated to three channels and seen at their own size. The distance is a mean over the whole slice:
    where both are black they agree, so a distance inside the ventricle is diluted by what surrounds it and is to be
    compared with others of the same slices only.

    Args:
        weights: A safetensors file with `features.<layer>.weight` and `.bias` as torchvision names them.
        backbone: The network whose weights these are.
        compute: What to run on; distances are computed in float32.

    Raises:
        InputError: The file cannot be read or lacks a layer.
    """
    network = load_lpips(weights, backbone).to(compute.device)

    def distance(first: Images, second: Images) -> NDArray[np.float32]:
        starts = range(0, len(first), _BATCH)
        parts = [_measured(network, first[s : s + _BATCH], second[s : s + _BATCH], compute.device) for s in starts]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    return distance


def load_lpips(weights: Path, backbone: Backbone) -> nn.Module:
    """Return torchmetrics' network with the file's convolutions and its own linear layers, on the CPU."""
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{weights}: cannot be read as {backbone} weights ({error}); name a safetensors file with features.* keys"
        ) from error
    network = _LPIPS(net=_NAMES[backbone], pnet_rand=True)
    # torchmetrics cuts the network into slices: slice2.3.weight is torchvision's features.3.weight.
    wanted = {name: "features." + name.partition(".")[2] for name in network.net.state_dict()}
    missing = [name for name in wanted.values() if name not in tensors]
    if missing:
        raise InputError(f"{weights}: lacks {missing[0]} and {len(missing) - 1} more; give the weights of {backbone}")
    try:
        network.net.load_state_dict({own: tensors[name] for own, name in wanted.items()})
    except RuntimeError as error:
        raise InputError(
            f"{weights}: its layers are not those of {backbone}; give the weights of {backbone}"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _measured(network: nn.Module, first: Images, second: Images, device: torch.device) -> NDArray[np.float32]:
    distances: Tensor = network(_as_rgb(first, device), _as_rgb(second, device), normalize=True)
    values: NDArray[np.float32] = distances.flatten().cpu().numpy()
    return values


def _as_rgb(images: Images, device: torch.device) -> Tensor:
    tensor = torch.as_tensor(np.array(images, dtype=np.float32)).to(device)
    return tensor.unsqueeze(1).expand(-1, 3, -1, -1)
