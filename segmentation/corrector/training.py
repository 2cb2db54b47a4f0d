"""Training of a lesion judge on what a segmenter finds in its own training patients.

Those are patients whom the segmenter remembers. So their images are degraded before it segments them (gamma, blur,
contrast, noise), by about as much as its Dice falls from training to validation patients, and what it finds is
corrupted anew at each step: surer or less sure as a whole and from place to place, lesions removed or invented in a
sector, a slice without any.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from common.seeds import derive_seed, random_generator
from imaging.dice import dice
from imaging.labels import Tissue
from imaging.slices.part import PartSlices
from segmentation.corrector.judge import LESIONS, JudgeConfig, LesionJudge, WallNetwork, sureness
from segmentation.corrector.wall import ANGLES, VALID, WallCells, wall_channels
from segmentation.prediction.segmenter import Segmenter

_LOGITS = 2  # the first channels: of infarction and of no-reflow
_LARGEST = 7 / 4


@dataclass(frozen=True, eq=False)
class Example:
    """One patient to learn from.

    Attributes:
        wall: (CHANNELS, S, D, A).
        sureness: (2,).
        cells: (2, S, D, A), the share of each cell that is infarction, and no-reflow.
        present: (2,), 1 where the patient has the lesion.
        dice: (2,), of each lesion as the segmenter draws it.
    """

    wall: NDArray[np.float32]
    sureness: NDArray[np.float32]
    cells: NDArray[np.float32]
    present: NDArray[np.float32]
    dice: NDArray[np.float64]


def example_of(probabilities: NDArray[np.float32], images: NDArray[np.float32], masks: NDArray[np.uint8]) -> Example:
    """Return a study's example: probabilities (S, C, H, W), images and reference masks (S, H, W), slices in order."""
    drawn = probabilities.argmax(axis=1)
    cells = WallCells.of(drawn)
    reference = [masks >= lesion for lesion in LESIONS]
    return Example(
        wall=wall_channels(cells, probabilities, images),
        sureness=sureness(probabilities),
        cells=np.stack([cells.unroll(one.astype(np.float32)) for one in reference]),
        present=np.array([one.any() for one in reference], np.float32),
        dice=np.array([_dice(one, drawn >= lesion) for one, lesion in zip(reference, LESIONS, strict=True)]),
    )


