"""The configuration of Pix2Pix and its named presets.

What does not live here: how any of it is built or trained.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, model_validator

from imaging.config import FrozenConfig

# The source's pixel weights (Cairo University 2025); `myocardium` is the cine studies' one wall tissue.
PUBLISHED_TISSUE_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "background": 1.0,
        "cavity": 7.0,
        "normal_myocardium": 11.0,
        "infarct": 26.0,
        "no_reflow": 90.0,
        "myocardium": 11.0,
    }
)

# Milder: inside the hole, background no longer drowns the tissues, and single pixels must not rule the loss.
CONTEXT_TISSUE_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "background": 1.0,
        "cavity": 2.0,
        "normal_myocardium": 3.0,
        "infarct": 5.0,
        "no_reflow": 8.0,
        "myocardium": 3.0,
    }
)


class Pix2PixConfig(FrozenConfig):
    """Everything that identifies a Pix2Pix model and its training.

    Attributes:
        label_input: `scalar` gives the label map as one channel holding 0 to 4, `one_hot` one channel a
            tissue.
        context: Give the real slice with the ventricle removed, and draw only inside that hole.
        hole_margin_px: How far the hole reaches beyond the ventricle, in pixels.
        seam_px: Width of the soft seam just inside the hole, in pixels.
        noise_channels: Planes of Gaussian noise beside the labels, so that one mask gives many images.
        widths: Channels of the encoder's stride-2 stages; the region must be divisible by 2 ** len(widths).
        upsampling: `transposed` convolutions (as published), or `resize` / `sub_pixel` (no checkerboards).
        full_resolution_width: Channels of one more layer at full resolution that sees the input; 0 for none.
        normalisation: `instance` equals batch normalisation at the published batch of one.
        dropout: Rate on the first two decoder stages, while training.
        discriminator_widths: Channels of the PatchGAN; all but the last stage have stride 2.
        spectral_norm: Bound the discriminator's slope instead of normalising its activations.
        l1_weight: Weight of the region-weighted L1 (the source's lambda).
        structure_weight: Weight of 1 - SSIM over the ventricle.
        decay_share: Over this last share of the steps the learning rates fall to zero.
        average_decay: Decay of the averaged generator weights; 0 keeps the weights themselves.
        texture_weight: How much a wrong texture costs in the measure that selects the checkpoint.
        validation_slices: At most so many validation slices are drawn at each round.
    """

    label_input: Literal["scalar", "one_hot"] = "one_hot"
    context: bool = True
    hole_margin_px: int = Field(3, ge=0)
    seam_px: int = Field(2, ge=0)
    noise_channels: int = Field(1, ge=0)
    widths: tuple[int, ...] = (32, 64, 128, 192, 192)
    upsampling: Literal["transposed", "resize", "sub_pixel"] = "resize"
    full_resolution_width: int = Field(16, ge=0)
    normalisation: Literal["batch", "instance", "group"] = "batch"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    discriminator_widths: tuple[int, ...] = (32, 64, 128)
    spectral_norm: bool = True
    adversarial: Literal["bce", "least_squares", "hinge"] = "least_squares"
    adversarial_weight: float = Field(1.0, ge=0.0)
    l1_weight: float = Field(100.0, ge=0.0)
    structure_weight: float = Field(0.0, ge=0.0)
    tissue_weights: dict[str, float] = Field(default_factory=lambda: dict(CONTEXT_TISSUE_WEIGHTS))
    learning_rate: float = Field(2e-4, gt=0.0)
    discriminator_learning_rate: float = Field(2e-4, gt=0.0)
    beta1: float = Field(0.5, ge=0.0, lt=1.0)
    batch: int = Field(8, ge=1)
    steps: int = Field(20_000, ge=1)
    validate_every: int = Field(500, ge=1)
    decay_share: float = Field(0.5, ge=0.0, le=1.0)
    average_decay: float = Field(0.999, ge=0.0, lt=1.0)
    texture_weight: float = Field(0.1, ge=0.0)
    validation_slices: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if len(self.widths) < 2 or len(self.discriminator_widths) < 2:
            raise ValueError("widths and discriminator_widths need at least two stages each")
        return self


PRESETS: Mapping[str, Pix2PixConfig] = MappingProxyType(
    {
        # The source's final configuration; 29.2 M parameters.
        "published": Pix2PixConfig(
            label_input="scalar",
            context=False,
            noise_channels=0,
            widths=(64, 128, 256, 512, 512, 512),
            upsampling="transposed",
            full_resolution_width=0,
            normalisation="instance",
            dropout=0.5,
            discriminator_widths=(64, 128, 512),
            spectral_norm=False,
            adversarial="bce",
            l1_weight=100.0,
            tissue_weights=dict(PUBLISHED_TISSUE_WEIGHTS),
            batch=1,
            steps=150_000,
            validate_every=2_000,
            decay_share=0.0,
            average_decay=0.0,
        ),
        # The real slice without its ventricle goes in, the ventricle of the mask comes out.
        "context": Pix2PixConfig(),
    }
)
