"""The configuration of synthesis: its method, transplants, and Pix2Pix with its named presets.

What does not live here: how any of it is built or trained.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config import FrozenConfig
from imaging.labels import PUBLISHED_TISSUE_WEIGHTS

# What an unweighted L1 is.
PLAIN_TISSUE_WEIGHTS: Mapping[str, float] = MappingProxyType(dict.fromkeys(PUBLISHED_TISSUE_WEIGHTS, 1.0))

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

Paint = Literal["ventricle", "lesion"]

# What simulator and generator must agree on: one learns to fill the hole that the other cuts.
HOLE_FIELDS = ("paint", "hole_margin_px", "hole_spread_px")


class SynthesisConfig(FrozenConfig):
    """How synthetic slices are made.

    Attributes:
        method: `pix2pix` draws simulated masks; `transplant` carries lesions of real slices into healthy walls, without
            a network: the yardstick that a generator of lesions has to beat; `folder` takes slices that any other
            program has made.
        softness_px: Where lesions alone are painted: deviation of the Gaussian by which the paint is softened.
        grain_share: And how much of the grain of the wall around is laid on it.
        refuse: Draw again what a segmenter trained on real slices only does not find, and what is a copy of a training
            patient (transplanted lesions are their donors' by design, and pass).
        refuse_quantile: A lesion is found at this quantile of that segmenter's Dice on training patients' lesions.
        refuse_draws: At most so many times the slices that are asked for are drawn, all tries together.
        root: Of `folder`: where the slices lie, for all folds, or for each in `fold_0`, `fold_1` and so on.
        spacing_mm: Of `folder`: (row, column) of its pixels; null: as its files tell, which PNG and TIFF do not.
        intensities: Of `folder`: `unit`, black is 0 and the largest number of a file's type (of floats: 1) is 1, as in
            a slice store; `window`, each file is brought to [0, 1] by the percentiles of its region, as a study is.
        donors: Of `folder`: `unknown` allows slices of which nobody has told which patients they were made from.
    """

    method: Literal["pix2pix", "transplant", "folder"] = "pix2pix"
    softness_px: float = Field(0.0, ge=0, le=4)
    grain_share: float = Field(0.0, ge=0, le=2)
    refuse: bool = False
    refuse_quantile: float = Field(0.1, gt=0, lt=1)
    refuse_draws: int = Field(3, ge=2)
    root: Path | None = None
    spacing_mm: tuple[float, float] | None = None
    intensities: Literal["unit", "window"] = "unit"
    donors: Literal["known", "unknown"] = "known"

    @model_validator(mode="after")
    def _folder_is_told(self) -> Self:
        if self.method != "folder":
            return self
        if self.root is None:
            raise ValueError("method folder takes slices from a folder; give it with --set synthesis.root=DIR")
        if self.refuse:
            raise ValueError("refuse draws slices again, which no folder can; set synthesis.refuse=false")
        return self

    @field_validator("spacing_mm")
    @classmethod
    def _positive(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not all(0 < side < float("inf") for side in value):
            raise ValueError("the two sides (row, column) must be positive millimetres")
        return value

    @property
    def of_a_folder(self) -> dict[str, Any]:
        """What decides how the slices of a folder are read; where it lies does not."""
        return self.model_dump(mode="json", include={"spacing_mm", "intensities", "donors"})

    @property
    def softens(self) -> bool:
        """Whether what is painted into a wall is changed at all."""
        return self.softness_px > 0 or self.grain_share > 0


class TransplantConfig(FrozenConfig):
    """How lesions are carried over.

    Attributes:
        turn_deg: A lesion is turned about the ventricle by up to so much to either side.
        any_turn_share: In this share of the slices it is turned by any angle.
        mirror_share: In this share it is mirrored.
        healed_share: Share of the recipients that have an infarct themselves, which their own remote wall covers.
        contrast_power: By which power of the recipient's contrast of blood over the donor's a lesion's own contrast to
            remote wall is multiplied: 1 as blood does, 0 as it is. Between patients it goes with neither alone.
        smooth_px: Deviation of the Gaussian that smooths the carried intensities.
        grain_px: Deviation of the Gaussian that parts the recipient's grain from its shades.
        grain_share: How much of that grain is laid on the lesion.
        fade_px: Deviation of the Gaussian by which the lesion, widened by one pixel, fades into the wall.
        minimum_infarct_px: Slices with a smaller lesion are refused, in pixels of 1 mm.
        minimum_no_reflow_px: The same of no-reflow, where it is asked for.
    """

    turn_deg: float = Field(40.0, ge=0, le=180)
    any_turn_share: float = Field(0.3, ge=0, le=1)
    mirror_share: float = Field(0.5, ge=0, le=1)
    healed_share: float = Field(0.5, ge=0, le=1)
    contrast_power: float = Field(0.5, ge=0, le=1)
    smooth_px: float = Field(0.5, ge=0, le=4)
    grain_px: float = Field(1.2, gt=0, le=8)
    grain_share: float = Field(0.6, ge=0, le=1)
    fade_px: float = Field(0.8, ge=0, le=4)
    minimum_infarct_px: int = Field(25, ge=1)
    minimum_no_reflow_px: int = Field(12, ge=1)


class Pix2PixConfig(FrozenConfig):
    """Everything that identifies a Pix2Pix model and its training.

    Attributes:
        label_input: `scalar` gives the label map as one channel holding 0 to 4, `one_hot` one channel a
            tissue.
        context: Give the real slice with what `paint` names removed, and draw only inside that hole.
        paint: What the hole takes out of the slice: the `ventricle`, or the `lesion` alone, whose hole stays inside
            the wall.
        hole_margin_px: How far the hole reaches beyond it at least, in pixels.
        hole_spread_px: By up to so much further, at random: else where drawing begins would give the epicardium
            away to a segmenter that is trained on it.
        seam_px: Width of the soft seam just inside the hole, in pixels.
        noise_channels: Planes of Gaussian noise beside the labels, so that one mask gives many images.
        background_noise: Deviation of Gaussian noise laid on the labels' background.
        widths: Channels of the encoder's stride-2 stages; the region must be divisible by 2 ** len(widths).
        upsampling: `transposed` convolutions (as published), or `resize` (no checkerboards).
        full_resolution_width: Channels of one more layer at full resolution that sees the input; 0 for none.
        decoder_noise: Add the noise at every decoder stage too, by a learned strength a channel.
        decoder_labels: Give the labels, in each stage's size, to every decoder stage.
        shades: Tell how bright each tissue is, see `gan.generation.shades`; needs context.
        shade_neighbours: Among how many of the likest training slices a mask's shades are drawn.
        grain_px: Smoothness of the noise that is laid on the drawing as grain, as strong as the network says:
            deviations of Gaussians in pixels, 0 for white; empty for none (`gan.networks.generator`).
        output: Last activation; a `sigmoid`'s [0, 1] is spread over [-1, 1].
        normalisation: `instance` equals batch normalisation at the published batch of one.
        normalise_innermost: False where the innermost map is a single pixel, which has no deviation.
        dropout: Rate on the first two decoder stages, while training.
        discriminator_widths: Channels of the PatchGAN; all but the last stage have stride 2.
        fine_discriminator_widths: Channels of a second PatchGAN with smaller patches; empty for none.
        discriminator_sees_mask: Judge images against their labels, else by themselves.
        spectral_norm: Bound the discriminator's slope instead of normalising its activations.
        l1_weight: Weight of the region-weighted L1 (the source's lambda).
        l1_blur_px: Deviation of the Gaussian under which that L1 compares, so that it does not punish grain; 0
            for none, as published.
        grain_weight: Weight of the difference in fine detail by tissue (`gan.training.losses`).
        perceptual_weight: Weight of the L1 distance of VGG16 features; needs a weights file.
        reader_weight: Weight of reading the labels out of the drawn slice, by a small network that learns
            alongside to read them out of real slices.
        detail_px: Side of the windows around the hole that VGG16 and the reader see.
        crop_px: Train on windows of this side around the hole; 0 for whole slices. Must be divisible like them.
        decay_share: Over this last share of the steps the learning rates fall to zero.
        average_decay: Decay of the averaged generator weights; 0 keeps the weights themselves.
        validation_slices: At most so many validation slices are drawn at each round.
    """

    label_input: Literal["scalar", "one_hot"] = "one_hot"
    context: bool = True
    paint: Paint = "ventricle"
    hole_margin_px: int = Field(3, ge=0)
    hole_spread_px: int = Field(0, ge=0, le=64)
    seam_px: int = Field(2, ge=0)
    noise_channels: int = Field(1, ge=0)
    background_noise: float = Field(0.0, ge=0.0)
    widths: tuple[int, ...] = (32, 64, 128, 192, 192)
    upsampling: Literal["transposed", "resize"] = "resize"
    full_resolution_width: int = Field(16, ge=0)
    decoder_noise: bool = False
    decoder_labels: bool = False
    shades: bool = False
    shade_neighbours: int = Field(8, ge=1)
    grain_px: tuple[Annotated[float, Field(ge=0.0, le=8.0)], ...] = ()
    output: Literal["tanh", "sigmoid"] = "tanh"
    normalisation: Literal["batch", "instance"] = "batch"
    normalise_innermost: bool = True
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    discriminator_widths: tuple[int, ...] = (32, 64, 128)
    fine_discriminator_widths: tuple[int, ...] = ()
    discriminator_sees_mask: bool = True
    spectral_norm: bool = True
    adversarial: Literal["bce", "least_squares"] = "least_squares"
    adversarial_weight: float = Field(1.0, ge=0.0)
    l1_weight: float = Field(100.0, ge=0.0)
    l1_blur_px: float = Field(0.0, ge=0.0, le=8.0)
    grain_weight: float = Field(0.0, ge=0.0)
    perceptual_weight: float = Field(0.0, ge=0.0)
    reader_weight: float = Field(0.0, ge=0.0)
    detail_px: int = Field(64, ge=16, multiple_of=8)
    tissue_weights: dict[str, float] = Field(default_factory=lambda: dict(CONTEXT_TISSUE_WEIGHTS))
    learning_rate: float = Field(2e-4, gt=0.0)
    batch: int = Field(8, ge=1)
    crop_px: int = Field(0, ge=0)
    steps: int = Field(20_000, ge=1)
    validate_every: int = Field(500, ge=1)
    decay_share: float = Field(0.5, ge=0.0, le=1.0)
    average_decay: float = Field(0.999, ge=0.0, lt=1.0)
    validation_slices: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if len(self.widths) < 2 or len(self.discriminator_widths) < 2:
            raise ValueError("widths and discriminator_widths need at least two stages each")
        if len(self.fine_discriminator_widths) == 1:
            raise ValueError("fine_discriminator_widths needs at least two stages, or none")
        if self.crop_px % 2 ** len(self.widths):
            raise ValueError(
                f"crop_px {self.crop_px} cannot be halved {len(self.widths)} times; use a multiple of "
                f"{2 ** len(self.widths)}, or 0"
            )
        if self.crop_px and not self.context:
            raise ValueError("crop_px needs context: without it the whole slice is to be learned")
        if self.paint == "lesion" and not self.context:
            raise ValueError("paint 'lesion' needs context: the real slice around the lesion is what is kept")
        if self.shades and not self.context:
            raise ValueError("shades needs context: they are those of slices with like surroundings")
        if self.decoder_noise and not self.noise_channels:
            raise ValueError("decoder_noise needs noise_channels of at least one")
        if self.grain_px and not (self.noise_channels and self.full_resolution_width):
            raise ValueError("grain_px needs noise_channels and full_resolution_width of at least one")
        return self


# The source's final configuration, its trial 10; 29.2 M parameters.
_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        "label_input": "scalar",
        "context": False,
        "noise_channels": 0,
        "widths": (64, 128, 256, 512, 512, 512),
        "upsampling": "transposed",
        "full_resolution_width": 0,
        "normalisation": "instance",
        "dropout": 0.5,
        "discriminator_widths": (64, 128, 512),
        "spectral_norm": False,
        "adversarial": "bce",
        "l1_weight": 100.0,
        "tissue_weights": dict(PUBLISHED_TISSUE_WEIGHTS),
        "batch": 1,
        "steps": 150_000,
        "validate_every": 2_000,
        "decay_share": 0.0,
        "average_decay": 0.0,
    }
)
# Seven encoder and six decoder stages. Guessed: the seventh width, and that the innermost, one pixel, is not
# normalised; no dropout and batch normalisation until the rows name dropout and instance normalisation.
_SEVEN_SIX: Mapping[str, Any] = MappingProxyType(
    {
        **_PUBLISHED,
        "widths": (64, 128, 256, 512, 512, 512, 512),
        "normalise_innermost": False,
        "normalisation": "batch",
        "dropout": 0.0,
    }
)
# Guessed: Isola et al.'s discriminator of 70 x 70 pixels.
_DEEPER = (64, 128, 256, 512)


def _changed(base: Mapping[str, Any], **changes: Any) -> Pix2PixConfig:
    return Pix2PixConfig(**{**base, **changes})


# The source's ten trials as far as its table tells them. What a row does not name is as in the row before, or,
# where no row names it, as in the final configuration; further guesses are said beside each.
TRIAL_PRESETS: Mapping[str, Pix2PixConfig] = MappingProxyType(
    {
        # Plain Pix2Pix. Guessed: lambda 100 and the layers of trial 3.
        "trial_1": _changed(_SEVEN_SIX, tissue_weights=dict(PLAIN_TISSUE_WEIGHTS)),
        # Guessed: images of the range that a sigmoid has, which spreading it over [-1, 1] amounts to.
        "trial_2": _changed(_SEVEN_SIX, tissue_weights=dict(PLAIN_TISSUE_WEIGHTS), output="sigmoid"),
        "trial_3": _changed(_SEVEN_SIX, output="sigmoid", l1_weight=60.0),
        "trial_4": _changed(_SEVEN_SIX, l1_weight=70.0, discriminator_widths=_DEEPER),
        # Guessed: noise on the label map that enters, and its deviation.
        "trial_5": _changed(
            _SEVEN_SIX, output="sigmoid", l1_weight=80.0, discriminator_widths=_DEEPER, background_noise=0.1
        ),
        # Guessed: tanh; and that only this row's discriminator does not see the mask.
        "trial_6": _changed(
            _SEVEN_SIX,
            l1_weight=90.0,
            normalisation="instance",
            discriminator_widths=_DEEPER,
            discriminator_sees_mask=False,
        ),
        # 128 pixels cannot be halved more than seven times. Guessed: one more layer at full resolution.
        "trial_7": _changed(
            _SEVEN_SIX,
            l1_weight=110.0,
            normalisation="instance",
            dropout=0.5,
            discriminator_widths=_DEEPER,
            full_resolution_width=64,
        ),
        # Guessed: the shallow discriminator is the final one.
        "trial_8": _changed(_PUBLISHED, l1_weight=70.0),
        # Its "mask-only discriminator" is unclear and left out; what remains is trial 10.
        "trial_9": _changed(_PUBLISHED),
        "trial_10": _changed(_PUBLISHED),
    }
)

PRESETS: Mapping[str, Pix2PixConfig] = MappingProxyType(
    {
        "published": TRIAL_PRESETS["trial_10"],
        # The real slice without its ventricle goes in, the ventricle of the mask comes out.
        "context": Pix2PixConfig(),
        # The same on windows, told how bright tissues are, with grain, and with the tissues minded.
        "improved_context": Pix2PixConfig(
            hole_margin_px=2,
            hole_spread_px=4,
            crop_px=96,
            shades=True,
            decoder_noise=True,
            decoder_labels=True,
            grain_px=(0.0, 0.8, 1.6),
            grain_weight=5.0,
            fine_discriminator_widths=(16, 32),
            adversarial_weight=5.0,
            l1_weight=60.0,
            l1_blur_px=1.5,
            reader_weight=6.0,
            # Around the wall, a background that costs little is filled with what fools the discriminator anywhere.
            tissue_weights={**CONTEXT_TISSUE_WEIGHTS, "background": 3.0, "infarct": 8.0, "no_reflow": 12.0},
        ),
        # The real heart stays; its lesion is taken out of the wall, and another is painted in.
        "repaint": Pix2PixConfig(
            paint="lesion",
            hole_margin_px=1,
            hole_spread_px=2,
            seam_px=1,
            crop_px=96,
            shades=True,
            shade_neighbours=64,
            decoder_noise=True,
            decoder_labels=True,
            grain_px=(0.0, 0.8, 1.6),
            grain_weight=3.0,
            fine_discriminator_widths=(16, 32),
            adversarial_weight=5.0,
            l1_weight=60.0,
            l1_blur_px=1.0,
            reader_weight=6.0,
            detail_px=48,
            average_decay=0.99,
            # Of a hole half is wall that was healthy; a lesion is to be seen, not to be drawn larger than it is.
            tissue_weights={**CONTEXT_TISSUE_WEIGHTS, "infarct": 5.0, "no_reflow": 8.0},
        ),
        # The whole slice from the labels and noise alone; needs VGG16's weights.
        "improved_no_context": Pix2PixConfig(
            context=False,
            decoder_noise=True,
            decoder_labels=True,
            fine_discriminator_widths=(16, 32),
            adversarial_weight=4.0,
            perceptual_weight=10.0,
            detail_px=96,
        ),
        **TRIAL_PRESETS,
    }
)
