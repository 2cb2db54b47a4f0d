"""One of the processes that `test_distributed.py` starts: the training command with norms that stay as they are.

Each process normalises its own part of a batch, so only with frozen norms are the losses those of one process.
    torchrun --nproc-per-node 2 -m tests.segmentation.training.distributed_training ARGUMENTS… FOLDER…
    [KILLED_FOLDER@STEP]
"""

import sys
from functools import partial

import pytest
import torch
from torch import nn

from segmentation.networks.table import build_network
from segmentation.training import command as train_command
from segmentation.training import loop as train


def with_frozen_norms(config, num_classes):
    network = build_network(config, num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda _=True, module=module: module
    return network


def print_loss(step, metrics, name, kill_at):
    print(f"loss {name} {step} {metrics['loss']!r}", flush=True)
    if step == kill_at:
        sys.exit("killed")


def train_into(folder: str, arguments: list[str]) -> None:
    place, _, kill_at = folder.partition("@")
    report = partial(print_loss, name=place.rpartition("/")[2], kill_at=int(kill_at or 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_network", with_frozen_norms)
        patch.setattr(train_command, "_print_round", report)
        train_command.main([*arguments, "--output", place])


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = sys.argv.index("--")
    for place in sys.argv[count + 1 :]:
        train_into(place, sys.argv[1:count])