def degraded(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a study's images (S, H, W) with another gamma, blur, contrast and noise, in [0, 1]."""
    blur = rng.uniform(0.3, 1.2)
    changed = ndimage.gaussian_filter(images ** np.exp(rng.uniform(-0.5, 0.5)), (0, blur, blur))
    changed = (changed - changed.mean()) * rng.uniform(0.7, 1.2) + changed.mean()
    noise = rng.normal(0, rng.uniform(0.03, 0.12), images.shape)
    return np.clip(changed + noise, 0, 1).astype(np.float32)


def corrupted(example: Example, rng: np.random.Generator, strength: float) -> Example:
    """Return an example whose segmentation is corrupted, seen from another angle, and mirrored half of the times."""
    wall, valid = example.wall.copy(), example.wall[VALID]
    surer, core_surer = rng.normal(0, 0.7 * strength, _LOGITS)
    sharper = np.exp(rng.normal(0, 0.25 * strength))
    shift = surer + _field(valid.shape, rng) * 2 * strength + _lesion_changes(valid.shape, rng, strength)
    wall[0] = np.clip(wall[0] * sharper + shift * valid / 4, -_LARGEST, _LARGEST)
    wall[1] = np.clip(wall[1] + core_surer * valid / 4, -_LARGEST, _LARGEST)
    wall[2:5] *= np.exp(rng.normal(0, 0.15))  # intensities
    wall[2:4] += rng.normal(0, 0.15) * valid
    turn, side = int(rng.integers(ANGLES)), -1 if rng.random() < 0.5 else 1
    sure = example.sureness * sharper + np.array([surer, core_surer]) / 4
    return replace(
        example,
        wall=np.roll(wall, turn, axis=-1)[..., ::side],
        cells=np.roll(example.cells, turn, axis=-1)[..., ::side],
        sureness=sure.astype(np.float32),
    )


def fit_judge(examples: Sequence[Example], config: JudgeConfig, seed: int) -> LesionJudge:
    """Train a judge on patients; the same examples and seed give the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "judge's weights"))
        network = WallNetwork(config.width)
    average = deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    for step in range(config.steps):
        rng = random_generator(seed, "judge's batch", step)
        rows = rng.permutation(len(examples))[: config.batch]
        loss = _loss(network, [corrupted(examples[row], rng, config.corruption) for row in rows], config)
        optimiser.param_groups[0]["lr"] = config.learning_rate * _share_of_rate(step, config.steps)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        _follow(average, network, config.average_decay if step > config.steps / 3 else 0.8)
    return LesionJudge(average.eval(), _expected_dice(examples))


def train_judge(training: PartSlices, segmenter: Segmenter, config: JudgeConfig, seed: int) -> LesionJudge:
    """Train the judge of one segmenter on the segmenter's training patients.

    Args:
        training: Their slices.
        segmenter: Without flips it takes a quarter of the time, and remembers as much.
        config: The judge's.
        seed: Decides degradation, weights, batches and corruption.
    """
    examples = []
    for number, stack in enumerate(training.stacks()):
        images = training.images[stack.rows].astype(np.float32)
        found = segmenter.probabilities(degraded(images, random_generator(seed, "degraded images", number)))
        examples.append(example_of(found, images, training.masks[stack.rows]))
    return fit_judge(examples, config, seed)


def _field(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a smooth random field (S, D, A), continued around the angle."""
    coarse = rng.normal(0, 1, (shape[0], shape[1] // 2, shape[2] // 8)).repeat(2, axis=1).repeat(8, axis=2)
    return ndimage.gaussian_filter(coarse, (0, 1, 3), mode=("nearest", "nearest", "wrap"))


def _lesion_changes(shape: tuple[int, ...], rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Return logits (S, D, A) by which a lesion is removed or invented in a sector, or missed in one slice."""
    change = np.zeros(shape)
    if rng.random() < 0.35 * strength:
        first, angle, width = rng.integers(shape[0]), rng.integers(ANGLES), rng.integers(6, 24)
        inside = (np.arange(ANGLES) - angle) % ANGLES < width
        change[first : first + rng.integers(1, 3), :, inside] += rng.choice([-6, 6]) * rng.random()
    if rng.random() < 0.15 * strength:
        change[rng.integers(shape[0])] -= 6
    return change


def _loss(network: WallNetwork, examples: Sequence[Example], config: JudgeConfig) -> Tensor:
    wall, cells = (_padded([getattr(one, name) for one in examples]) for name in ("wall", "cells"))
    sure = torch.from_numpy(np.stack([one.sureness for one in examples]))
    present = torch.from_numpy(np.stack([one.present for one in examples]))
    of_cells, of_patients = network(wall, sure)
    valid, infarction = wall[:, VALID], cells[:, 0]
    within = (cells[:, 1] / infarction.clamp_min(1e-3)).clamp(0, 1)
    return (
        _mean_entropy(of_cells[:, 0], infarction, valid)
        + _mean_entropy(of_cells[:, 1], within, valid * infarction)
        + config.patients_weight * nn.functional.binary_cross_entropy_with_logits(of_patients, present)
    )


def _mean_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    total = nn.functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    return total / weight.sum().clamp_min(1)


def _padded(stacks: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return stacks (C, S, D, A) of several heights as one batch (N, C, S, D, A); slices that one lacks are 0."""
    most = max(one.shape[1] for one in stacks)
    filled = [np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0), (0, 0))) for one in stacks]
    return torch.from_numpy(np.stack(filled).astype(np.float32))


def _share_of_rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 20)
    return float(warm * (0.51 + 0.5 * np.cos(np.pi * step / steps)))


def _follow(average: WallNetwork, network: WallNetwork, decay: float) -> None:
    with torch.no_grad():
        for mean, own in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(own, 1 - decay)


def _dice(reference: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> float:
    return float(dice(np.count_nonzero(reference & drawn), np.count_nonzero(reference), np.count_nonzero(drawn)))


def _expected_dice(examples: Sequence[Example]) -> dict[Tissue, float]:
    """Return each lesion's mean Dice in the patients who have it; one half where nobody has."""
    found = {}
    for number, lesion in enumerate(LESIONS):
        having = [one.dice[number] for one in examples if one.present[number]]
        found[lesion] = float(np.mean(having)) if having else 0.5
    return found
