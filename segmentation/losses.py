"""Losses between class scores and masks.

Every loss takes logits (N, C, H, W) in float32 and a mask (N, H, W) of label values and returns a scalar.
The overlap losses pool intersections and sums over the whole batch, so that a rare tissue that is absent from
one slice does not decide the loss, and leave the background out.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from imaging.errors import InputError
from imaging.labels import LabelSet
from segmentation.blocks import SegmentationOutput
from segmentation.config import SOURCE_CLASS_WEIGHTS, TrainConfig

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_SMOOTHING = 1.0  # pixels; makes an absent and unpredicted tissue cost nothing


def cross_entropy(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy averaged over pixels, each weighed by its class: the sum over weights is one."""
    return F.cross_entropy(logits, mask, weight=class_weights)


def soft_dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """One minus the soft Dice of each foreground tissue over the batch, averaged over tissues."""
    del class_weights  # each tissue counts once, whatever its size
    probabilities = logits.softmax(dim=1)
    return _dice(probabilities, one_hot(mask, logits))[1:].mean()


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


def focal_tversky(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Focal Tversky loss (Abraham and Khan 2019): misses cost 0.7, false alarms 0.3, exponent 3/4."""
    del class_weights
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    hit = (probabilities * target).sum(dim=(0, 2, 3))
    false_alarm = probabilities.sum(dim=(0, 2, 3)) - hit
    miss = target.sum(dim=(0, 2, 3)) - hit
    index = (hit + _SMOOTHING) / (hit + 0.7 * miss + 0.3 * false_alarm + _SMOOTHING)
    # The floor keeps the gradient of x ** 0.75 finite where a tissue is matched exactly.
    return (1 - index[1:]).clamp_min(1e-6).pow(0.75).mean()


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "cross_entropy": cross_entropy,
        "dice": soft_dice,
        "cross_entropy_dice": cross_entropy_dice,
        "bce_dice": bce_dice,
        "focal_tversky": focal_tversky,
    }
)


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
        raw = 1.0 / np.maximum(count_pixels(), 1)
    else:
        raw = np.array(wanted, dtype=np.float64)
    if len(raw) != labels.num_classes or not (raw > 0).all():
        raise InputError(
            f"class_weights {wanted} must be {labels.num_classes} positive numbers, one for each of "
            f"{', '.join(labels.tissues)}"
        )
    raw = raw**config.class_weight_power
    return tuple((raw / raw.mean()).tolist())


def one_hot(mask: Tensor, like: Tensor) -> Tensor:
    """Return the mask (N, H, W) as (N, C, H, W) zeros and ones with the type and classes of `like`."""
    target = torch.zeros_like(like)
    return target.scatter_(1, mask.unsqueeze(1), 1.0)


def _dice(probabilities: Tensor, target: Tensor) -> Tensor:
    overlap = (probabilities * target).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return 1 - (2 * overlap + _SMOOTHING) / (total + _SMOOTHING)  # (C,)
