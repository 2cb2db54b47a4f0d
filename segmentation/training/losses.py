"""The losses of a segmenter: cross-entropies, overlaps, the boundary loss, sums of them, and deep supervision.

Every loss takes logits (N, C, H, W) in float32, a mask (N, H, W) of label values and, on choice, a weight of each slice
(N,), and returns a scalar.

Overlaps are soft Dice, generalised Dice and focal Tversky. Their intersections and sums are pooled over the whole
batch, so that a rare tissue that is absent from one slice does not decide the loss.

The boundary loss (Kervadec et al. 2019) is how far predicted pixels lie from the tissue's true border. Its distance
maps are computed on the device, once for each mask that is trained on: after the geometry of `batch_augmentation`,
which bends every mask anew, so that they are exact for what the network sees. A map that was kept with the stored slice
would be wrong after the first enlargement.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError
from imaging.labels import PUBLISHED_TISSUE_WEIGHTS, LabelSet
from runtime import operations
from segmentation.networks.blocks import SegmentationOutput
from segmentation.training.config import TrainConfig

_SMOOTHING = 1.0  # pixels; makes an absent and unpredicted tissue cost nothing
_MISS, _FALSE_ALARM, _FOCUS = 0.7, 0.3, 0.75  # Abraham and Khan 2019, section 3


def soft_dice(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """One minus the soft Dice of each foreground tissue over the batch, averaged over tissues."""
    del class_weights  # each tissue counts once, whatever its size
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    overlap = _pixels(probabilities * target, slice_weights)
    total = _pixels(probabilities, slice_weights) + _pixels(target, slice_weights)
    dice = (2 * overlap + _SMOOTHING) / (total + _SMOOTHING)  # (C,)
    return (1 - dice)[1:].mean()


def generalised_dice(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """Generalised Dice loss (Sudre et al. 2017): each class weighs one over its area squared, background included.

    So a pixel of a rare tissue counts for many of a large one. A class that the batch lacks takes the largest weight
    among those it has, where the paper's would be infinite.
    """
    del class_weights  # the weights are those of the batch
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    area = _pixels(target, slice_weights)
    least = torch.where(area > 0, area, torch.inf).amin()
    weights = torch.where(area > 0, area, least) ** -2
    overlap = (weights * _pixels(probabilities * target, slice_weights)).sum()
    total = (weights * (_pixels(probabilities, slice_weights) + area)).sum()
    return 1 - 2 * overlap / total


def focal_tversky(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """Focal Tversky loss (Abraham and Khan 2019): misses cost 0.7, false alarms 0.3, exponent 3/4."""
    del class_weights
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    hit = _pixels(probabilities * target, slice_weights)
    false_alarm, miss = _pixels(probabilities, slice_weights) - hit, _pixels(target, slice_weights) - hit
    index = (hit + _SMOOTHING) / (hit + _MISS * miss + _FALSE_ALARM * false_alarm + _SMOOTHING)
    # The floor keeps the gradient of x ** 0.75 finite where a tissue is matched exactly.
    return (1 - index[1:]).clamp_min(1e-6).pow(_FOCUS).mean()


def one_hot(mask: Tensor, like: Tensor) -> Tensor:
    """Return the mask (N, H, W) as (N, C, H, W) zeros and ones with the type and classes of `like`."""
    target = torch.zeros_like(like)
    return target.scatter_(1, mask.unsqueeze(1), 1.0)


def _pixels(x: Tensor, slice_weights: Tensor | None) -> Tensor:
    return (x if slice_weights is None else x * slice_weights.view(-1, 1, 1, 1)).sum(dim=(0, 2, 3))  # (C,)


_AT_ONCE = 2**26  # pixels times offsets of `distance_to`: 256 MB in float32
_FAR = 1e4  # pixels; farther than any two pixels of a region, and its square is exact enough in float32


def boundary(logits: Tensor, distances: Tensor, slice_weights: Tensor | None = None) -> Tensor:
    """Mean over pixels and foreground tissues of the probability times the signed distance to the tissue's border.

    In pixels, and negative where the prediction lies inside the tissue; the less, the better. Alone it has the trivial
    minimum of an empty prediction, so it is added to an overlap loss (section 3.3 of the paper).

    Args:
        logits: (N, C, H, W) float32.
        distances: (N, C, H, W) of `signed_distances`.
        slice_weights: (N,) or None for equal ones.
    """
    products = logits.softmax(dim=1)[:, 1:] * distances[:, 1:]
    if slice_weights is None:
        return products.mean()
    return (products.mean(dim=(1, 2, 3)) * slice_weights).sum() / slice_weights.sum()


def signed_distances(mask: Tensor, num_classes: int) -> Tensor:
    """Return each class's signed distance map (N, C, H, W) float32 of masks (N, H, W), in pixels.

    Outside the class it is the Euclidean distance to its nearest pixel, 1 or more; inside, one minus the distance to
    the nearest pixel of another class, 0 or less, as in the authors' code. A class that a slice lacks, and one that
    fills it, has no border there: zeros.
    """
    values = torch.arange(num_classes, device=mask.device).view(1, -1, 1, 1)
    inside = (mask.unsqueeze(1) == values).flatten(0, 1)  # (N * C, H, W)
    bordered = inside.any(dim=(1, 2)) & ~inside.all(dim=(1, 2))
    to_others, to_class = distance_to(torch.cat([~inside, inside])).chunk(2)
    signed = torch.where(inside, 1 - to_others, to_class)
    maps = torch.where(bordered.view(-1, 1, 1), signed, 0.0)  # not picked out: a GPU would be asked which they are
    return maps.view(len(mask), num_classes, *mask.shape[1:])


def distance_to(places: Tensor) -> Tensor:
    """Return the Euclidean distance (K, H, W) of every pixel to the nearest of `places` (K, H, W), boolean.

    Separable and exact: first along rows, then the least of all columns' squared sums. A GPU takes many offsets at
    once, since each alone is less work than its start; a CPU's caches hold one.
    """
    in_row = _distance_in_row(places).square()
    return (_least_in_column(in_row) if places.device.type == "cpu" else _least_in_column_by_blocks(in_row)).sqrt()


def _least_in_column(in_row: Tensor) -> Tensor:
    best = in_row.clone()
    for offset in range(1, in_row.shape[1]):
        square = float(offset * offset)
        best[:, offset:] = torch.minimum(best[:, offset:], in_row[:, :-offset] + square)
        best[:, :-offset] = torch.minimum(best[:, :-offset], in_row[:, offset:] + square)
    return best


def _least_in_column_by_blocks(in_row: Tensor) -> Tensor:
    """Return the same as `_least_in_column`, bit for bit: a least value does not depend on the order."""
    height = in_row.shape[1]
    squares = torch.arange(1 - height, height, device=in_row.device, dtype=torch.float32).square()
    around = F.pad(in_row, (0, 0, height - 1, height - 1), value=torch.inf).unfold(1, height, 1)  # (K, 2H - 1, W, H)
    block = max(1, _AT_ONCE // in_row.numel())
    best = in_row
    for some, square in zip(torch.split(around, block, dim=1), torch.split(squares, block), strict=True):
        best = torch.minimum(best, (some + square.view(1, -1, 1, 1)).amin(dim=1).transpose(1, 2))
    return best


def _distance_in_row(places: Tensor) -> Tensor:
    """Return the distance along each row to the nearest place in it, `_FAR` where the row has none."""
    width = places.shape[2]
    columns = torch.arange(width, device=places.device, dtype=torch.float32).expand(places.shape)
    last = torch.where(places, columns, -_FAR).cummax(dim=2).values
    following = torch.where(places, columns, _FAR).flip(2).cummin(dim=2).values.flip(2)
    return torch.minimum(columns - last, following - columns).clamp_max(_FAR)


Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy averaged over pixels, each weighed by its class and slice: the sum over weights is one."""
    if slice_weights is None:
        return operations.cross_entropy(logits, mask, class_weights)
    by_pixel = operations.cross_entropy(logits, mask, class_weights, "none")
    weights = torch.ones_like(by_pixel) if class_weights is None else class_weights[mask]
    of_slice = slice_weights.view(-1, 1, 1)
    return (by_pixel * of_slice).sum() / (weights * of_slice).sum()


