"""How close a drawing comes to the real slice of the same mask: SSIM, PSNR and LPIPS, whole and in the ventricle.

SSIM and PSNR take grain other than the real slice's for an error and so prefer smooth drawings. LPIPS hardly does,
and the distance of patches (`gan.quality.realism`, around the ventricle) does not: it compares their distributions.

Measures that compare pixels or describe them: PSNR, SSIM, texture, spread.

All images are (N, H, W) in [0, 1], regions (N, H, W) bool.

LPIPS, the learned perceptual distance of image pairs (Zhang et al. 2018), from a weights file that is named.

The networks and the linear layers are torchmetrics'; only the convolutions' ImageNet weights come from the file.
What does not live here: a place to look for weights; nothing is ever downloaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from common.errors import InputError
from gan.quality.realism import patch_distance
from gan.quality.slices import Images, PairDistance, inside_ventricle
from gan.quality.table import Figure, Row, over_halves, ratio_of_sums
from gan.training.losses import structural_similarity
from imaging.slices.part import PartSlices
from runtime.compute import Compute

Region = NDArray[np.bool_] | None
_ROWS = 64


def peak_signal_to_noise(images: Images, real: Images, region: Region = None) -> float:
    """Return the PSNR in dB of images in [0, 1] over all pixels of the region; inf where they are equal."""
    errors, pixels = squared_errors(images, real, region)
    return decibels(float(errors.sum() / pixels.sum()))


def decibels(error: float) -> float:
    """Return the PSNR in dB of a mean squared error of images in [0, 1]."""
    return float(np.inf if error == 0 else -10 * np.log10(error))


def squared_errors(
    images: Images, real: Images, region: Region = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the summed squared error of each slice over its region (N,) and the region's pixels (N,)."""
    squared = np.square(np.asarray(images, np.float64) - np.asarray(real, np.float64))
    where = np.ones(squared.shape, bool) if region is None else region
    return np.where(where, squared, 0).sum(axis=(1, 2)), where.sum(axis=(1, 2), dtype=np.float64)


def structural_similarity_of(images: Images, real: Images, region: Region = None) -> float:
    """Return the mean SSIM (Wang et al. 2004): over a slice's pixels in the region, then over the slices."""
    values, counted = similarities(images, real, region)
    return float(values.sum() / counted.sum())


