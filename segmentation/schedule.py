"""The learning rate and the optimiser."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from segmentation.config import TrainConfig
from segmentation.muon import Muon, is_matrix

PLATEAU_ROUNDS = 5  # source B: a tenth after five stale epochs
_PLATEAU_FACTOR = 0.1


def learning_rate_at(config: TrainConfig, step: int, scores: Sequence[float] = ()) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then cosine fall, plateaus or constant.

    Args:
        config: Schedule, peak, warm-up and last share.
        step: Counted from 0.
        scores: Validation score of each round so far, by which `plateau` falls. A checkpoint keeps them, so that a
            resumed training has the rates of an uninterrupted one.
    """
    warmup = round(config.warmup_share * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    last = config.final_learning_rate_share
    if config.schedule == "plateau":
        return config.learning_rate * max(_PLATEAU_FACTOR ** count_plateaus(scores), last)
    progress = (step - warmup) / max(config.steps - warmup, 1)
    return config.learning_rate * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)


def count_plateaus(scores: Sequence[float], rounds: int = PLATEAU_ROUNDS) -> int:
    """Return how many times `rounds` scores in succession have stayed at or below the best before them."""
    best, stale, plateaus = -math.inf, 0, 0
    for score in scores:
        best, stale = (score, 0) if score > best else (best, stale + 1)
        if stale == rounds:
            stale, plateaus = 0, plateaus + 1
    return plateaus


def build_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimiser; it decays convolution weights and leaves biases and norms alone."""
    takes_muon = is_matrix if config.optimiser == "muon" else lambda _: False
    orthogonal = [p for p in network.parameters() if takes_muon(p)]
    rest = [p for p in network.parameters() if not takes_muon(p)]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    return Muon(orthogonal, groups, config.learning_rate, config.weight_decay)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
