"""How good synthetic slices are: fidelity to the paired real slice, realism, and adherence to the mask.

All images are (N, H, W) in [0, 1]. What does not live here: any feature extractor or segmenter; both come in
as functions, and their names are written beside every figure that depends on them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gan.frechet import frechet_distance
from gan.losses import structural_similarity
from imaging.labels import LabelSet
from imaging.seeds import random_generator
from imaging.slice_store import SliceStore

Images = NDArray[np.floating]
Features = Callable[[Images], NDArray[np.floating]]
Segment = Callable[[Images], NDArray[np.uint8]]

COLUMNS = ("measure", "region", "subject", "value", "images", "features")
_ROWS = 64


@dataclass(frozen=True)
class PairedSlices:
    """Images (N, H, W) in [0, 1] and their masks (N, H, W)."""

    images: Images
    masks: NDArray[np.uint8]

    def take(self, count: int, seed: int, purpose: str) -> "PairedSlices":
        """Return at most `count` slices, drawn without repetition and kept in order."""
        if count >= len(self.masks):
            return self
        rows = np.sort(
            random_generator(seed, purpose).choice(len(self.masks), size=count, replace=False, shuffle=False)
        )
        return PairedSlices(self.images[rows], self.masks[rows])


@dataclass(frozen=True)
class QualityReport:
    """All figures in one table.

    Attributes:
        table: `measure` (`frechet`, `ssim`, `psnr`, `adherence/<tissue>`), `region` (`whole`, `ventricle`),
            `subject` (`pix2pix`: validation slices drawn again; `mean_paint`: the yardstick on the same
            slices; `synthetic`: the synthetic store; `real`), `value`, `images` (how many), `features` (name
            of the extractor or "").
    """

    table: pd.DataFrame

    def value(self, measure: str, region: str, subject: str) -> float:
        """Return one figure; KeyError if the table does not hold it."""
        rows = self.table.query("measure == @measure and region == @region and subject == @subject")
        if rows.empty:
            raise KeyError((measure, region, subject))
        return float(rows["value"].iloc[0])

    def yardsticks(self) -> pd.DataFrame:
        """Return what decides against mean paint: `measure`, `region`, `pix2pix`, `mean_paint`, `better`."""
        rows = []
        for measure, region, sign in (
            ("frechet", "whole", -1),
            ("frechet", "ventricle", -1),
            ("ssim", "ventricle", 1),
        ):
            drawn, painted = (self.value(measure, region, subject) for subject in ("pix2pix", "mean_paint"))
            rows.append((measure, region, drawn, painted, sign * (drawn - painted) > 0))
        return pd.DataFrame(rows, columns=["measure", "region", "pix2pix", "mean_paint", "better"])


def assess_quality(
    synthetic: SliceStore,
    training: PairedSlices,
    validation: PairedSlices,
    redrawn: Images,
    mean_painted: Images,
    features: Features,
    features_name: str,
    segment: Segment,
    seed: int = 0,
    most_images: int = 1000,
) -> QualityReport:
    """Measure pix2pix beside mean paint and real slices.

    Args:
        synthetic: Slices drawn from simulated masks.
        training: Real slices of training patients.
        validation: Real slices of validation patients, which nothing was trained on.
        redrawn: (N, H, W) the validation slices drawn again by pix2pix.
        mean_painted: (N, H, W) the validation slices painted by the yardstick.
        features: Images (N, H, W) to vectors (N, D).
        features_name: Which features these are, for the report.
        segment: Images (N, H, W) to masks (N, H, W), trained on real slices only.
        seed: Seed of the choice of slices where there are more than `most_images`.
        most_images: At most so many slices go into each set.
    """
    generated = _some_rows(synthetic, most_images, seed)
    training = training.take(most_images, seed, "quality training slices")
    masks, labels = validation.masks, synthetic.label_set
    subjects = {"pix2pix": redrawn, "mean_paint": mean_painted}
    rows = [row for name, images in subjects.items() for row in _fidelity(name, images, validation.images, masks)]
    rows += _realism(subjects, generated, training, validation, features, features_name)
    for name, pairs in {
        "pix2pix": PairedSlices(redrawn, masks),
        "mean_paint": PairedSlices(mean_painted, masks),
        "real": validation,
        "synthetic": generated,
    }.items():
        rows += _adherence(name, pairs, segment, labels)
    return QualityReport(pd.DataFrame(rows, columns=list(COLUMNS)))


def peak_signal_to_noise(images: Images, real: Images, region: NDArray[np.bool_] | None = None) -> float:
    """Return the PSNR in dB of images in [0, 1] over all pixels of the region; inf where they are equal."""
    squared = np.square(np.asarray(images, np.float64) - np.asarray(real, np.float64))
    error = squared.mean() if region is None else squared[region].mean()
    return float(np.inf if error == 0 else -10 * np.log10(error))


def structural_similarity_of(images: Images, real: Images, region: NDArray[np.bool_] | None = None) -> float:
    """Return the mean SSIM (Wang et al. 2004): over a slice's pixels in the region, then over the slices."""
    values = []
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        pair = [torch.from_numpy(np.array(part[rows], np.float32)).unsqueeze(1) for part in (images, real)]
        similarity = structural_similarity(*pair)[:, 0].numpy()
        values.append(_mean_by_slice(similarity, None if region is None else region[rows]))
    return float(np.concatenate(values).mean())


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


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Return the Dice of all pixels together; 1 where both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


