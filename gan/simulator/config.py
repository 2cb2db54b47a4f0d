"""What decides the simulated masks."""

from typing import Annotated

from pydantic import Field, model_validator

from common.config import FrozenConfig
from gan.training.config import Paint

STRATEGIES = ("synthetic_anatomy", "hybrid_injection", "cross_subject_fusion")

Share = Annotated[float, Field(ge=0, le=1)]


class StrategyShares(FrozenConfig):
    """How often each strategy is tried; scaled to sum to 1 over the strategies that are possible.

    Attributes:
        synthetic_anatomy: A ring drawn from the fitted anatomy, with a grown lesion.
        hybrid_injection: A lesion grown in a real patient's myocardium.
        cross_subject_fusion: One patient's lesion carried over to another patient.
    """

    synthetic_anatomy: Share = 0.25
    hybrid_injection: Share = 0.4
    cross_subject_fusion: Share = 0.35

    @model_validator(mode="after")
    def _some_strategy(self) -> "StrategyShares":
        if not any(getattr(self, name) for name in STRATEGIES):
            raise ValueError(f"all strategy shares are 0; give at least one of {list(STRATEGIES)} a share")
        return self


class SimulatorConfig(FrozenConfig):
    """The mask simulator; the limits and placements are those of the infarct-synthesis study (Cairo 2025).

    Attributes:
        shares: How often each strategy is tried.
        infarct_limits: Accepted share of the myocardium that is infarct or no-reflow.
        no_reflow_limits: Accepted share of that lesion that is no-reflow.
        paint: What the generator paints. `lesion`: every mask is a real slice's anatomy, with its own lesion turned
            back to wall and another put into it; equal to the generator's.
        lesion_plans: Where lesions are painted, a patient's follow one of so many plans, each of which gives all
            slices one direction, extent and depth, so that neighbours continue each other.
        hole_margin_px: How far the hole reaches beyond what is painted at least; equal to the generator's.
        hole_spread_px: By up to so much further, at random; equal to the generator's.
        neighbours: Among how many of the nearest anatomies a lender is drawn.
        shift_px: Furthest shift of a donor's lesion along rows and columns.
        rotation_step_deg: A donor's lesion is turned by multiples of this.
        wall_placement_share: Carried lesions placed in wall coordinates; the others keep their shape.
        maximum_misfit: A carried lesion that fits worse than this is refused (0 fits, 1 does not at all).
        warp: Relative size of the random deformation of anatomies without infarct.
        attempts: Tries for each strategy before another one takes over.
    """

    shares: StrategyShares = StrategyShares()
    infarct_limits: tuple[Share, Share] = (0.10, 0.50)
    no_reflow_limits: tuple[Share, Share] = (0.10, 0.40)
    paint: Paint = "ventricle"
    lesion_plans: int = Field(6, ge=1)
    hole_margin_px: int = Field(3, ge=0)
    hole_spread_px: int = Field(0, ge=0, le=64)
    neighbours: int = Field(8, ge=1)
    shift_px: int = Field(10, ge=0)
    rotation_step_deg: float = Field(30.0, gt=0, le=360)
    wall_placement_share: Share = 0.5
    maximum_misfit: Share = 0.4
    warp: float = Field(0.04, ge=0, le=0.2)
    attempts: int = Field(12, ge=1)

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> "SimulatorConfig":
        if self.paint == "lesion" and not self.shares.hybrid_injection + self.shares.cross_subject_fusion:
            raise ValueError(
                "paint 'lesion' keeps real anatomies: give hybrid_injection or cross_subject_fusion a share"
            )
        for name in ("infarct_limits", "no_reflow_limits"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name} {(low, high)}: the first must be below the second")
        return self
