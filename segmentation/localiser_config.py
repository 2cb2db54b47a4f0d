"""The localiser's configuration, apart from its network, so that reading settings costs no PyTorch."""

from typing import Literal

from imaging.config import FrozenConfig


class LocaliserConfig(FrozenConfig):
    """Localiser and its training.

    Attributes:
        input_px: Side of the square input.
        fov_mm: Side of the field of view that fills the input; None fits it to the training studies.
        head: `regression` is the published one, `soft_argmax` takes the centre from a heat map.
        widths: Channels of the double-convolution blocks, each followed by max pooling.
        hidden: Units of the dense layer.
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
    """

    input_px: int = 64
    fov_mm: int | None = None
    head: Literal["regression", "soft_argmax"] = "regression"
    widths: tuple[int, ...] = (8, 16, 32, 64)
    hidden: int = 512
    steps: int = 400
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    validate_every: int = 50
    shift: float = 0.12
    scale: float = 1.25
    rotation_degrees: float = 20.0
    flips: bool = False
    gamma: float = 1.6
    noise: float = 0.06
