"""Training slices a second: the project's loop against a plain PyTorch loop with the same network and batch.

The plain loop is the one of most tutorials: fp32, NCHW, AdamW, a `DataLoader` over one `.npy` file a slice. Both
train on the same generated slices, with the same loss and without augmentation, in turns and in processes of their own,
so that both see the same machine; the ratio of the best turns is printed.

    python -m benchmarks.training --network attention_res_unet --widths 16,32,64,128,128 --bottleneck 128
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import in_own_process
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from runtime.compute import choose_compute, keep_freed_memory
from runtime.model_card import ModelCard
from segmentation.networks.blocks import count_parameters
from segmentation.networks.table import build_network
from segmentation.training.config import TrainConfig
from segmentation.training.loop import train_segmenter
from segmentation.training.losses import cross_entropy_dice
from tests.segmentation.toy_slices import write_store


class SliceFiles(Dataset[tuple[Tensor, Tensor]]):
    """One `.npy` file a slice: image and mask stacked."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.npy"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = np.load(self._paths[index])
        return torch.from_numpy(image).float().unsqueeze(0), torch.from_numpy(mask).long()


def main() -> None:
    """Measure and print."""
    options = _parse()
    config = _config(options)
    images, masks = _slices(options.slices, options.size)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "slices.h5"
        write_store(store, images, masks)
        files = _write_files(Path(folder) / "slices", images, masks)
        parameters = count_parameters(build_network(config.network))
        print(
            f"{config.network.name}, {parameters / 1e6:.2f} M parameters, batch {options.batch}, "
            f"{options.size} × {options.size}, {choose_compute().description}"
        )
        ours, plain = [], []
        for turn in range(options.turns):
            ours.append(in_own_process(_our_speed, store, config, Path(folder) / f"model_{turn}"))
            plain.append(in_own_process(_plain_speed, files, config, options.workers))
            print(f"turn {turn + 1}: ours {ours[-1]:.1f}, plain {plain[-1]:.1f} slices/s")
    print(f"best: ours {max(ours):.1f}, plain {max(plain):.1f} slices/s, ratio {max(ours) / max(plain):.2f}")


def _our_speed(path: Path, config: TrainConfig, folder: Path) -> float:
    return _our_last_round(path, config, folder)["images_per_second"]


def _our_last_round(path: Path, config: TrainConfig, folder: Path) -> Mapping[str, float]:
    """Train as the project's processes do, in two rounds, of which the first warms up; return the second's metrics."""
    keep_freed_memory()
    rounds: list[Mapping[str, float]] = []
    store = SliceStore.open(path)
    one = PartSlices.of(store, np.array([0]))
    train_segmenter(store, one, config, choose_compute(), folder, 0, lambda _, found: rounds.append(found), ModelCard())
    return rounds[-1]


def _plain_speed(folder: Path, config: TrainConfig, workers: int) -> float:
    """Train as many steps in fp32 with a data loader; the first half warms up, the second counts."""
    torch.manual_seed(0)
    device = choose_compute().device
    network = build_network(config.network).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    batches = _endless(DataLoader(SliceFiles(folder), config.batch, shuffle=True, num_workers=workers))
    for step in range(config.steps):
        if step == config.steps // 2:
            _wait(device)
            start = time.perf_counter()
        image, mask = next(batches)
        _plain_step(network, optimiser, image.to(device), mask.to(device))
    _wait(device)
    return (config.steps - config.steps // 2) * config.batch / (time.perf_counter() - start)


def _plain_step(network: nn.Module, optimiser: torch.optim.Optimizer, image: Tensor, mask: Tensor) -> None:
    output = network(image)
    loss = cross_entropy_dice(output.logits, mask)
    if output.auxiliary is not None:
        loss = loss + 0.4 * cross_entropy_dice(output.auxiliary, mask)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    loss.item()


def _endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _slices(count: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    masks = np.zeros((count, size, size), np.uint8)
    masks[:, size // 4 : size // 2, size // 4 : size // 2] = rng.integers(1, 5, (count, 1, 1))
    return np.clip(masks / 5 + rng.normal(0, 0.1, masks.shape), 0, 1).astype(np.float32), masks


def _write_files(folder: Path, images: NDArray[np.float32], masks: NDArray[np.uint8]) -> Path:
    folder.mkdir()
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        np.save(folder / f"{number:05}.npy", np.stack([image, mask.astype(np.float32)]))
    return folder


def _config(options: argparse.Namespace) -> TrainConfig:
    network: dict[str, object] = {"name": options.network}
    if options.widths:
        network |= {"widths": tuple(map(int, options.widths.split(","))), "bottleneck": options.bottleneck}
    if options.module_width:
        network["module_width"] = options.module_width
    return TrainConfig.model_validate(
        {
            "network": network,
            "steps": 2 * options.steps,
            "validate_every": options.steps,
            "batch": options.batch,
            "augmentation": None,
            "balanced_sampling": None,
            "compiled": options.compiled,
        }
    )


def _parse() -> argparse.Namespace:
    parser = network_options(__doc__)
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    return parser.parse_args()


def network_options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that benchmarks of training a network share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="attention_res_unet")
    parser.add_argument("--widths", default="", help="such as 16,32,64,128,128; the published ones if absent")
    parser.add_argument("--bottleneck", type=int, default=128)
    parser.add_argument("--module-width", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=320)
    parser.add_argument("--steps", type=int, default=10, help="steps that warm up, and as many that count")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="train ours with torch.compile")
    return parser


if __name__ == "__main__":
    main()
