"""How many patients the phantom has, and how they differ."""

from typing import Self

from pydantic import Field, model_validator

from common.config import FrozenConfig

Span = tuple[float, float]


class PhantomConfig(FrozenConfig):
    """A simulated cohort; one value a patient is drawn uniformly from each span (lowest, highest).

    Attributes:
        patients: Size of the cohort.
        seed: Of everything that is random.
        normal_share: Of patients without infarct (EMIDEC: 33 of 100).
        no_reflow_share: Of patients with infarct and no-reflow (EMIDEC: 40 of 100); the others have infarct only.
        matrix_px: Rows and columns of the native grid, each drawn by itself.
        pixel_mm: In-plane spacing of the native grid.
        slice_mm: Slice spacing.
        slices: Fewest and most slices.
        cavity_radius_mm: Of the endocardium at the base.
        wall_mm: Thickness at the base.
        off_centre_mm: Largest shift of the ventricle from the middle of the field, along rows and along columns.
        inversion_error: By how much the inversion time misses the myocardium's null, relative; above 0 it is too long
            and normal myocardium is grey, below 0 too short.
        polarity_share: Of patients whose images keep the signal's sign (phase-sensitive reconstruction).
        noise: Standard deviation of either channel's noise beside the heart, as a share of the fat's signal.
        shading: Distance over which the coil's sensitivity falls to 37 %, mm.
        breathing_mm: Largest standard deviation of the motion blur of a slice.
    """

    patients: int = Field(default=40, ge=1)
    seed: int = 0
    normal_share: float = Field(default=0.33, ge=0, le=1)
    no_reflow_share: float = Field(default=0.40, ge=0, le=1)
    matrix_px: tuple[int, int] = (176, 208)
    pixel_mm: Span = (1.2, 1.6)
    slice_mm: Span = (8.0, 10.0)
    slices: tuple[int, int] = (6, 9)
    cavity_radius_mm: Span = (21.5, 30.5)
    wall_mm: Span = (8.0, 12.5)
    off_centre_mm: float = Field(default=18.0, ge=0)
    inversion_error: Span = (0.05, 0.5)
    polarity_share: float = Field(default=0.75, ge=0, le=1)
    noise: Span = (0.02, 0.065)
    shading: Span = (90.0, 220.0)
    breathing_mm: float = Field(default=1.3, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.normal_share + self.no_reflow_share > 1:
            raise ValueError(
                f"normal_share {self.normal_share:g} and no_reflow_share {self.no_reflow_share:g} together exceed 1"
            )
        for name, smallest in _SMALLEST.items():
            low, high = getattr(self, name)
            if not smallest <= low <= high:
                raise ValueError(f"{name} is {low:g} to {high:g}; give lowest and highest, at least {smallest:g}")
        return self


# Below these the heart does not fit its grid, or the span has no meaning.
_SMALLEST = {
    "matrix_px": 96,
    "pixel_mm": 0.5,
    "slice_mm": 1.0,
    "slices": 1,
    "cavity_radius_mm": 10.0,
    "wall_mm": 4.0,
    "inversion_error": -0.5,
    "noise": 0.0,
    "shading": 10.0,
}
