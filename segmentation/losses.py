"""The table of losses, the cross-entropies and sums in it, class weights, and deep supervision.

Every loss takes logits (N, C, H, W) in float32 and a mask (N, H, W) of label values and returns a scalar. What does
not live here: `overlap_losses` and `boundary_loss`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from imaging.errors import InputError
from imaging.labels import LabelSet
from segmentation.blocks import SegmentationOutput
from segmentation.boundary_loss import boundary, signed_distances
from segmentation.config import SOURCE_CLASS_WEIGHTS, TrainConfig
from segmentation.overlap_losses import focal_tversky, generalised_dice, one_hot, soft_dice

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy averaged over pixels, each weighed by its class: the sum over weights is one."""
    return F.cross_entropy(logits, mask, weight=class_weights)


def cross_entropy_dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice."""
    return cross_entropy(logits, mask, class_weights) + soft_dice(logits, mask)


def bce_dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each class's softmax probability plus soft Dice: HALSR-Net's loss."""
    target, log_probabilities = one_hot(mask, logits), logits.log_softmax(dim=1)
    others = torch.log1p(-log_probabilities.exp().clamp_max(1 - 1e-6))
    by_pixel = -torch.where(target > 0, log_probabilities, others)
    weights = torch.ones(logits.shape[1], device=logits.device) if class_weights is None else class_weights
    weights = weights / weights.mean()
    return (by_pixel.mean(dim=(0, 2, 3)) * weights).mean() + soft_dice(logits, mask)


def generalised_dice_boundary(
    logits: Tensor,
    mask: Tensor,
    class_weights: Tensor | None = None,
    distances: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Generalised Dice plus `weight` times the boundary loss, as Kervadec et al. 2019 train small lesions.

    Args:
        logits: (N, C, H, W).
        mask: (N, H, W).
        class_weights: Not used; generalised Dice has its own.
        distances: `signed_distances` of the mask where they are known already.
        weight: Of the boundary loss; `loss_of_step` lets it rise.
    """
    known = signed_distances(mask, logits.shape[1]) if distances is None else distances
    return generalised_dice(logits, mask, class_weights) + weight * boundary(logits, known)


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


def loss_of_step(config: TrainConfig, step: int, mask: Tensor, num_classes: int) -> Loss:
    """Return the configured loss for one step, counted from 0.

    Only the boundary loss changes: its weight rises linearly to one at the last step ("increase" in section 3.3 of
    Kervadec et al. 2019), and its distance maps are computed here, once for both outputs of a network.
    """
    if config.loss != "generalised_dice_boundary":
        return LOSSES[config.loss]
    distances = signed_distances(mask, num_classes)
    return partial(generalised_dice_boundary, distances=distances, weight=(step + 1) / config.steps)


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
        raw = np.array([SOURCE_CLASS_WEIGHTS[tissue] for tissue in labels.tissues])
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
