"""The augmentation recipe for one slice and its mask; the only module that imports albumentations.

Geometry moves image and mask together: the mask is resampled as one map a tissue, linearly, and the largest
wins, so that thin walls and small no-reflow areas keep their place to a fraction of a pixel. What follows
(coil shading, grey levels, blur, ghosts, noise) touches the image alone.

Artefacts of cardiac MR images, drawn at random: coil shading, motion ghosts and Rician noise.

Each function takes an image (H, W) float32 in [0, 1] and returns a new one; the caller clips.
"""

import os
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from common.config import FrozenConfig

if TYPE_CHECKING:
    import albumentations


Image = NDArray[np.float32]


def coil_shading(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Multiply by a smooth field, as the uneven sensitivity of a receiver coil does.

    The logarithm of the field is a random polynomial of second order whose largest value is `strength` (0.3
    makes the brightest place 1.35 times and the darkest no less than 0.74 times as bright).
    """
    field = rng.standard_normal(5).astype(np.float32) @ _polynomials(*image.shape)
    field *= strength / max(float(np.abs(field).max()), 1e-6)
    return image * np.exp(field).reshape(image.shape)


def motion_ghost(image: Image, strength: float, shift_px: int, axis: int) -> Image:
    """Add a pair of faint copies displaced along the phase-encoding axis, as breathing and pulsation do.

    Args:
        image: (H, W).
        strength: Share of the signal that goes into each copy.
        shift_px: Displacement of the copies to either side.
        axis: The phase-encoding axis, 0 rows or 1 columns.
    """
    copies = np.roll(image, shift_px, axis) + np.roll(image, -shift_px, axis)
    return (1 - 2 * strength) * image + strength * copies


def rician_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Return the magnitude of the image after complex Gaussian noise of deviation `sigma` in each channel."""
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(image + real, imaginary)


@lru_cache(maxsize=8)
def _polynomials(height: int, width: int) -> NDArray[np.float32]:
    """Return the five polynomials up to second order, constant left out, as (5, H * W) on [-1, 1]²."""
    row, column = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = [row, column, row * column, row**2 - 1 / 3, column**2 - 1 / 3]
    return np.stack(terms).reshape(5, -1).astype(np.float32)


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]


class AugmentConfig(FrozenConfig):
    """Ranges of the random changes; `..._probability` is how often a slice gets one.

    Attributes:
        flip_probability: Each of up-down and left-right. A mirrored heart is no patient's, yet wall, blood
            and scar look the same, and more arrangements of scar in the wall are seen.
        rotation_deg: Largest rotation either way. The axis of the heart varies by some 20 degrees between
            patients, and the slice is planned by hand.
        scale: Smallest and largest magnification: hearts of small and large adults, diastole not always met.
        shift_px: Largest shift either way (1 px is 1 mm): what a localiser may be off by, and a margin.
        elastic_px: Standard deviation of the smooth displacement: wall shapes between those of the patients.
            More would make a wall thick here and thin there as no heart is.
        elastic_smoothness_px: Distance over which that displacement varies, about a third of the ventricle.
        brightness: Largest offset either way, as a share of the intensity window. The inversion time nulls
            healthy muscle more or less well.
        contrast: Largest relative change of contrast: dose of contrast agent and time since it was given.
        gamma: Smallest and largest exponent: grey-level curves of different vendors.
        shading: Largest logarithm of the coil field, after surface-coil correction left a remainder.
        blur_px: Smallest and largest deviation of the blur: coarser matrices and motion within the readout.
        ghost: Largest share of the signal in each ghost; breath-holds fail in patients with heart failure.
        ghost_shift_px: Smallest and largest distance of a ghost.
        noise: Smallest and largest deviation of the Rician noise, as a share of the intensity window: thin
            slices, wide bodies, low field.
    """

    flip_probability: Probability = 0.5
    geometry_probability: Probability = 0.9
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 25.0
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.88, 1.14)
    shift_px: Annotated[int, Field(ge=0)] = 7
    elastic_probability: Probability = 0.5
    elastic_px: Positive = 1.3
    elastic_smoothness_px: Annotated[float, Field(gt=0)] = 10.0
    shading_probability: Probability = 0.5
    shading: Positive = 0.25
    contrast_probability: Probability = 0.6
    brightness: Positive = 0.07
    contrast: Positive = 0.2
    gamma_probability: Probability = 0.4
    gamma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.35)
    blur_probability: Probability = 0.2
    blur_px: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.4, 0.8)
    ghost_probability: Probability = 0.15
    ghost: Annotated[float, Field(ge=0, le=0.25)] = 0.06
    ghost_shift_px: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (12, 50)
    noise_probability: Probability = 0.5
    noise: tuple[Positive, Positive] = (0.01, 0.04)

    @field_validator("scale", "gamma", "blur_px", "ghost_shift_px", "noise")
    @classmethod
    def _runs_upwards(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"{info.field_name} runs from {value[0]} down to {value[1]}; give the smaller first")
        return value


