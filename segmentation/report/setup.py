"""The configuration of a run, as far as the report speaks of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from imaging.balance import BalanceConfig
from imaging.regions import RegionConfig
from segmentation.config import TrainConfig


@dataclass(frozen=True)
class Synthesis:
    """How synthetic slices were made; all values come from the generator's and the simulator's configuration.

    Attributes:
        steps: Optimiser steps of Pix2Pix.
        batch: Slices a step.
        l1_weight: Of the tissue-weighted L1.
        adversarial: Kind of the adversarial loss.
        in_context: Whether the ventricle is drawn into a real slice, or a whole slice from nothing.
        strategy_shares: Share of each mask strategy.
        infarct_limits: Accepted share of the myocardium.
        no_reflow_limits: Accepted share of the lesion.
    """

    steps: int
    batch: int
    l1_weight: float
    adversarial: str
    in_context: bool
    strategy_shares: Mapping[str, float]
    infarct_limits: tuple[float, float]
    no_reflow_limits: tuple[float, float]


@dataclass(frozen=True)
class Setup:
    """What was compared.

    Attributes:
        source: Name of the source.
        profile: Name of the profile.
        patients: Number of patients of the source in each group.
        slices: Slices of the source.
        folds: How many folds the patients are split into.
        validation_share: Of a fold's training patients.
        seeds: Configured seeds.
        region: How regions are cut.
        balance: Class shares of the augmented slices.
        training_slices: Slices in each arm.
        synthetic_slices: Of these in the real-plus-GAN arm.
        localiser_steps: Optimiser steps of the localiser.
        synthesis: How synthetic slices were made.
        networks: Training configuration by network.
    """

    source: str
    profile: str
    patients: Mapping[str, int]
    slices: int
    folds: int
    validation_share: float
    seeds: tuple[int, ...]
    region: RegionConfig
    balance: BalanceConfig
    training_slices: int
    synthetic_slices: int
    localiser_steps: int
    synthesis: Synthesis
    networks: Mapping[str, TrainConfig]

    @property
    def simulated(self) -> bool:
        """Whether the patients are the built-in phantom's."""
        return self.source == "phantom"

    @property
    def total_patients(self) -> int:
        """Patients of all groups."""
        return sum(self.patients.values())