def cross_entropy_dice(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy plus soft Dice."""
    return cross_entropy(logits, mask, class_weights, slice_weights) + soft_dice(
        logits, mask, slice_weights=slice_weights
    )


def bce_dice(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, slice_weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of each class's softmax probability plus soft Dice: HALSR-Net's loss."""
    target, log_probabilities = one_hot(mask, logits), logits.log_softmax(dim=1)
    others = torch.log1p(-log_probabilities.exp().clamp_max(1 - 1e-6))
    by_pixel = -torch.where(target > 0, log_probabilities, others)
    weights = torch.ones(logits.shape[1], device=logits.device) if class_weights is None else class_weights
    weights = weights / weights.mean()
    if slice_weights is None:
        of_class = by_pixel.mean(dim=(0, 2, 3))
    else:
        of_class = (by_pixel.mean(dim=(2, 3)) * slice_weights.unsqueeze(1)).sum(dim=0) / slice_weights.sum()
    return (of_class * weights).mean() + soft_dice(logits, mask, slice_weights=slice_weights)


def generalised_dice_boundary(
    logits: Tensor,
    mask: Tensor,
    class_weights: Tensor | None = None,
    distances: Tensor | None = None,
    weight: float = 1.0,
    slice_weights: Tensor | None = None,
) -> Tensor:
    """Generalised Dice plus `weight` times the boundary loss, as Kervadec et al. 2019 train small lesions.

    Args:
        logits: (N, C, H, W).
        mask: (N, H, W).
        class_weights: Not used; generalised Dice has its own.
        distances: `signed_distances` of the mask where they are known already.
        weight: Of the boundary loss; `loss_of_step` lets it rise.
        slice_weights: (N,) or None for equal ones.
    """
    known = signed_distances(mask, logits.shape[1]) if distances is None else distances
    overlap = generalised_dice(logits, mask, class_weights, slice_weights)
    return overlap + weight * boundary(logits, known, slice_weights)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "cross_entropy": cross_entropy,
        "dice": soft_dice,
        "cross_entropy_dice": cross_entropy_dice,
        "bce_dice": bce_dice,
        "focal_tversky": focal_tversky,
        "generalised_dice": generalised_dice,
        "generalised_dice_boundary": generalised_dice_boundary,
    }
)


