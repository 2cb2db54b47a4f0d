"""What the generator is given, and how its drawing is put into the slice.

Slices are [0, 1]; here they become [-1, 1], the gan's own range, and come back.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gan.config import Pix2PixConfig
from gan.shades import paint_shades
from imaging.labels import LabelSet


@dataclass(frozen=True)
class Condition:
    """One batch of conditions.

    Attributes:
        labels: (N, K, H, W) one-hot tissues, or (N, 1, H, W) label values, as configured.
        context: (N, 1, H, W) in [-1, 1], 0 inside the hole; None without context.
        hole: (N, 1, H, W) 1 where the generator draws; None without context.
        noise: (N, noise_channels, H, W) Gaussian.
        shades: (N, 1, H, W) in [-1, 1] how bright each pixel's tissue shall be; None where it is not told.
        judged: The labels as the discriminator sees them; no channel where it does not.
    """

    labels: Tensor
    context: Tensor | None
    hole: Tensor | None
    noise: Tensor
    judged: Tensor
    shades: Tensor | None = None

    def for_generator(self) -> Tensor:
        """Return everything as channels (N, C, H, W)."""
        parts = (self.labels, self.shades, self.context, self.hole, self.noise)
        return torch.cat([part for part in parts if part is not None], dim=1)

    def for_discriminator(self) -> Tensor:
        """Return what an image has to agree with: labels, if they are shown, and hole (the context is in the image)."""
        return self.judged if self.hole is None else torch.cat([self.judged, self.hole], dim=1)

    def place(self, drawn: Tensor, seam_px: int) -> Tensor:
        """Put a drawing (N, 1, H, W) into its context; without context it is the whole image.

        Outside the hole the result is the context itself. Just inside, over `seam_px` pixels, the drawing
        fades in over the context continued inwards.
        """
        if self.context is None or self.hole is None:
            return drawn
        share = soft_share(self.hole, seam_px)
        inside = share * drawn + (1 - share) * continue_inwards(self.context, self.hole, seam_px)
        return torch.where(self.hole > 0, inside, self.context)


def generator_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    """Return how many channels `Condition.for_generator` has."""
    return _label_channels(config, labels) + int(config.shades) + 2 * int(config.context) + config.noise_channels


def discriminator_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    """Return how many channels `Condition.for_discriminator` and the image have together."""
    return int(config.discriminator_sees_mask) * _label_channels(config, labels) + int(config.context) + 1


def noise_planes(config: Pix2PixConfig) -> int:
    """Return how many planes of noise a condition takes: the generator's own, and one for the background."""
    return config.noise_channels + int(config.background_noise > 0)


def build_condition(
    config: Pix2PixConfig,
    labels: LabelSet,
    masks: Tensor,
    images: Tensor,
    holes: Tensor,
    noise: Tensor,
    shades: Tensor | None = None,
) -> Condition:
    """Make the condition of one batch.

    Args:
        config: Which parts are given.
        labels: The label set of `masks`.
        masks: (N, H, W) label values, integers.
        images: (N, 1, H, W) in [-1, 1]; only pixels outside the hole are used.
        holes: (N, 1, H, W) 1 inside the hole.
        noise: (N, noise_planes, H, W).
        shades: (N, num_classes) in [0, 1], which `shades` needs.
    """
    encoded = encode_labels(config, labels, masks)
    judged = encoded if config.discriminator_sees_mask else encoded[:, :0]
    own = noise[:, : config.noise_channels]
    if config.background_noise > 0:
        strength = config.background_noise * (masks == 0).unsqueeze(1).to(noise.dtype)
        encoded = torch.cat([encoded[:, :1] + strength * noise[:, -1:], encoded[:, 1:]], dim=1)
    if not config.context:
        return Condition(encoded, None, None, own, judged)
    painted = None if shades is None else paint_shades(masks, shades)
    return Condition(encoded, images * (1 - holes), holes, own, judged, painted)


def encode_labels(config: Pix2PixConfig, labels: LabelSet, masks: Tensor) -> Tensor:
    """Return label maps (N, H, W) as channels: one holding the values as published, or one a tissue."""
    if config.label_input == "scalar":
        return masks.unsqueeze(1).float()
    return F.one_hot(masks.long(), labels.num_classes).permute(0, 3, 1, 2).float()


def soft_share(hole: Tensor, seam_px: int) -> Tensor:
    """Return the drawing's share (N, 1, H, W): 0 outside the hole, rising over `seam_px` pixels to 1."""
    share = hole
    shrunk = hole
    for _ in range(seam_px):
        shrunk = -F.max_pool2d(-shrunk, kernel_size=3, stride=1, padding=1)
        share = share + shrunk
    return share / (seam_px + 1)


def continue_inwards(context: Tensor, hole: Tensor, seam_px: int) -> Tensor:
    """Return the context (0 in the hole) continued into the hole by local means of what lies outside it."""
    known, filled = 1 - hole, context
    for _ in range(seam_px):
        reach = F.avg_pool2d(known, kernel_size=3, stride=1, padding=1)
        local = F.avg_pool2d(filled * known, kernel_size=3, stride=1, padding=1) / reach.clamp_min(1e-6)
        filled = torch.where(known > 0, filled, local)
        known = torch.maximum(known, (reach > 0).to(known.dtype))
    return filled


def to_gan_range(images: Tensor) -> Tensor:
    """Return images of [0, 1] in [-1, 1]."""
    return images * 2 - 1


def to_slice_range(images: Tensor) -> Tensor:
    """Return images of [-1, 1] in [0, 1], clipped."""
    return ((images + 1) / 2).clamp(0, 1)


def _label_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    return 1 if config.label_input == "scalar" else labels.num_classes
