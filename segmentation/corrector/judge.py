"""Is there a lesion at all: a probability a patient of infarct and of no-reflow, from the unrolled wall of the stack.

A small three-dimensional network reads what a segmenter found (`wall`) and gives two probabilities a study, and on the
way what share of each cell is infarct and no-reflow, which it learns beside them. What falls below its limit is left
out: no-reflow becomes infarct, infarct becomes normal myocardium.

The limit needs no constant. Drawing a lesion that is there earns its Dice d in the official score, leaving out one that
is not there earns 1; so it is drawn where its probability p is so large that p d > 1 - p. How large d is, the training
patients tell.

What does not live here: how it is trained (`segmentation.corrector.training`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.config import FrozenConfig
from common.errors import InputError, one_line
from common.files import write_atomically, write_json
from imaging.labels import Tissue
from segmentation.corrector.wall import CHANNELS, VALID, WallCells, logit, wall_channels

LESIONS = (Tissue.INFARCT, Tissue.NO_REFLOW)
_AREA_PX = (200, 60)  # most probable pixels of each lesion, whose mean probability is known beside the wall
_DILATIONS = (1, 2, 4)  # in the angle


class JudgeConfig(FrozenConfig):
    """The network and its training.

    Attributes:
        width: Channels.
        steps: Optimiser steps.
        batch: Patients a step.
        learning_rate: Largest; it falls as a cosine.
        average_decay: Decay a step of the moving average of the weights, which is what is kept.
        patients_weight: Weight of the patients' probabilities in the loss, beside 1 of the cells'.
        corruption: How far segmentations are corrupted; 0 leaves them as they are.
    """

    width: PositiveInt = 16
    steps: PositiveInt = 160
    batch: PositiveInt = 8
    learning_rate: float = Field(3e-3, gt=0)
    average_decay: float = Field(0.98, ge=0, lt=1)
    patients_weight: float = Field(0.5, gt=0)
    corruption: float = Field(0.4, ge=0)


class WallNetwork(nn.Module):
    """Three residual blocks of a convolution in the wall (depth, angle) and one through the slices.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(CHANNELS, width, 1)
        self.within = nn.ModuleList(nn.Conv3d(width, width, (1, 3, 3), dilation=(1, 1, wide)) for wide in _DILATIONS)
        self.through = nn.ModuleList(nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)) for _ in _DILATIONS)
        self.cells = nn.Conv3d(width, len(LESIONS), 1)
        self.patients = nn.Linear(2 * width + len(LESIONS), len(LESIONS))

    def forward(self, wall: Tensor, sureness: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the cells (N, 2, S, D, A) and of the patients (N, 2).

        Args:
            wall: (N, CHANNELS, S, D, A) of `wall_channels`; slices that a shorter stack lacks are 0.
            sureness: (N, 2) of `sureness`.
        """
        valid = wall[:, VALID : VALID + 1]
        found = torch.relu(self.first(wall))
        for within, through, wide in zip(self.within, self.through, _DILATIONS, strict=True):
            inside = torch.relu(within(_wrapped(found, wide))) * valid
            found = found + torch.relu(through(inside))
        found = found * valid
        mean = found.sum((2, 3, 4)) / valid.sum((2, 3, 4)).clamp_min(1)
        return self.cells(found), self.patients(torch.cat([mean, found.amax((2, 3, 4)), sureness], dim=1))


def _wrapped(wall: Tensor, wide: int) -> Tensor:
    """Return a wall (N, C, S, D, A) continued around the angle, and repeated beyond both of its borders."""
    around = nn.functional.pad(wall, (wide, wide, 0, 0, 0, 0), mode="circular")
    return torch.cat([around[:, :, :, :1], around, around[:, :, :, -1:]], dim=3)


def sureness(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how sure a segmenter is of each lesion (2,): the logit of its most probable area, a quarter of it.

    Args:
        probabilities: (S, C, H, W) of one study.
    """
    means = [
        np.sort(probabilities[:, tissue:].sum(axis=1), axis=None)[-area:].mean()
        for tissue, area in zip(LESIONS, _AREA_PX, strict=True)
    ]
    return (logit(np.array(means)) / 4).astype(np.float32)


@dataclass(frozen=True)
class Verdict:
    """Probability of a lesion in one study, and whether that is enough to draw it."""

    probability: float
    drawn: bool


@dataclass(frozen=True, eq=False)
class LesionJudge:
    """A trained network and what each lesion's drawing earns.

    Attributes:
        network: In evaluation mode.
        expected_dice: Of each lesion in patients who have it, as drawn.
    """

    network: WallNetwork
    expected_dice: Mapping[Tissue, float]

    def limit(self, lesion: Tissue) -> float:
        """Return the probability from which on drawing a lesion earns more than leaving it out."""
        return 1 / (1 + self.expected_dice[lesion])

    def verdicts(self, probabilities: NDArray[np.float32], images: NDArray[np.float32]) -> dict[Tissue, Verdict]:
        """Judge one study: probabilities (S, C, H, W) and images (S, H, W) in [0, 1], slices in order.

        No-reflow is drawn within a drawn infarct alone.
        """
        cells = WallCells.of(probabilities.argmax(axis=1))
        wall = torch.from_numpy(wall_channels(cells, probabilities, images))[None]
        with torch.inference_mode():
            logits = self.network(wall, torch.from_numpy(sureness(probabilities))[None])[1][0]
        infarct, core = (float(one) for one in logits.sigmoid())
        drawn = infarct >= self.limit(Tissue.INFARCT)
        return {
            Tissue.INFARCT: Verdict(infarct, drawn),
            Tissue.NO_REFLOW: Verdict(core, drawn and core >= self.limit(Tissue.NO_REFLOW)),
        }


def as_judged(masks: NDArray[np.uint8], verdicts: Mapping[Tissue, Verdict]) -> NDArray[np.uint8]:
    """Return a study's label maps (S, H, W) without the lesions that are not to be drawn."""
    if not verdicts[Tissue.INFARCT].drawn:
        return np.where(masks >= Tissue.INFARCT, Tissue.NORMAL_MYOCARDIUM, masks).astype(np.uint8)
    if not verdicts[Tissue.NO_REFLOW].drawn:
        return np.where(masks == Tissue.NO_REFLOW, Tissue.INFARCT, masks).astype(np.uint8)
    return masks


class _Said(FrozenConfig):
    """What stands beside the weights."""

    width: PositiveInt
    expected_dice: dict[str, float]


def write_judge(folder: Path, judge: LesionJudge) -> None:
    """Write `weights.safetensors` and then `judge.json`, which says what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "weights.safetensors", lambda part: save_file(judge.network.state_dict(), part))
    expected = {lesion.name.lower(): value for lesion, value in judge.expected_dice.items()}
    write_json(folder / "judge.json", {"width": judge.network.first.out_channels, "expected_dice": expected})


def read_judge(folder: Path) -> LesionJudge:
    """Read a folder that `write_judge` wrote.

    Raises:
        InputError: It is absent or damaged.
    """
    try:
        said = _Said.model_validate_json((folder / "judge.json").read_text(encoding="utf-8"))
        network = WallNetwork(said.width)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        expected = {lesion: said.expected_dice[lesion.name.lower()] for lesion in LESIONS}
    except (OSError, ValidationError, SafetensorError, RuntimeError, KeyError) as error:
        raise InputError(f"{folder}: is not a readable judge of lesions ({one_line(error)}); train it again") from error
    return LesionJudge(network.eval(), expected)
