"""The learning rate and the optimiser."""

import math

import torch
from torch import nn

from segmentation.config import TrainConfig


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then cosine fall or constant."""
    warmup = round(config.warmup_share * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(config.steps - warmup, 1)
    last = config.final_learning_rate_share
    return config.learning_rate * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)


def build_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return fused AdamW that decays convolution weights and leaves biases and norms alone."""
    parameters = list(network.parameters())
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    free = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
