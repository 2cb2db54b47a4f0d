"""One slice's wall, and what is done to it: another's lesion is carried in, or its own is covered.

Each pixel of the recipient's wall takes label and intensity from the place of the same angle and depth (0 at the
endocardium, 1 at the epicardium) in the donor's wall, read between its pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gan.simulator.anatomy import Anatomy, ray_angles, read_anatomy
from gan.training.config import TransplantConfig
from imaging.labels import Tissue

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]

_FEWEST_NORMAL_PX = 20  # of remote wall and of blood, from which medians are taken
_LEAST_CONTRAST = 0.02  # of blood over remote wall, below which intensities cannot be compared
_RAY_SMOOTHING = 1.0  # of a wall's borders, in rays: their steps of a pixel must not show in what is carried
_LESIONS = (Tissue.INFARCT, Tissue.NO_REFLOW)
_HALF = 0.5
_PENUMBRA_PX = 2  # around a lesion, not remote wall either
_LEAST_REMOTE = 0.4  # of a wall whose lesion is covered
_LEAST_COVERED = 0.9  # of a lesion by remote wall at one other angle
_HEALED_FADE_PX = 0.8


@dataclass(frozen=True, eq=False)
class Wall:
    """A slice's wall with its intensities, on the box of its anatomy.

    Attributes:
        anatomy: The ventricle, lesions turned back.
        labels: (h, w) the expert's labels.
        image: (h, w) intensities in [0, 1].
        remote: Median of the normal myocardium.
        blood: Median of the cavity.
    """

    anatomy: Anatomy
    labels: Labels
    image: Floats
    remote: float
    blood: float

    @property
    def contrast(self) -> float:
        """How much brighter blood is than remote wall."""
        return self.blood - self.remote

    @property
    def angles(self) -> Floats:
        """(P,) angle of each pixel of the wall in radians."""
        return self.anatomy.angle[self.anatomy.myocardium]

    @property
    def depths(self) -> Floats:
        """(P,) share of the way from endocardium to epicardium at each pixel of the wall, along its ray, 0 to 1."""
        inner, outer = self._borders(self.angles)
        rows, columns = np.nonzero(self.anatomy.myocardium)
        radius = np.hypot(rows - self.anatomy.centre[0], columns - self.anatomy.centre[1])
        return np.clip((radius - inner) / np.maximum(outer - inner, 1), 0, 1)

    def places(self, angles: Floats, depths: Floats) -> Floats:
        """Return the (2, P) rows and columns, between pixels, of (P,) angles and depths of this wall."""
        inner, outer = self._borders(angles)
        radius = inner + depths * (outer - inner)
        row, column = self.anatomy.centre
        return np.stack([row + radius * np.sin(angles), column + radius * np.cos(angles)])

    def _borders(self, angles: Floats) -> tuple[Floats, Floats]:
        """Return the radii of endocardium and epicardium at (P,) angles, in pixels."""
        rays = ray_angles()
        inner, outer = (ndimage.gaussian_filter1d(radii, _RAY_SMOOTHING, mode="wrap") for radii in self.anatomy.radii)
        return tuple(np.interp(angles, rays, radii, period=2 * np.pi) for radii in (inner, outer))

    def wall_only(self, image: NDArray[np.generic]) -> Floats:
        """Return an image (h, w) whose pixels outside the wall are those of the nearest pixel of the wall."""
        return _nearest_of(self.anatomy.myocardium, image)


@dataclass(frozen=True)
class Placement:
    """Where a lesion goes: by how many radians it is turned about the ventricle, and whether it is mirrored."""

    turn: float
    mirrored: bool


def read_wall(image: NDArray[np.floating], mask: NDArray[np.integer], spacing_mm: float = 1.0) -> Wall | None:
    """Return the wall of a slice (H, W); None where it is no closed wall, or its intensities say nothing."""
    anatomy = read_anatomy(mask, spacing_mm)
    if anatomy is None or not anatomy.bears_lesions or not anatomy.closed:
        return None
    labels, intensities = mask[anatomy.box].astype(np.uint8), image[anatomy.box].astype(np.float64)
    remote, blood = (intensities[labels == value] for value in (Tissue.NORMAL_MYOCARDIUM, Tissue.CAVITY))
    if min(len(remote), len(blood)) < _FEWEST_NORMAL_PX:
        return None
    wall = Wall(anatomy, labels, intensities, float(np.median(remote)), float(np.median(blood)))
    return wall if wall.contrast >= _LEAST_CONTRAST else None


def draw_placement(config: TransplantConfig, rng: np.random.Generator) -> Placement:
    """Draw by how much a lesion is turned and whether it is mirrored."""
    most = np.pi if rng.random() < config.any_turn_share else np.radians(config.turn_deg)
    return Placement(float(rng.uniform(-most, most)), bool(rng.random() < config.mirror_share))


def transplant(
    donor: Wall, recipient: Wall, placement: Placement, config: TransplantConfig
) -> tuple[NDArray[np.float16], Labels]:
    """Carry the donor's lesion into the recipient's wall.

    Returns:
        The recipient's crop (h, w) in [0, 1] and its labels, both those of the recipient outside its wall.
    """
    angles = recipient.angles - placement.turn
    places = donor.places(-angles if placement.mirrored else angles, recipient.depths)
    wall = recipient.anatomy.myocardium
    labels = recipient.labels.copy()
    labels[wall] = np.maximum(_labels_at(donor, places), recipient.labels[wall])
    shades = recipient.image.copy()
    scale = (recipient.contrast / donor.contrast) ** config.contrast_power
    shades[wall] = recipient.remote + scale * (_read(donor.wall_only(donor.image), places) - donor.remote)
    return _blend(recipient, labels, shades, config).astype(np.float16), labels


def heal(wall: Wall) -> Wall | None:
    """Return a slice's wall with its lesion covered by its own remote wall at another angle.

    Hearts with an infarct are shaped otherwise than healthy ones: they, too, must be seen with other lesions.

    Returns:
        The slice without lesion; None where too little of its wall is remote, or nothing of it fits over the lesion.
    """
    tissue = wall.anatomy.myocardium
    lesion = ndimage.binary_dilation(wall.labels >= Tissue.INFARCT, iterations=_PENUMBRA_PX) & tissue
    if (tissue & ~lesion).sum() < _LEAST_REMOTE * tissue.sum():
        return None
    covered, depths = wall.anatomy.angle[lesion], wall.depths[lesion[tissue]]
    remote = wall.wall_only(tissue & ~lesion)
    views = [(turn, sign) for turn in ray_angles()[::3] for sign in (1, -1)]
    found = [_read(remote, wall.places(sign * covered + turn, depths)).mean() for turn, sign in views]
    if max(found) < _LEAST_COVERED:
        return None
    turn, sign = views[int(np.argmax(found))]
    shades = wall.image.copy()
    shades[lesion] = _read(_nearest_of(tissue & ~lesion, wall.image), wall.places(sign * covered + turn, depths))
    share = ndimage.gaussian_filter(lesion.astype(np.float64), _HEALED_FADE_PX) * tissue
    share[wall.labels >= Tissue.INFARCT] = 1
    image = wall.image + share * (shades - wall.image)
    return replace(wall, labels=np.minimum(wall.labels, Tissue.NORMAL_MYOCARDIUM).astype(np.uint8), image=image)


def _labels_at(donor: Wall, places: Floats) -> Labels:
    """Return the (P,) labels at places between the donor's pixels: each tissue where it covers half of the place."""
    at_least = {value: _read(donor.wall_only(donor.labels >= value), places) for value in _LESIONS}
    labels = np.full(places.shape[1], Tissue.NORMAL_MYOCARDIUM, dtype=np.uint8)
    for value, covered in at_least.items():
        labels[covered >= _HALF] = value
    return labels


