"""The perceptual loss: how far apart a drawn and a real slice are for a network that has seen many pictures.

Johnson et al. 2016, section 3.1, with L1 in place of squared distances.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from gan.vgg_features import load_vgg16

# In torchvision.models.vgg16().features: the last layers of relu1_2, relu2_2 and relu3_3.
_TAPS = (3, 8, 15)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """The mean over relu1_2, relu2_2 and relu3_3 of VGG16 of the L1 distance of their features.

    Features are scaled to a mean length of 1 over the real slices' pixels, so that each layer counts alike.

    Args:
        weights: A safetensors file with VGG16's `features.*`.

    Raises:
        InputError: The file cannot be read or lacks a layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path):
        super().__init__()
        layers = list(load_vgg16(weights))[: _TAPS[-1] + 1]
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.layers = nn.ModuleList(layers)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Return the distance of images (N, 1, H, W) in [-1, 1], 0 where they are equal; a scalar."""
        with torch.no_grad():
            wanted = self._features(real)
        total = torch.zeros((), device=drawn.device)
        for found, target in zip(self._features(drawn), wanted, strict=True):
            size = target.abs().mean().clamp_min(1e-6)
            total = total + (found - target).abs().mean() / size
        return total / len(_TAPS)

    def _features(self, images: Tensor) -> list[Tensor]:
        values = ((images + 1) / 2 - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number in _TAPS:
                found.append(values.float())
        return found
