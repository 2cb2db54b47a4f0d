"""Distances between the surfaces of two masks: Hausdorff, its 95th percentile, and the average.

Surfaces are the voxels of a mask with a face towards the outside, and distances run between voxel centres, as in
EMIDEC's and ACDC's evaluation code; the exact Euclidean distance transform is SciPy's.

Empty cases: two empty masks are 0 mm apart; from an empty mask to one that is not, every distance is NaN.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PERCENTILE = 95


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> dict[str, float]:
    """Return `hausdorff`, `hausdorff_95` and `average_surface_distance` in mm.

    `hausdorff_95` is the larger of the two directed 95th percentiles, `average_surface_distance` the mean over the
    voxels of both surfaces (Maier-Hein et al., Nature Methods 2024: HD95 and ASSD).

    Args:
        reference: (S, H, W), or of any number of dimensions.
        prediction: The same shape.
        spacing_mm: One for each dimension.
    """
    if not (reference.any() and prediction.any()):
        apart = float("nan") if reference.any() or prediction.any() else 0.0
        return dict.fromkeys(("hausdorff", "hausdorff_95", "average_surface_distance"), apart)
    to_reference, to_prediction = _directed_distances(reference, prediction, spacing_mm)
    both = (to_reference, to_prediction)
    return {
        "hausdorff": max(float(side.max()) for side in both),
        "hausdorff_95": max(float(np.percentile(side, PERCENTILE)) for side in both),
        "average_surface_distance": float(np.concatenate(both).mean()),
    }


def _directed_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of each surface voxel of the prediction to the reference's surface, and the other way."""
    box = _bounding_box(reference | prediction)
    own, other = _surface(reference[box]), _surface(prediction[box])
    to_reference = ndimage.distance_transform_edt(~own, sampling=spacing_mm)[other]
    to_prediction = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own]
    return to_reference, to_prediction


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels with an outer face; beyond the array is outside, so that cutting to a box changes nothing."""
    return mask & ~ndimage.binary_erosion(mask)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box