def _nearest_of(region: NDArray[np.bool_], image: NDArray[np.generic]) -> Floats:
    """Return an image (h, w) whose pixels outside the region are those of the region's nearest pixel."""
    _, (rows, columns) = ndimage.distance_transform_edt(~region, return_indices=True)
    return image[rows, columns].astype(np.float64)


def _read(image: Floats, places: Floats) -> Floats:
    """Read an image (h, w) at (2, P) rows and columns, linearly between its pixels."""
    return np.asarray(ndimage.map_coordinates(image, places, order=1, mode="nearest"))


def _blend(recipient: Wall, labels: Labels, shades: Floats, config: TransplantConfig) -> Floats:
    """Return the recipient (h, w) with the carried shades faded in where the lesion lies, inside the wall only.

    Wall pixels at the epicardium hold something of what lies beyond it, as the camera's do: there the fading is half
    done. At the endocardium the lesion's own pixels show how it meets the blood.
    """
    wall = recipient.anatomy.myocardium
    grain = recipient.image - ndimage.gaussian_filter(recipient.image, config.grain_px)
    painted = ndimage.gaussian_filter(shades, config.smooth_px) + config.grain_share * grain
    lesion = ndimage.binary_dilation(labels >= Tissue.INFARCT)
    share = ndimage.gaussian_filter(lesion.astype(np.float64), config.fade_px)
    # Deep inside 1, at the epicardium somewhat over a half: a lesion that reaches it must stay visible.
    ventricle = recipient.anatomy.filled.astype(np.float64)
    within = np.clip(1.3 * ndimage.gaussian_filter(ventricle, config.fade_px), 0, 1) * wall
    return np.clip(recipient.image + share * within * (painted - recipient.image), 0, 1)