def loss_of_step(
    config: TrainConfig, step: int, mask: Tensor, num_classes: int, slice_weights: Tensor | None = None
) -> Loss:
    """Return the configured loss for one step, counted from 0.

    Only the boundary loss changes: its weight rises linearly to one at the last step ("increase" in section 3.3 of
    Kervadec et al. 2019), and its distance maps are computed here, once for both outputs of a network.

    Args:
        config: Which loss, and the steps.
        step: Counted from 0.
        mask: (N, H, W) of the step's batch.
        num_classes: Of the label set.
        slice_weights: (N,) of the step's batch; None for equal ones.
    """
    given: dict[str, Any] = {} if slice_weights is None else {"slice_weights": slice_weights}
    if config.loss == "generalised_dice_boundary":
        given |= {"distances": signed_distances(mask, num_classes), "weight": (step + 1) / config.steps}
    return partial(LOSSES[config.loss], **given) if given else LOSSES[config.loss]


def segmentation_loss(
    output: SegmentationOutput,
    mask: Tensor,
    loss: Loss,
    class_weights: Tensor | None,
    auxiliary_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss with deep supervision, and its named parts (detached).

    Args:
        output: What the network returned.
        mask: (N, H, W) label values.
        loss: One of `LOSSES`.
        class_weights: (C,) or None.
        auxiliary_weight: Factor on the auxiliary output's loss.
    """
    main = loss(output.logits.float(), mask, class_weights)
    if output.auxiliary is None:
        return main, {"loss": main.detach()}
    auxiliary = loss(output.auxiliary.float(), mask, class_weights)
    total = main + auxiliary_weight * auxiliary
    return total, {"loss": total.detach(), "loss_auxiliary": auxiliary.detach()}


def _inverse(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one over each count; a label without pixels weighs as much as the rarest that has some."""
    return 1.0 / np.where(pixels > 0, pixels, pixels[pixels > 0].min(initial=pixels.max()))


def class_weights(
    config: TrainConfig, labels: LabelSet, count_pixels: Callable[[], NDArray[np.int64]]
) -> tuple[float, ...] | None:
    """Return one weight for each label value, with mean 1, or None for equal weights.

    Args:
        config: `class_weights` and `class_weight_power`.
        labels: The label set.
        count_pixels: Gives the training pixels of each label value; called for `frequency` only.

    Raises:
        InputError: The weights given are not one positive number for each label value.
    """
    wanted = config.class_weights
    if wanted == "none":
        return None
    if wanted == "source":
        raw = np.array([PUBLISHED_TISSUE_WEIGHTS[tissue] for tissue in labels.tissues])
    elif wanted == "frequency":
        raw = _inverse(count_pixels())
    else:
        raw = np.array(wanted, dtype=np.float64)
    if len(raw) != labels.num_classes or not (raw > 0).all():
        raise InputError(
            f"class_weights {wanted} must be {labels.num_classes} positive numbers, one for each of "
            f"{', '.join(labels.tissues)}"
        )
    raw = raw**config.class_weight_power
    return tuple((raw / raw.mean()).tolist())
