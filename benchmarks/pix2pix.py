"""Pix2Pix: training and drawing, the project's engine against a plain implementation of the published network.

The plain one is that of most tutorials: fp32, NCHW, batch 1, the discriminator called once on the real and once on the
drawn slice, slices drawn one by one. Both train the same published generator and discriminator on the same generated
slices, in turns, so that both see the same machine; the ratio of the best turns is printed.

    python -m benchmarks.pix2pix --batch 16
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.training import _slices, _wait
from gan.generation.hole import own_hole
from gan.generation.shades import ShadeBook
from gan.generation.synthesiser import noise_seeds, prepare
from gan.training.batches import ResidentSlices
from gan.training.config import PRESETS, Pix2PixConfig
from gan.training.steps import Players, build_networks
from imaging.labels import EMIDEC_LABELS
from imaging.slices.store import SliceStore
from runtime.compute import Compute, choose_compute
from tests.segmentation.toy_slices import write_store

PLAIN = PRESETS["published"]


def main() -> None:
    """Measure and print."""
    options = _parse()
    config = PRESETS[options.preset].model_copy(update={"batch": options.batch, "perceptual_weight": 0.0})
    compute = choose_compute()
    images, masks = _slices(max(options.draw, 64), 128)
    print(
        f"ours: {options.preset}, batch {options.batch}, {compute.description}; plain: published, batch 1, fp32, NCHW"
    )
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "slices.h5", images, masks)
        turns = [_turn(store, config, compute, options, images, masks) for _ in range(options.turns)]
    for name, pairs in zip(("training", "drawing"), zip(*turns, strict=True), strict=True):
        ours, plain = (max(speeds) for speeds in zip(*pairs, strict=True))
        print(f"{name}: best of ours {ours:.2f}, of plain {plain:.2f} images/s, ratio {ours / plain:.2f}")


def _turn(
    store: SliceStore,
    config: Pix2PixConfig,
    compute: Compute,
    options: argparse.Namespace,
    images: NDArray[np.float32],
    masks: NDArray[np.uint8],
) -> tuple[tuple[float, float], tuple[float, float]]:
    training = _our_training(store, config, compute, options.steps), _plain_training(images, masks, options.steps)
    drawing = (
        _our_drawing(images[: options.draw], masks[: options.draw], config, compute),
        _plain_drawing(masks[: options.draw], compute),
    )
    print(f"  training {training[0]:.2f} : {training[1]:.2f}, drawing {drawing[0]:.2f} : {drawing[1]:.2f} images/s")
    return training, drawing


def _our_training(store: SliceStore, config: Pix2PixConfig, compute: Compute, steps: int) -> float:
    players = Players(ResidentSlices.load(store, config, compute), compute, seed=0)
    steps = max(2, steps // config.batch)
    return config.batch * _rate(lambda step: players.take_step(step + 1), steps, compute)


def _plain_training(images: NDArray[np.float32], masks: NDArray[np.uint8], steps: int) -> float:
    compute = choose_compute()
    generator, discriminator = (
        network.to(compute.device).train() for network in build_networks(PLAIN, EMIDEC_LABELS, 0)
    )
    optimisers = [
        torch.optim.Adam(network.parameters(), lr=PLAIN.learning_rate, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    ]
    weights = torch.tensor([PLAIN.tissue_weights[tissue] for tissue in EMIDEC_LABELS.tissues], device=compute.device)

    def step(number: int) -> None:
        row = number % len(images)
        mask = torch.from_numpy(masks[row]).long().to(compute.device)[None, None]
        real = torch.from_numpy(images[row]).to(compute.device)[None, None] * 2 - 1
        labels = mask.float()
        drawn = generator(labels)
        on_real, on_drawn = discriminator(labels, real)[0], discriminator(labels, drawn.detach())[0]
        _descend(optimisers[1], 0.5 * (_bce(on_real, 1) + _bce(on_drawn, 0)))
        l1 = (weights[mask] * (drawn - real).abs()).mean()
        _descend(optimisers[0], _bce(discriminator(labels, drawn)[0], 1) + PLAIN.l1_weight * l1)

    return _rate(step, max(4, steps // 4), compute)


def _bce(logits: Tensor, wanted: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    loss.item()


def _our_drawing(
    images: NDArray[np.float32], masks: NDArray[np.uint8], config: Pix2PixConfig, compute: Compute
) -> float:
    generator, _ = build_networks(config, EMIDEC_LABELS, 0)
    holes, seeds = own_hole(masks, config.paint, config.hole_margin_px), noise_seeds(0, "benchmark", range(len(masks)))
    book = ShadeBook.of(images, masks, holes, EMIDEC_LABELS.num_classes) if config.shades else None
    synthesiser = prepare(generator, config, EMIDEC_LABELS, compute, book)
    return len(masks) * _rate(lambda _: synthesiser.draw(masks, images, holes, seeds), 2, compute)


@torch.inference_mode()
def _plain_drawing(masks: NDArray[np.uint8], compute: Compute) -> float:
    generator = build_networks(PLAIN, EMIDEC_LABELS, 0)[0].to(compute.device).eval()

    def draw(number: int) -> None:
        mask = torch.from_numpy(masks[number % len(masks)]).float().to(compute.device)[None, None]
        generator(mask).cpu().numpy()

    return _rate(draw, min(16, len(masks)), compute)


def _rate(step: Callable[[int], object], steps: int, compute: Compute) -> float:
    """Return steps a second; one step before the clock starts warms up."""
    step(0)
    _wait(compute.device)
    start = time.perf_counter()
    for number in range(1, steps + 1):
        step(number)
    _wait(compute.device)
    return steps / (time.perf_counter() - start)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="published", help="of ours; the plain one is always the published")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64, help="images that ours trains on in a turn")
    parser.add_argument("--draw", type=int, default=64, help="slices that are drawn")
    parser.add_argument("--turns", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
