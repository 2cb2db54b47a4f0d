"""ImageNet features of VGG16, from a weights file that the caller names.

What does not live here: a place to look for weights; nothing is ever downloaded.

Inception features and class probabilities, the usual ones of the Fréchet distance and the Inception Score.

Weights come from a file that the caller names; nothing is ever downloaded.
"""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from common.errors import InputError
from gan.quality.slices import Images, Vectors
from runtime.compute import Compute

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


class InceptionFeatures:
    """The 2048 pooled features of torch-fidelity's InceptionV3, and its 1008 class probabilities.

    Args:
        weights: torch-fidelity's file `weights-inception-2015-12-05-*.pth`. A file that holds anything but tensors is
            refused, unread.
        compute: What to run on; features are computed in float32.

    Raises:
        InputError: The package torch-fidelity is not installed, or the file cannot be read.
    """

    def __init__(self, weights: Path, compute: Compute) -> None:
        self._network = load_inception(weights).to(compute.device)
        # Without bias, as torch-fidelity's score.
        self._classes: Tensor = self._network.get_parameter("fc.weight").detach().cpu().double()
        self._device = compute.device

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Return features (N, 2048) of slices (N, H, W) in [0, 1], resized to 299 x 299 as bytes in three channels."""
        parts = [self._of(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, 2048), np.float32)

    def probabilities(self, vectors: Vectors) -> NDArray[np.float64]:
        """Return the class probabilities (N, 1008) that belong to features (N, 2048)."""
        logits = torch.as_tensor(np.asarray(vectors, np.float64)) @ self._classes.T
        return logits.softmax(dim=1).numpy()

    @torch.no_grad()
    def _of(self, images: Images) -> NDArray[np.float32]:
        grey = torch.as_tensor(np.array(images, dtype=np.float32)).to(self._device)
        pixels = (grey * 255).round().to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)
        features: Tensor = self._network(pixels)
        return features.float().cpu().numpy()


def load_inception(weights: Path) -> nn.Module:
    """Return torchmetrics' network, frozen, on the CPU."""
    if not weights.is_file():
        raise InputError(f"{weights}: there is no such file; name torch-fidelity's Inception weights or leave them out")
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity's own reading may run what is in it
        network: nn.Module = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except ModuleNotFoundError as error:
        raise InputError(
            "Inception features need the package torch-fidelity, which is not installed; run "
            "`pip install torch-fidelity`, or leave quality.inception_weights empty"
        ) from error
    except (OSError, RuntimeError, UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise InputError(
            f"{weights}: cannot be read as Inception weights ({str(error).splitlines()[0]}); give torch-fidelity's "
            "weights-inception-2015-12-05 file"
        ) from error
    return network.requires_grad_(False)


def inception_score(probabilities: NDArray[np.floating]) -> float:
    """Return exp of the mean KL divergence of each image's classes from all images' (Salimans et al. 2016).

    Between 1 (all images alike, or none recognised) and the number of classes. ImageNet's classes hold no hearts:
    the score says little about slices and is given since the literature gives it.

    Args:
        probabilities: (N, classes), rows summing to 1.
    """
    values = np.asarray(probabilities, np.float64).clip(1e-16, None)
    divergence = (values * (np.log(values) - np.log(values.mean(axis=0)))).sum(axis=1)
    return float(np.exp(divergence.mean()))
