"""What a network is and how it is trained: one frozen object each, with the project's one set of defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from common.config import FrozenConfig
from imaging.slices.balance import BalanceConfig
from segmentation.networks.table import NETWORKS

LossName = Literal[
    "cross_entropy",
    "dice",
    "cross_entropy_dice",
    "bce_dice",
    "focal_tversky",
    "generalised_dice",
    "generalised_dice_boundary",
]

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class NetworkConfig(FrozenConfig):
    """A network and its size; what is left out takes the published value of the network named.

    Attributes:
        name: Key of `networks.table.NETWORKS`.
        widths: Channels of each stage, from full resolution down; their number is the depth.
        bottleneck: Channels of the coarsest map.
        module_width: Filters of HALSR-Net's attention pooling branches; Attention Res-UNet has none.
        dropout: Attention Res-UNet: the bottleneck's rate. HALSR-Net: each encoder stage's and the
            bottleneck's.
    """

    name: str = "attention_res_unet"
    widths: tuple[PositiveInt, ...]
    bottleneck: PositiveInt
    module_width: PositiveInt = 64
    dropout: tuple[Rate, ...]

    @model_validator(mode="before")
    @classmethod
    def _fill_in_published(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        named = NETWORKS.get(str(given.get("name", cls.model_fields["name"].default)))
        return {**named.published, **given} if named else given

    @field_validator("name")
    @classmethod
    def _is_in_the_table(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"input should be {' or '.join(map(repr, NETWORKS))}")
        return name

    @model_validator(mode="after")
    def _check_dropout(self) -> "NetworkConfig":
        wanted = NETWORKS[self.name].dropout_rates(len(self.widths))
        if not self.widths or len(self.dropout) != wanted:
            raise ValueError(
                f"{self.name} with {len(self.widths)} widths takes {wanted} dropout rates, got {self.dropout}"
            )
        return self


class DeviceAugmentConfig(FrozenConfig):
    """Random changes of each training batch on the device, on top of the stored slices.

    Attributes:
        probability: Share of slices whose geometry is changed, and (drawn anew) whose intensities are.
        rotation_degrees: Largest rotation either way.
        scale: Smallest and largest enlargement.
        shift_px: Largest shift either way, in each direction.
        elastic_px: Standard deviation of the displacements at the nodes of a coarse elastic grid; 0 for none.
        flips: Mirror rows and columns with probability one half each.
        gamma: Smallest and largest exponent of the intensities, drawn evenly on a logarithmic scale.
        contrast: Largest relative change of contrast about the mean.
        brightness: Largest change of brightness.
        noise: Largest standard deviation of added Gaussian noise.
    """

    probability: float = Field(0.9, ge=0, le=1)
    rotation_degrees: float = Field(45.0, ge=0, le=180)
    scale: tuple[float, float] = (0.8, 1.25)
    shift_px: float = Field(6.0, ge=0)
    elastic_px: float = Field(2.0, ge=0)
    flips: bool = True
    gamma: tuple[float, float] = (0.7, 1.5)
    contrast: float = Field(0.25, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0)
    noise: float = Field(0.05, ge=0)

    @model_validator(mode="after")
    def _check_ranges(self) -> "DeviceAugmentConfig":
        for name, (low, high) in (("scale", self.scale), ("gamma", self.gamma)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, smaller first, got {(low, high)}")
        return self


class TrainConfig(FrozenConfig):
    """How a segmenter is trained. The defaults are for the published widths on a GPU.

    Attributes:
        network: The network and its size.
        start_from: Model folder, or name of a pack (`scarforge models`), of a network of the same widths, whose
            weights training starts from; None for random ones. Layers that draw other tissues start anew.
        loss: Key of `losses.LOSSES`.
        class_weights: `source` (1, 7, 11, 26, 90), `frequency` (inverse pixel frequencies of the training
            set), `none`, or one weight for each label value. Used by the cross-entropies.
        class_weight_power: Exponent on the weights; below 1 it tempers them.
        auxiliary_weight: Weight of the deep-supervision loss where a network has an auxiliary output.
        steps: Optimiser steps; all are always run unless `patience` is set.
        batch: Slices a step.
        crop_px: Side of the random window trained on; None trains on whole regions. Prediction is always on
            whole regions.
        optimiser: `adamw`, or `muon` for the convolutions, which trains in fewer steps (docs/results.md).
        learning_rate: Peak of the schedule, reached after the warm-up.
        schedule: `cosine` falls to `final_learning_rate_share`; `plateau` falls to a tenth after five rounds
            without a better validation Dice, never below that share (source B); `constant` stays.
        warmup_share: Share of the steps over which the rate rises linearly.
        final_learning_rate_share: Last learning rate as a share of the peak.
        weight_decay: Of the convolutions' weights, decoupled from the gradient.
        clip_norm: Largest norm of the gradient.
        average_decay: Decay a step of the exponential moving average of the weights, which is what is
            validated and kept; 0 switches it off.
        validate_every: Steps between validations; each is a round, at whose end a checkpoint is written.
        patience: Rounds without a better score after which training stops early; None never does.
        balanced_sampling: Class shares of each batch; None goes through a random order of all rows.
        augmentation: Random changes on the device; None leaves the stored slices as they are.
        real_last_share: Over this last share of the steps real slices alone are drawn, from a set that also holds
            synthetic ones.
        synthetic_weight: Weight of a synthetic slice in the loss, beside 1 of a real one.
        flips_at_test_time: Average the predictions of the four mirrored copies of a slice.
        resident_limit_mb: Training sets larger than this are streamed from their file.
        compiled: Train with `torch.compile`, on CUDA with its graphs; takes a C++ compiler, on CUDA Triton too. No
            faster on two CPU cores (docs/speed.md), not yet measured on a GPU.
    """

    network: NetworkConfig = NetworkConfig.model_validate({})
    start_from: Path | None = None
    loss: LossName = "cross_entropy_dice"
    class_weights: Literal["source", "frequency", "none"] | tuple[float, ...] = "none"
    class_weight_power: float = Field(1.0, gt=0, le=1)
    auxiliary_weight: float = Field(0.4, ge=0)
    steps: PositiveInt = 20_000
    batch: PositiveInt = 32
    crop_px: PositiveInt | None = None
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_share: float = Field(0.05, ge=0, lt=1)
    final_learning_rate_share: float = Field(0.01, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    average_decay: float = Field(0.99, ge=0, lt=1)
    validate_every: PositiveInt = 500
    patience: PositiveInt | None = None
    balanced_sampling: BalanceConfig | None = BalanceConfig()
    augmentation: DeviceAugmentConfig | None = DeviceAugmentConfig()
    real_last_share: float = Field(0.0, ge=0, lt=1)
    synthetic_weight: float = Field(1.0, gt=0)
    flips_at_test_time: bool = True
    resident_limit_mb: PositiveInt = 4_000
    compiled: bool = False


class MixingConfig(FrozenConfig):
    """How synthetic slices come beside real ones, the same number of steps in both arms.

    Attributes:
        protocol: `replace`, the source's: a share of the slices is synthetic, in sets of equal size. `add`: all real
            slices and `synthetic_per_real` times as many synthetic ones, so many more steps in both arms, and so as
            many draws of real slices as without synthetic ones. `synthetic_first`: the sets of `replace`, of which the
            last steps draw real slices alone.
        synthetic_per_real: Of `add`.
        real_last_share: Of `synthetic_first`: share of the steps that draw real slices alone.
        synthetic_weight: Weight of a synthetic slice in the loss, beside 1 of a real one.
    """

    protocol: Literal["replace", "add", "synthetic_first"] = "replace"
    synthetic_per_real: float = Field(1 / 3, gt=0, le=10)
    real_last_share: float = Field(0.4, gt=0, lt=1)
    synthetic_weight: float = Field(1.0, gt=0)

    def synthetic_slices(self, total: int, share: float) -> int:
        """Return how many slices of the arm are synthetic: of `total`, or beside as many real ones."""
        return round(total * (self.synthetic_per_real if self.protocol == "add" else share))

    def real_slices(self, total: int, share: float) -> int:
        """Return how many of its slices are real."""
        return total if self.protocol == "add" else total - self.synthetic_slices(total, share)

    def training(self, config: TrainConfig, with_synthetic: bool) -> TrainConfig:
        """Return how an arm is trained, with or without synthetic slices, from how real slices alone would be."""
        changes: dict[str, Any] = {}
        if self.protocol == "add":
            changes["steps"] = round(config.steps * (1 + self.synthetic_per_real))
        if with_synthetic and self.protocol == "synthetic_first":
            changes["real_last_share"] = self.real_last_share
        if with_synthetic:
            changes["synthetic_weight"] = self.synthetic_weight * config.synthetic_weight
        return config.model_copy(update=changes)
