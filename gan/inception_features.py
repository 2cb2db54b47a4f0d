"""Inception features and class probabilities, the usual ones of the Fréchet distance and the Inception Score.

Weights come from a file that the caller names; nothing is ever downloaded.
"""

from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from gan.quality_slices import Images, Vectors
from imaging.errors import InputError
from training.compute import Compute

_BATCH = 32


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
