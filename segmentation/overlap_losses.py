"""Losses of how well predicted and true areas overlap: soft Dice, generalised Dice, focal Tversky.

Every loss takes logits (N, C, H, W) in float32 and a mask (N, H, W) of label values and returns a scalar. Intersections
and sums are pooled over the whole batch, so that a rare tissue that is absent from one slice does not decide the loss.
"""

import torch
from torch import Tensor

_SMOOTHING = 1.0  # pixels; makes an absent and unpredicted tissue cost nothing
_MISS, _FALSE_ALARM, _FOCUS = 0.7, 0.3, 0.75  # Abraham and Khan 2019, section 3


def soft_dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """One minus the soft Dice of each foreground tissue over the batch, averaged over tissues."""
    del class_weights  # each tissue counts once, whatever its size
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    overlap = _pixels(probabilities * target)
    total = _pixels(probabilities) + _pixels(target)
    dice = (2 * overlap + _SMOOTHING) / (total + _SMOOTHING)  # (C,)
    return (1 - dice)[1:].mean()


def generalised_dice(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Generalised Dice loss (Sudre et al. 2017): each class weighs one over its area squared, background included.

    So a pixel of a rare tissue counts for many of a large one. A class that the batch lacks takes the largest weight
    among those it has, where the paper's would be infinite.
    """
    del class_weights  # the weights are those of the batch
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    area = _pixels(target)
    least = torch.where(area > 0, area, torch.inf).amin()
    weights = torch.where(area > 0, area, least) ** -2
    overlap = (weights * _pixels(probabilities * target)).sum()
    total = (weights * (_pixels(probabilities) + area)).sum()
    return 1 - 2 * overlap / total


def focal_tversky(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Focal Tversky loss (Abraham and Khan 2019): misses cost 0.7, false alarms 0.3, exponent 3/4."""
    del class_weights
    probabilities, target = logits.softmax(dim=1), one_hot(mask, logits)
    hit = _pixels(probabilities * target)
    false_alarm, miss = _pixels(probabilities) - hit, _pixels(target) - hit
    index = (hit + _SMOOTHING) / (hit + _MISS * miss + _FALSE_ALARM * false_alarm + _SMOOTHING)
    # The floor keeps the gradient of x ** 0.75 finite where a tissue is matched exactly.
    return (1 - index[1:]).clamp_min(1e-6).pow(_FOCUS).mean()


def one_hot(mask: Tensor, like: Tensor) -> Tensor:
    """Return the mask (N, H, W) as (N, C, H, W) zeros and ones with the type and classes of `like`."""
    target = torch.zeros_like(like)
    return target.scatter_(1, mask.unsqueeze(1), 1.0)


def _pixels(x: Tensor) -> Tensor:
    return x.sum(dim=(0, 2, 3))  # (C,)
