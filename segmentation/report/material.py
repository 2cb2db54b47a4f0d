"""Everything that the report is made of.

The configuration of a run, as far as the report speaks of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.labels import LabelSet
from imaging.slices.balance import BalanceConfig
from imaging.slices.regions import RegionConfig
from imaging.slices.store import SliceStore
from runtime.model_card import ModelCard
from segmentation.comparison.arms import Comparison
from segmentation.scoring.held_out import PredictedSlices
from segmentation.scoring.scores import patient_rows
from segmentation.training.config import MixingConfig, TrainConfig


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
        transplanted: Whether lesions were carried over without a network; the other values then decided nothing.
        lesions_alone: Whether lesions were drawn into real hearts, or whole ventricles.
        from_folder: Whether another program made them, so that no other value decided anything.
    """

    steps: int
    batch: int
    l1_weight: float
    adversarial: str
    in_context: bool
    strategy_shares: Mapping[str, float]
    infarct_limits: tuple[float, float]
    no_reflow_limits: tuple[float, float]
    transplanted: bool = False
    lesions_alone: bool = False
    from_folder: bool = False


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
        training_slices: Slices in each arm; added ones come beside them.
        synthetic_slices: Of the real-plus-GAN arm.
        localiser_steps: Optimiser steps of the localiser.
        synthesis: How synthetic slices were made.
        networks: Training configuration by network.
        mixing: How synthetic slices come beside real ones.
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
    mixing: MixingConfig

    @property
    def real_beside_synthetic(self) -> int:
        """How many slices of the real-plus-GAN arm are real."""
        added = self.mixing.protocol == "add"
        return self.training_slices if added else self.training_slices - self.synthetic_slices

    @property
    def simulated(self) -> bool:
        """Whether the patients are the built-in phantom's."""
        return self.source == "phantom"

    @property
    def total_patients(self) -> int:
        """Patients of all groups."""
        return sum(self.patients.values())


class Arm(NamedTuple):
    """Which trained network."""

    network: str
    training_set: str
    seed: int


class Prediction(NamedTuple):
    """What one network drew on a fold's test slices."""

    fold: int
    arm: Arm
    slices: PredictedSlices


@dataclass(frozen=True)
class Case:
    """One test study on the region that the networks saw, 1 mm pixels, slices in stored order.

    Attributes:
        case_id: The patient.
        frame: Empty for LGE.
        images: (S, H, W) in [0, 1]; None where the slices have been made anew since.
        reference: (S, H, W).
        predictions: (S, H, W) each.
    """

    case_id: str
    frame: str
    images: NDArray[np.float16] | None
    reference: NDArray[np.uint8]
    predictions: Mapping[Arm, NDArray[np.uint8]]


@dataclass(frozen=True)
class Training:
    """One training: its model card, its course (`history.csv`), and the addresses of its MLflow runs."""

    fold: int
    card: ModelCard
    history: pd.DataFrame
    run_url: str = ""
    scores_url: str = ""

    @property
    def arm(self) -> Arm:
        """Whose training it is."""
        return Arm(self.card.network, self.card.training_set, self.card.seed)


@dataclass(frozen=True)
class Provenance:
    """What the result was made from, and how to make it again.

    Attributes:
        digests: Name and digest of data, split and settings, and the versions of the code.
        versions: Library and version.
        hardware: Name and value.
        commands: One a fold.
    """

    digests: Mapping[str, str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    commands: Sequence[str]


@dataclass(frozen=True)
class ReportMaterial:
    """The comparison, and what a reader wants to see beside it.

    Attributes:
        comparison: Tables and verdicts.
        scores: All tables of scores, joined.
        labels: Of the source.
        setup: The configuration.
        trainings: Every training of the folds compared.
        cases: Test studies with their predictions; those whose predictions were not kept are missing.
        provenance: Digests, versions, commands.
        notes: What is missing in the report, in words.
    """

    comparison: Comparison
    scores: pd.DataFrame
    labels: LabelSet
    setup: Setup
    trainings: Sequence[Training]
    cases: Sequence[Case]
    provenance: Provenance
    notes: tuple[str, ...] = field(default=())

    @property
    def networks(self) -> tuple[str, ...]:
        """The trained networks, in the order of the tables."""
        summary = self.comparison.summary
        return tuple(summary.loc[summary["training_set"] != "", "network"].unique())

    @property
    def test_patients(self) -> int:
        """How many patients were tested."""
        return int(patient_rows(self.scores)["case_id"].nunique())


def gather_cases(
    predictions: Sequence[Prediction], open_slices: Callable[[int], SliceStore]
) -> tuple[list[Case], list[str]]:
    """Arrange the predictions of all arms by study; also say in words what had to be left out.

    Args:
        predictions: Of one or more folds.
        open_slices: Gives the slice store of a fold. Images of a store with another digest are left out, and so are
            predictions that were made on other slices than the latest.
    """
    cases: list[Case] = []
    notes: list[str] = []
    for fold in sorted({prediction.fold for prediction in predictions}):
        own = [prediction for prediction in predictions if prediction.fold == fold]
        digest = own[-1].slices.slices_digest
        alike = [each for each in own if each.slices.slices_digest == digest]
        with open_slices(fold) as store:
            cases += _cases_of_fold(alike, store)
            if store.digest != digest:
                notes.append(f"Fold {fold} has no pictures: its slices were made anew after it was scored.")
        if len(alike) < len(own):
            notes.append(f"Fold {fold}: {len(own) - len(alike)} of {len(own)} scorings saw other slices; not shown.")
    return sorted(cases, key=lambda case: (case.case_id, case.frame)), notes


def _cases_of_fold(alike: Sequence[Prediction], store: SliceStore) -> list[Case]:
    first, places = alike[0].slices, alike[0].slices.reference.places
    keys = pd.MultiIndex.from_frame(store.rows[list(places.columns)])
    cases = []
    for case_id, frame, at in first.reference.stacks():
        images = None
        if store.digest == first.slices_digest:
            images = store.images(keys.get_indexer(pd.MultiIndex.from_frame(places.iloc[at])))
        drawn = {each.arm: each.slices.prediction[at] for each in alike}
        cases.append(Case(case_id, frame, images, first.reference.masks[at], drawn))
    return cases