def inside_ventricle(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the images with everything outside the ventricle black."""
    return np.where(masks > 0, np.asarray(images, np.float32), np.float32(0))


def _fidelity(subject: str, images: Images, real: Images, masks: NDArray[np.uint8]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    regions = {"whole": None, "ventricle": masks > 0}
    for measure, function in (("ssim", structural_similarity_of), ("psnr", peak_signal_to_noise)):
        for name, region in regions.items():
            rows.append((measure, name, subject, function(images, real, region), len(images), ""))
    return rows


def _realism(
    subjects: dict[str, Images],
    generated: PairedSlices,
    training: PairedSlices,
    validation: PairedSlices,
    features: Features,
    features_name: str,
) -> list[tuple[object, ...]]:
    """Fréchet distances: to the validation slices, and of the synthetic store to the training slices."""
    rows: list[tuple[object, ...]] = []
    views: dict[str, Callable[[PairedSlices], Images]] = {
        "whole": lambda pairs: pairs.images,
        "ventricle": lambda pairs: inside_ventricle(pairs.images, pairs.masks),
    }
    for region, view in views.items():
        real, trained = features(view(validation)), features(view(training))
        for subject, images in subjects.items():
            value = frechet_distance(features(view(PairedSlices(images, validation.masks))), real)
            rows.append(("frechet", region, subject, value, len(images), features_name))
        rows.append(("frechet", region, "real", frechet_distance(trained, real), len(validation.masks), features_name))
        value = frechet_distance(features(view(generated)), trained)
        rows.append(("frechet", region, "synthetic", value, len(generated.masks), features_name))
    return rows


def _adherence(subject: str, pairs: PairedSlices, segment: Segment, labels: LabelSet) -> list[tuple[object, ...]]:
    """Dice of each tissue between the mask and what a segmenter finds; a tissue absent from both has none."""
    found = segment(pairs.images)
    rows: list[tuple[object, ...]] = []
    for value, tissue in labels.foreground:
        reference, prediction = pairs.masks == value, found == value
        if reference.any() or prediction.any():
            score = dice(reference, prediction)
            rows.append((f"adherence/{tissue}", "ventricle", subject, score, len(pairs.masks), ""))
    return rows


def _mean_by_slice(values: NDArray[np.float32], region: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    if region is None:
        return values.mean(axis=(1, 2), dtype=np.float64)
    pixels = region.sum(axis=(1, 2))
    sums = np.where(region, values, 0).sum(axis=(1, 2), dtype=np.float64)
    return sums[pixels > 0] / pixels[pixels > 0]


def _some_rows(store: SliceStore, count: int, seed: int) -> PairedSlices:
    rows = np.arange(len(store))
    if count < len(rows):
        rows = np.sort(random_generator(seed, "quality synthetic slices").choice(rows, count, replace=False))
    return PairedSlices(store.images(rows), store.masks(rows))