def similarities(images: Images, real: Images, region: Region = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each slice's mean SSIM over its region (N,), 0 where it has none, and whether it has one (N,)."""
    parts = []
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        pair = [torch.from_numpy(np.array(part[rows], np.float32)).unsqueeze(1) for part in (images, real)]
        similarity = structural_similarity(*pair)[:, 0].numpy()
        where = np.ones(similarity.shape, bool) if region is None else region[rows]
        sums = np.where(where, similarity, 0).sum(axis=(1, 2), dtype=np.float64)
        parts.append(np.stack([sums, where.sum(axis=(1, 2))]))
    sums, pixels = np.concatenate(parts, axis=1)
    return sums / np.maximum(pixels, 1), pixels > 0


def mean_absolute_error(images: Images, real: Images, region: NDArray[np.bool_]) -> float:
    """Return the mean absolute difference over the region's pixels."""
    difference = np.abs(np.asarray(images, np.float32) - np.asarray(real, np.float32))
    return float(difference[region].mean())


def local_texture(images: Images, region: NDArray[np.bool_]) -> float:
    """Return the mean standard deviation within 3 x 3 pixels over the region: how grainy the images are."""
    images = np.asarray(images, np.float32)
    mean, square = (uniform_filter(part, size=(0, 3, 3)) for part in (images, images * images))
    return float(np.sqrt(np.maximum(square - mean * mean, 0))[region].mean())


def pairwise_variety(images: Images, region: NDArray[np.bool_]) -> float:
    """Return how much the images' region means and deviations differ from slice to slice.

    The mean over both of their standard deviation over slices: a generator that has collapsed draws the same
    ventricle whatever it is given, and scores near 0. Zero for fewer than two slices.
    """
    inside = [image[where] for image, where in zip(np.asarray(images, np.float32), region, strict=True)]
    summaries = np.array([[values.mean(), values.std()] for values in inside if len(values)])
    return float(summaries.std(axis=0).mean()) if len(summaries) > 1 else 0.0


def fidelity(
    subject: str, images: Images, real: PartSlices, perceptual: Mapping[str, PairDistance], seed: int
) -> list[Row]:
    """Compare images (N, H, W) with the real slices that they pair with.

    LPIPS inside the ventricle is that of slices whose surroundings are both set black.
    """
    rows = []
    count = len(real)
    ventricle = real.masks > 0
    for name, region in (("whole", None), ("ventricle", ventricle)):
        values, counted = similarities(images, real.images, region)
        ssim = over_halves(ratio_of_sums(values, counted.astype(float)), seed, real.case_ids)
        psnr = over_halves(ratio_of_sums(*squared_errors(images, real.images, region), decibels), seed, real.case_ids)
        rows += [Row("ssim", name, subject, ssim, count, count), Row("psnr", name, subject, psnr, count, count)]
        for network, distance in perceptual.items():
            pair = [_view(part, real.masks, region) for part in (images, real.images)]
            lpips = np.asarray(distance(*pair), np.float64)
            figure = over_halves(ratio_of_sums(lpips, np.ones_like(lpips)), seed, real.case_ids)
            rows.append(Row("lpips", name, subject, figure, count, count, network))
    patches = Figure(patch_distance(images, real.images, ventricle, seed))
    return [*rows, Row("patches", "ventricle", subject, patches, count, count)]


def _view(images: Images, masks: NDArray[np.uint8], region: NDArray[np.bool_] | None) -> Images:
    return images if region is None else inside_ventricle(images, masks)


Backbone = Literal["alexnet", "vgg16"]
_NAMES: dict[Backbone, Literal["alex", "vgg"]] = {"alexnet": "alex", "vgg16": "vgg"}
_BATCH = 16


def perceptual_distance(weights: Path, backbone: Backbone, compute: Compute) -> PairDistance:
    """Return a function from two sets of slices (N, H, W) in [0, 1] to the LPIPS of each pair (N,).

    Slices are repeated to three channels and seen at their own size. The distance is a mean over the whole slice:
    where both are black they agree, so a distance inside the ventricle is diluted by what surrounds it and is to be
    compared with others of the same slices only.

    Args:
        weights: A safetensors file with `features.<layer>.weight` and `.bias` as torchvision names them.
        backbone: The network whose weights these are.
        compute: What to run on; distances are computed in float32.

    Raises:
        InputError: The file cannot be read or lacks a layer.
    """
    network = load_lpips(weights, backbone).to(compute.device)

    def distance(first: Images, second: Images) -> NDArray[np.float32]:
        starts = range(0, len(first), _BATCH)
        parts = [_measured(network, first[s : s + _BATCH], second[s : s + _BATCH], compute.device) for s in starts]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    return distance


def load_lpips(weights: Path, backbone: Backbone) -> nn.Module:
    """Return torchmetrics' network with the file's convolutions and its own linear layers, on the CPU."""
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{weights}: cannot be read as {backbone} weights ({error}); name a safetensors file with features.* keys"
        ) from error
    network = _LPIPS(net=_NAMES[backbone], pnet_rand=True)
    # torchmetrics cuts the network into slices: slice2.3.weight is torchvision's features.3.weight.
    wanted = {name: "features." + name.partition(".")[2] for name in network.net.state_dict()}
    missing = [name for name in wanted.values() if name not in tensors]
    if missing:
        raise InputError(f"{weights}: lacks {missing[0]} and {len(missing) - 1} more; give the weights of {backbone}")
    try:
        network.net.load_state_dict({own: tensors[name] for own, name in wanted.items()})
    except RuntimeError as error:
        raise InputError(
            f"{weights}: its layers are not those of {backbone}; give the weights of {backbone}"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _measured(network: nn.Module, first: Images, second: Images, device: torch.device) -> NDArray[np.float32]:
    distances: Tensor = network(_as_rgb(first, device), _as_rgb(second, device), normalize=True)
    values: NDArray[np.float32] = distances.flatten().cpu().numpy()
    return values


def _as_rgb(images: Images, device: torch.device) -> Tensor:
    tensor = torch.as_tensor(np.array(images, dtype=np.float32)).to(device)
    return tensor.unsqueeze(1).expand(-1, 3, -1, -1)
