"""How grainy each tissue is: the loss that asks a drawn slice for as much fine detail as the real one has.

Grain cannot be foretold from labels, so L1 and SSIM ask for none and drawings come out smooth. This loss compares
amounts, not pixels, and leaves it to the noise and the discriminator where the grain lies.
"""

import itertools

import torch
from torch import Tensor

from gan.blur import blur

_SCALES_PX = (1.0, 2.0)  # bands: finer than the first, and between the two
_LEAST = 0.02  # of an image in [-1, 1]; below it a tissue counts as smooth
_FEWEST_PX = 12.0


def grain_loss(drawn: Tensor, real: Tensor, tissues: Tensor) -> Tensor:
    """Return the mean |ln(drawn / real)| of the mean detail in each band, slice and tissue.

    Args:
        drawn: (N, 1, H, W) in [-1, 1].
        real: (N, 1, H, W) in [-1, 1].
        tissues: (N, C, H, W) 1 where a tissue lies; tissues of fewer than 12 pixels in a slice are left out.
    """
    amounts = _amounts(torch.cat([drawn, real]), torch.cat([tissues, tissues]))
    of_drawn, of_real = amounts.add(_LEAST).log().chunk(2)
    counted = (tissues.sum(dim=(2, 3)) >= _FEWEST_PX).float().unsqueeze(1).expand_as(of_real)
    return ((of_drawn - of_real).abs() * counted).sum() / counted.sum().clamp_min(1.0)


def _amounts(images: Tensor, tissues: Tensor) -> Tensor:
    """Return the mean |band| (N, bands, C) in each tissue."""
    smoother = [images, *(blur(images, scale) for scale in _SCALES_PX)]
    bands = torch.cat([fine - coarse for fine, coarse in itertools.pairwise(smoother)], dim=1)
    sums = torch.einsum("nbhw,nchw->nbc", bands.abs(), tissues)
    amounts: Tensor = sums / tissues.sum(dim=(2, 3)).clamp_min(1.0).unsqueeze(1)
    return amounts
