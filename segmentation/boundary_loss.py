"""Boundary loss (Kervadec et al. 2019): how far predicted pixels lie from the tissue's true border.

The distance maps are computed on the device, once for each mask that is trained on: after the geometry of
`on_device_augmentation`, which bends every mask anew, so that they are exact for what the network sees. A map that was
kept with the stored slice would be wrong after the first enlargement.
"""

import torch
from torch import Tensor

_FAR = 1e4  # pixels; farther than any two pixels of a region, and its square is exact enough in float32


def boundary(logits: Tensor, distances: Tensor) -> Tensor:
    """Mean over pixels and foreground tissues of the probability times the signed distance to the tissue's border.

    In pixels, and negative where the prediction lies inside the tissue; the less, the better. Alone it has the trivial
    minimum of an empty prediction, so it is added to an overlap loss (section 3.3 of the paper).

    Args:
        logits: (N, C, H, W) float32.
        distances: (N, C, H, W) of `signed_distances`.
    """
    return (logits.softmax(dim=1)[:, 1:] * distances[:, 1:]).mean()


def signed_distances(mask: Tensor, num_classes: int) -> Tensor:
    """Return each class's signed distance map (N, C, H, W) float32 of masks (N, H, W), in pixels.

    Outside the class it is the Euclidean distance to its nearest pixel, 1 or more; inside, one minus the distance to
    the nearest pixel of another class, 0 or less, as in the authors' code. A class that a slice lacks, and one that
    fills it, has no border there: zeros.
    """
    values = torch.arange(num_classes, device=mask.device).view(1, -1, 1, 1)
    inside = (mask.unsqueeze(1) == values).flatten(0, 1)  # (N * C, H, W)
    bordered = inside.any(dim=(1, 2)) & ~inside.all(dim=(1, 2))
    some = inside[bordered]
    maps = torch.zeros(inside.shape, device=mask.device)
    maps[bordered] = torch.where(some, 1 - distance_to(~some), distance_to(some))
    return maps.view(len(mask), num_classes, *mask.shape[1:])


def distance_to(places: Tensor) -> Tensor:
    """Return the Euclidean distance (K, H, W) of every pixel to the nearest of `places` (K, H, W), boolean.

    Separable and exact: first along rows, then the least of all columns' squared sums.
    """
    height = places.shape[1]
    in_row = _distance_in_row(places).square()
    best = in_row.clone()
    for offset in range(1, height):
        square = float(offset * offset)
        best[:, offset:] = torch.minimum(best[:, offset:], in_row[:, :-offset] + square)
        best[:, :-offset] = torch.minimum(best[:, :-offset], in_row[:, offset:] + square)
    return best.sqrt()


def _distance_in_row(places: Tensor) -> Tensor:
    """Return the distance along each row to the nearest place in it, `_FAR` where the row has none."""
    width = places.shape[2]
    columns = torch.arange(width, device=places.device, dtype=torch.float32).expand(places.shape)
    last = torch.where(places, columns, -_FAR).cummax(dim=2).values
    following = torch.where(places, columns, _FAR).flip(2).cummin(dim=2).values.flip(2)
    return torch.minimum(columns - last, following - columns).clamp_max(_FAR)
