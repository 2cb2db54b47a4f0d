"""How many patients the phantom has, and how they differ."""

from typing import Self

from pydantic import Field, model_validator

from imaging.config import FrozenConfig

Span = tuple[float, float]


class PhantomConfig(FrozenConfig):
    """A simulated cohort; spans are drawn from uniformly, one value a patient.

    Attributes:
        patients: Size of the cohort.
        seed: Of everything that is random.
        normal_share: Of patients without infarct (EMIDEC: 33 of 100).
        no_reflow_share: Of patients with infarct and no-reflow (EMIDEC: 40 of 100).
        field_mm: Side of the square field of view.
        pixel_mm: In-plane spacing of the native grid.
        slice_mm: Slice spacing.
        slices: Fewest and most slices.
        cavity_radius_mm: At the level of the papillary muscles.
        wall_mm: Thickness there.
        off_centre_mm: Largest shift of the heart from the middle of the field.
        noise: Standard deviation of the Rician noise, as a share of the blood's signal.
        shading: Largest relative change of the coil's sensitivity over the field.
        blur_px: Standard deviation of the point spread, native pixels (breathing, acquisition).
    """

    patients: int = Field(default=40, ge=1)
    seed: int = 0
    normal_share: float = Field(default=0.33, ge=0, le=1)
    no_reflow_share: float = Field(default=0.40, ge=0, le=1)
    field_mm: float = Field(default=200.0, ge=140)
    pixel_mm: Span = (1.2, 1.6)
    slice_mm: Span = (8.0, 10.0)
    slices: tuple[int, int] = (6, 8)
    cavity_radius_mm: Span = (19.0, 27.0)
    wall_mm: Span = (7.5, 11.0)
    off_centre_mm: float = Field(default=16.0, ge=0)
    noise: Span = (0.05, 0.11)
    shading: float = Field(default=0.35, ge=0, lt=1)
    blur_px: Span = (0.5, 0.9)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.normal_share + self.no_reflow_share > 1:
            raise ValueError("normal_share and no_reflow_share together exceed 1")
        return self
