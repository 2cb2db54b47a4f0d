"""The coronary territories as sectors of the short axis.

Seen as radiologists do, the anterior wall above and the septum to the left (AHA's 17 segments, Cerqueira et al.,
Circulation 2002): angles grow clockwise on the screen from the lateral wall.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Territory:
    """A sector of the wall supplied by one artery, about `centre_deg`, `width_deg` wide."""

    centre_deg: float
    width_deg: float


TERRITORIES: Mapping[str, Territory] = MappingProxyType(
    {
        "left_anterior_descending": Territory(240.0, 120.0),
        "right_coronary": Territory(120.0, 120.0),
        "left_circumflex": Territory(0.0, 120.0),
    }
)


def angle_between(angle: NDArray[np.float64] | float, other: float) -> NDArray[np.float64]:
    """Return the signed angle from `other` to `angle` in [-pi, pi), in radians."""
    return np.asarray(np.mod(np.asarray(angle) - other + np.pi, 2 * np.pi) - np.pi)


def territory_of(angle: float) -> str:
    """Return the name of the territory whose centre is nearest to an angle in radians."""
    distance = {
        name: abs(float(angle_between(angle, np.radians(territory.centre_deg))))
        for name, territory in TERRITORIES.items()
    }
    return min(distance, key=lambda name: distance[name])


def draw_centre(territory: Territory, extent: float, rng: np.random.Generator) -> float:
    """Draw the direction of a lesion, in radians, that spans `extent` of the circumference.

    A lesion narrower than its territory stays inside it; a wider one reaches over both its edges alike.
    """
    room_deg = max(territory.width_deg - 360 * extent, 0.0) / 2
    return float(np.radians(territory.centre_deg + rng.uniform(-room_deg, room_deg)) % (2 * np.pi))
