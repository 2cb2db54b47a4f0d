"""The localiser's configuration, apart from its network, so that reading settings costs no PyTorch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.config import FrozenConfig


class LocaliserConfig(FrozenConfig):
    """Localiser and its training.

    Attributes:
        head: `footprint` maps the ventricle and boxes the map; `regression` is the published one, which predicts
            the box itself; `soft_argmax` does so from a heat map.
        input_px: Side of the square input.
        fov_mm: Side of the field of view that fills the input; None fits it to the training studies.
        margin_mm: A fitted field reaches this far beyond the training ventricles (or to the images' edge).
        map_widths: Channels of the footprint network's stages, from half the resolution down.
        threshold: Mapped probability at the box's edge.
        widths: Channels of the box heads' double-convolution blocks, each followed by max pooling.
        hidden: Units of the box heads' dense layer.
        steps: Optimiser steps.
        batch: Slices a step.
        learning_rate: Highest rate, after warming up and before the cosine decay.
        weight_decay: Of AdamW.
        validate_every: Steps between validations; the best one gives the weights.
        shift: Largest shift, as a share of the field of view.
        scale: Largest factor (and its inverse) of the zoom.
        rotation_degrees: Largest rotation.
        flips: Whether slices are also mirrored and turned by 90 degrees.
        gamma: Largest gamma (and its inverse) of the contrast.
        noise: Largest standard deviation of added noise.
        shading: Largest factor (and its inverse) by which coils brighten a part of the image.
        window: Largest share of the intensities that the window's ends move by.
    """

    head: Literal["footprint", "regression", "soft_argmax"] = "footprint"
    input_px: int = Field(128, ge=8)
    fov_mm: int | None = Field(None, ge=8)
    margin_mm: int = Field(50, ge=0)
    map_widths: tuple[int, ...] = Field((16, 32, 64, 96), min_length=1)
    threshold: float = Field(0.5, gt=0, lt=1)
    widths: tuple[int, ...] = Field((8, 16, 32, 64), min_length=1)
    hidden: int = Field(512, ge=1)
    steps: int = Field(400, ge=1)
    batch: int = Field(16, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    validate_every: int = Field(50, ge=1)
    shift: float = Field(0.12, ge=0, lt=0.5)
    scale: float = Field(1.35, ge=1)
    rotation_degrees: float = Field(45.0, ge=0)
    flips: bool = False
    gamma: float = Field(2.0, ge=1)
    noise: float = Field(0.1, ge=0)
    shading: float = Field(1.6, ge=1)
    window: float = Field(0.2, ge=0, lt=0.4)

    @model_validator(mode="after")
    def _halves(self) -> Self:
        halvings = len(self.map_widths if self.head == "footprint" else self.widths)
        if self.input_px % 2**halvings:
            raise ValueError(
                f"input_px {self.input_px} cannot be halved {halvings} times; use a multiple of {2**halvings}"
            )
        return self