@dataclass(frozen=True)
class Recipe:
    """The steps built from a configuration; of no state but the random numbers given for each slice."""

    config: AugmentConfig
    geometry: "albumentations.Compose"
    grey_levels: "albumentations.Compose"


def build_recipe(config: AugmentConfig) -> Recipe:
    """Build the steps once, for many slices."""
    # Without this albumentations asks PyPI for its newest version on import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return Recipe(
        config,
        albumentations.Compose(_geometry(config), p=1.0),
        albumentations.Compose(_grey_levels(config), p=1.0),
    )


def augment_slice(
    recipe: Recipe, image: NDArray[np.floating], mask: NDArray[np.uint8], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return one random variant of a slice; the same seed gives the same variant.

    Args:
        recipe: From `build_recipe`.
        image: (H, W) in [0, 1].
        mask: (H, W) label values.
        seed: Decides every random choice.

    Returns:
        The image (H, W) float32 in [0, 1] and the mask (H, W) uint8.
    """
    rng = np.random.default_rng(seed)
    # One stream through all steps: `Compose.set_random_seed` would give every step the same random numbers.
    for steps in (recipe.geometry, recipe.grey_levels):
        steps.set_random_state(rng, random.Random(int(rng.integers(2**63))))  # noqa: S311 (albumentations' type)
    values = np.unique(mask[mask > 0])
    maps = (mask[..., None] == (values if len(values) else [1])).astype(np.float32)  # (H, W, tissues present)
    moved = recipe.geometry(image=image.astype(np.float32)[..., None], mask=maps)
    out = _change_grey_levels(recipe, np.clip(moved["image"][..., 0], 0, 1), rng)
    return out, _largest(moved["mask"], values)


def _change_grey_levels(recipe: Recipe, image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    config = recipe.config
    if rng.random() < config.shading_probability:
        image = coil_shading(image, float(rng.uniform(0, config.shading)), rng)
    image = recipe.grey_levels(image=np.clip(image, 0, 1)[..., None])["image"][..., 0]
    if rng.random() < config.ghost_probability:
        shift = int(rng.integers(config.ghost_shift_px[0], config.ghost_shift_px[1] + 1))
        image = motion_ghost(image, float(rng.uniform(0, config.ghost)), shift, int(rng.integers(2)))
    if rng.random() < config.noise_probability:
        image = rician_noise(image, float(rng.uniform(*config.noise)), rng)
    return np.clip(image, 0, 1, dtype=np.float32)


def _largest(maps: NDArray[np.float32], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return at each pixel of maps (H, W, C) the largest one's label; background has what is left of 1."""
    if not len(values):
        return np.zeros(maps.shape[:2], dtype=np.uint8)
    maps = maps.reshape(*maps.shape[:2], len(values))
    background = 1 - maps.sum(axis=2, keepdims=True)
    labels = np.concatenate([[0], values]).astype(np.uint8)
    return labels[np.concatenate([background, maps], axis=2).argmax(axis=2)]


def _geometry(config: AugmentConfig) -> list[Any]:
    import albumentations
    import cv2

    # Mirrored content at the border, image and mask alike: a network would learn from black corners.
    common = {
        "interpolation": cv2.INTER_CUBIC,
        "mask_interpolation": cv2.INTER_LINEAR,
        "border_mode": cv2.BORDER_REFLECT_101,
    }
    # Uniform noise on [-1, 1] has deviation 1/√3; a Gaussian filter of width s divides it by 2 s √π.
    alpha = config.elastic_px * np.sqrt(3) * 2 * config.elastic_smoothness_px * np.sqrt(np.pi)
    return [
        albumentations.HorizontalFlip(p=config.flip_probability),
        albumentations.VerticalFlip(p=config.flip_probability),
        albumentations.Affine(
            scale=config.scale,
            translate_px=(-config.shift_px, config.shift_px),
            rotate=(-config.rotation_deg, config.rotation_deg),
            keep_ratio=True,
            p=config.geometry_probability,
            **common,
        ),
        albumentations.ElasticTransform(
            alpha=float(alpha),
            sigma=config.elastic_smoothness_px,
            noise_distribution="uniform",
            p=config.elastic_probability,
            **common,
        ),
    ]


def _grey_levels(config: AugmentConfig) -> list[Any]:
    import albumentations

    return [
        albumentations.RandomBrightnessContrast(
            brightness_limit=config.brightness,
            contrast_limit=config.contrast,
            p=config.contrast_probability,
        ),
        albumentations.RandomGamma(
            gamma_limit=(100 * config.gamma[0], 100 * config.gamma[1]), p=config.gamma_probability
        ),
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=config.blur_px, p=config.blur_probability),
    ]
