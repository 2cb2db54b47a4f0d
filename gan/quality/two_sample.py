"""Whether a small network tells synthetic from real slices: a classifier two-sample test (Lopez-Paz & Oquab 2017).

Distances of features see what their network was trained for, and a mean over it; a classifier looks for whatever gives
a drawing away. It is shown pairs, a synthetic and a real window, of which only that is seen which was painted in the
one and bears the same tissue in the other, so that neither the size, the place nor the shape of a lesion tells them
apart, but its looks alone. The pixels of both are the stores' own: windows are cut, mirrored and turned by right
angles, never resampled.

It is taught on training patients: synthetic slices, whose hearts are theirs, and their real slices. It is judged on
validation patients: their real slices, and the same slices drawn again, so that each pair is one heart under one mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from common.seeds import derive_seed, random_generator
from gan.generation.hole import own_hole
from gan.quality.table import Row, over_halves
from gan.training.config import Paint
from imaging.labels import Tissue
from imaging.slices.part import PartSlices

Holes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SIZE_PX = 64
_MARGIN_PX = 2  # of a redrawn ventricle's hole
_TISSUES = tuple(Tissue)
_LESION_WEIGHT = 4.0  # of a pixel of lesion over one of wall or blood, when a real partner is chosen
_PARTNERS = 8  # the best, of which one is drawn
_FEWEST_PX = 40  # that both show, below which a pair is left out
_FEWEST_PAIRS = 8
_AROUND_PX = 3.0  # deviation of the Gaussian within which a pattern is told from its surroundings
_PATTERN_GAIN = 2.0
_CHANNELS = 2 + len(_TISSUES)
_NAME = "two-sample classifier"
_WIDTHS = (24, 32, 48, 48)
STEPS, _PAIRS_A_STEP = 160, 16
_LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 2e-3, 1e-2, 0.2
_GAIN, _OFFSET = 0.1, 0.1  # by which a window's brightness is varied at most, synthetic and real alike


@dataclass(frozen=True)
class Windows:
    """Windows around ventricles.

    Attributes:
        images: (N, 64, 64) brightness, the ventricle of mean 0 and deviation 1.
        labels: (N, 64, 64) tissues.
        holes: (N, 64, 64) 1 where something was painted; of real slices 1 everywhere.
        cases: (N,) the patients.
    """

    images: Floats
    labels: NDArray[np.uint8]
    holes: Holes
    cases: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.cases)

    def at(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Windows":
        """Return some of them."""
        return Windows(self.images[rows], self.labels[rows], self.holes[rows], self.cases[rows])


@dataclass(frozen=True)
class Pairs:
    """What the network sees of pairs: channels (N, 2 + tissues, 64, 64) of either, and the synthetic one's patient."""

    synthetic: Floats
    real: Floats
    cases: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.cases)


def two_sample_test(
    synthetic: PartSlices,
    holes: Holes | None,
    training: PartSlices,
    redrawn: PartSlices,
    validation: PartSlices,
    seed: int,
    steps: int = STEPS,
) -> list[Row]:
    """Return how well the network tells redrawn validation slices from real ones, as the area under the ROC.

    0.5 is a coin's, 1 certainty.

    Args:
        synthetic: Synthetic slices, in training patients' hearts.
        holes: (N, H, W) where they were painted; None where all of the ventricle was.
        training: Real slices of training patients.
        redrawn: Validation slices drawn again.
        validation: The same slices as they are.
        seed: Decides everything.
        steps: Of the optimiser.

    Returns:
        One row `auc`; none where there are too few slices to pair.
    """
    paint: Paint = "ventricle" if holes is None else "lesion"
    painted = own_hole(synthetic.masks, "ventricle", _MARGIN_PX) if holes is None else holes
    teaching = pair_up(cut_windows(synthetic, painted), cut_windows(training, np.ones_like(training.masks)), seed)
    again = own_hole(validation.masks, paint, _MARGIN_PX)
    judging = pair_alike(cut_windows(redrawn, again), cut_windows(validation, again))
    if min(len(teaching), len(judging)) < _FEWEST_PAIRS:
        return []
    network = teach(teaching, seed, steps)
    scores = suspicion(network, judging.synthetic), suspicion(network, judging.real)
    figure = over_halves(lambda rows: area_under_curve(scores[0][rows], scores[1][rows]), seed, judging.cases)
    region = "ventricle" if holes is None else "hole"
    return [Row("auc", region, "pix2pix", figure, len(judging), len(teaching), _NAME)]


