import numpy as np
import pytest
from scipy import ndimage

from imaging.labels import Tissue
from imaging.studies.preparation import resample_image, resample_mask
from tests.imaging.fake_emidec import label_map

sitk = pytest.importorskip("SimpleITK")

SPACINGS_MM = [(8.0, 1.40625, 1.40625), (10.0, 0.73, 0.73), (6.0, 2.0, 1.5)]
BORDER = 6  # pixels; splines differ there by what each takes to lie outside


def peer_resample(plane, spacing_mm, shape, interpolator):
    """Resample (H, W) to `shape` with outer edges aligned."""
    image = sitk.GetImageFromArray(plane.astype(np.float32))
    row_mm, column_mm = spacing_mm[1:]
    image.SetSpacing((column_mm, row_mm))
    size = shape[::-1]
    target_mm = [
        pixels * side / new for pixels, side, new in zip(image.GetSize(), image.GetSpacing(), size, strict=True)
    ]
    origin = [(new - old) / 2 for new, old in zip(target_mm, image.GetSpacing(), strict=True)]
    return sitk.GetArrayFromImage(
        sitk.Resample(image, size, sitk.Transform(), interpolator, origin, target_mm, (1.0, 0.0, 0.0, 1.0), 0.0)
    )


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_images_resample_as_simpleitks_cubic_splines(spacing_mm):
    noise = np.random.default_rng(0).normal(size=(2, 90, 80))
    volume = 500 + 3000 * ndimage.gaussian_filter(noise, (0, 2.5, 2.5))
    ours = resample_image(volume, spacing_mm)
    peers = np.stack([peer_resample(plane, spacing_mm, ours.shape[1:], sitk.sitkBSpline) for plane in volume])
    inner = (slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    assert np.corrcoef(ours[inner].ravel(), peers[inner].ravel())[0, 1] > 0.99999
    assert np.abs(ours - peers)[inner].max() < 0.002 * np.ptp(volume)
    assert np.corrcoef(ours.ravel(), peers.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_masks_resample_as_simpleitks_linear_weights_of_each_class(spacing_mm):
    mask = np.stack([label_map("Case_P002").transpose()[0], label_map("Case_P003").transpose()[0]])
    ours = resample_mask(mask, spacing_mm, len(Tissue))
    weights = [
        [peer_resample(plane == value, spacing_mm, ours.shape[1:], sitk.sitkLinear) for plane in mask]
        for value in Tissue
    ]
    assert np.mean(ours == np.argmax(weights, axis=0)) >= 0.995