def cut_windows(slices: PartSlices, holes: Holes) -> Windows:
    """Cut a window around the ventricle of each slice that shows one and has a hole."""
    rows = np.flatnonzero((slices.masks > 0).any(axis=(1, 2)) & (holes > 0).any(axis=(1, 2)))
    half = _SIZE_PX // 2
    cut = []
    for row in rows:
        middle = [round(float(places.mean())) for places in np.nonzero(slices.masks[row])]
        box = tuple(slice(place, place + _SIZE_PX) for place in middle)
        parts = (_evened(slices.images[row], slices.masks[row]), slices.masks[row], holes[row])
        cut.append([np.pad(part, half)[box] for part in parts])
    images, labels, seen = (np.stack([c[i] for c in cut]) if cut else np.zeros((0, 64, 64)) for i in range(3))
    return Windows(images.astype(np.float32), labels.astype(np.uint8), seen.astype(np.uint8), slices.case_ids[rows])


def _evened(image: NDArray[np.floating], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image (H, W) of which the ventricle has mean 0 and deviation 1: dose and vendor tell nothing."""
    inside = image[mask > 0].astype(np.float32)
    return np.asarray((image - inside.mean()) / max(float(inside.std()), 1e-3), np.float32)


def pair_up(drawn: Windows, real: Windows, seed: int) -> Pairs:
    """Give each drawn window a real one, mirrored or turned by right angles, that bears like tissues where it has."""
    if not len(drawn) or not len(real):
        return pair_alike(drawn.at(np.arange(0)), real.at(np.arange(0)))
    partners, turns = _partners(drawn, real, seed)
    chosen = list(zip(partners, turns, strict=True))
    images = np.stack([turn_window(real.images[row], turn) for row, turn in chosen])
    labels = np.stack([turn_window(real.labels[row], turn) for row, turn in chosen])
    return pair_alike(drawn, Windows(images, labels, drawn.holes, real.cases[partners]))


def pair_alike(drawn: Windows, real: Windows) -> Pairs:
    """Pair windows row by row; of both is seen what lies in the drawn one's hole and bears one tissue."""
    seen = (drawn.holes > 0) & (drawn.labels == real.labels)
    kept = np.flatnonzero(seen.sum(axis=(1, 2)) >= _FEWEST_PX)
    ours, theirs = (_channels(part.images[kept], drawn.labels[kept], seen[kept]) for part in (drawn, real))
    return Pairs(ours, theirs, drawn.cases[kept])


def turn_window(window: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """Return a window (H, W) under one of the square's eight symmetries, without touching a pixel's value."""
    turned = np.rot90(window, turn % 4)
    return turned[::-1] if turn >= 4 else turned


def _partners(drawn: Windows, real: Windows, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each drawn window which real one it is paired with (N,), and under which symmetry (N,).

    Agreement is counted at half the resolution.
    """
    turned = np.stack([turn_window(labels, turn) for labels in real.labels for turn in range(8)])
    found = np.zeros((len(drawn), len(turned)), np.float32)
    for tissue in _TISSUES:
        weight = _LESION_WEIGHT if tissue >= Tissue.INFARCT else 0.5 if tissue == Tissue.BACKGROUND else 1.0
        ours = _halved((drawn.labels == tissue) & (drawn.holes > 0))
        found += weight * (ours @ _halved(turned == tissue).T)
    best = np.argsort(-found, axis=1, kind="stable")[:, :_PARTNERS]
    places = random_generator(seed, "two samples: partners").integers(best.shape[1], size=len(best))
    chosen = best[np.arange(len(best)), places]
    return chosen // 8, chosen % 8


def _halved(region: NDArray[np.bool_]) -> Floats:
    return region[:, ::2, ::2].reshape(len(region), -1).astype(np.float32)


def _channels(images: Floats, labels: NDArray[np.uint8], seen: NDArray[np.bool_]) -> Floats:
    """Return what is seen of windows (N, H, W) as channels (N, 2 + tissues, H, W), 0 elsewhere.

    These are the brightness, its pattern (brightness less the mean of what is seen around), and each tissue.
    """
    sums, share = (gaussian_filter(part, (0, _AROUND_PX, _AROUND_PX)) for part in (images * seen, seen * 1.0))
    pattern = images - sums / np.maximum(share, 1e-3)
    parts = [images * seen, _PATTERN_GAIN * pattern * seen, *(seen & (labels == tissue) for tissue in _TISSUES)]
    return np.stack(parts, axis=1).astype(np.float32)


class Classifier(nn.Module):
    """Convolutions to half and a quarter of the size, pooled over what is seen; 45,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = _WIDTHS
        self.stages = nn.Sequential(
            *_stage(_CHANNELS, first, 4, 2, 1),
            *_stage(first, second, 3, 1, 1),
            *_stage(second, third, 3, 2, 1),
            *_stage(third, last, 3, 1, 1),
        )
        self.head = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(2 * last, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logit (N,) that windows (N, C, H, W) are synthetic."""
        features = self.stages(windows)
        seen = F.adaptive_avg_pool2d(windows[:, 2:].sum(dim=1, keepdim=True), features.shape[2:])
        mean = (features * seen).sum(dim=(2, 3)) / seen.sum(dim=(2, 3)).clamp_min(1e-3)
        most = (features * (seen > 0)).amax(dim=(2, 3))
        logits: Tensor = self.head(torch.cat([mean, most], dim=1))[:, 0]
        return logits


def _stage(before: int, after: int, kernel: int, stride: int, padding: int) -> Sequence[nn.Module]:
    return (nn.Conv2d(before, after, kernel, stride, padding), nn.GroupNorm(4, after), nn.ReLU())


def teach(pairs: Pairs, seed: int, steps: int = STEPS) -> Classifier:
    """Train a network to tell the two of each pair apart, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "two samples: weights"))
        network = Classifier()
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
        for step in range(steps):
            windows, truth = _batch(pairs, random_generator(seed, "two samples: batch", step))
            loss = F.binary_cross_entropy_with_logits(network(windows), truth)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network.eval()


def _batch(pairs: Pairs, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs, both of each mirrored or turned alike and both varied in brightness."""
    rows = rng.integers(len(pairs), size=_PAIRS_A_STEP)
    turn = int(rng.integers(8))
    both = np.concatenate([pairs.synthetic[rows], pairs.real[rows]])
    both = np.rot90(both, turn % 4, axes=(2, 3))
    windows = np.ascontiguousarray(both[:, :, ::-1] if turn >= 4 else both)
    gains = rng.uniform(1 - _GAIN, 1 + _GAIN, size=(len(windows), 1, 1))
    offsets = rng.uniform(-_OFFSET, _OFFSET, size=(len(windows), 1, 1))
    seen = windows[:, 2:].sum(axis=1)
    windows[:, 0] = (windows[:, 0] * gains + offsets) * seen
    windows[:, 1] *= gains
    truth = torch.tensor([1.0] * len(rows) + [0.0] * len(rows))
    return torch.from_numpy(windows), truth


@torch.inference_mode()
def suspicion(network: Classifier, windows: Floats) -> Floats:
    """Return how synthetic windows (N, C, H, W) look (N,), the mean logit over the square's eight symmetries."""
    whole = torch.from_numpy(windows)
    total = torch.zeros(len(windows))
    for turn in range(8):
        turned = torch.rot90(whole, turn % 4, dims=(2, 3))
        turned = turned.flip(2) if turn >= 4 else turned
        total += torch.cat([network(part) for part in torch.split(turned, 128)])
    return np.asarray((total / 8).numpy())


def area_under_curve(synthetic: NDArray[np.floating], real: NDArray[np.floating]) -> float:
    """Return how often a synthetic window's score is above a real one's."""
    ranks = rankdata(np.concatenate([synthetic, real]))  # a logit's sigmoid ties where it is sure
    truth = torch.tensor([1] * len(synthetic) + [0] * len(real))
    return float(binary_auroc(torch.from_numpy(ranks / len(ranks)), truth))
