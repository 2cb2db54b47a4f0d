"""Operations and bytes of a training step of the paper profile, counted without a GPU, against one GPU's rates.

Networks run forward and backward on PyTorch's `meta` device in bf16. Bytes are what every operator reads and writes,
as unfused kernels do that find nothing in a cache; the optimiser, the averaged weights and the losses are left out.

    python -m benchmarks.step_on_paper
"""

import argparse
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from engine.settings import load_settings
from gan.generation.synthesiser import discriminator_channels, generator_channels
from gan.networks.discriminator import Discriminator
from gan.networks.generator import Generator
from gan.training.config import Pix2PixConfig
from imaging.labels import EMIDEC_LABELS
from segmentation.networks.table import NETWORKS, build_network
from segmentation.training.config import TrainConfig

_H200_BYTES_A_SECOND = 4.8e12  # NVIDIA's data sheet
_START_S = 5e-6  # of a kernel from PyTorch's eager mode, order of magnitude


class _Traffic(TorchDispatchMode):
    """Adds up what the operators read and write, and how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.kernels = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # as PyTorch has it
        found = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in str(func):
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor))
            self.kernels += 1
        return found


def main() -> None:
    """Print a table, a row a training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=790e12, help="operations a second of large products in bf16")
    rate = parser.parse_args().rate
    settings = load_settings("paper")
    side = settings.region.size_px
    steps = {name: segmenter_step(settings.network(name), side) for name in NETWORKS}
    steps |= {"pix2pix": pix2pix_step(settings.pix2pix, side)}
    print(pd.DataFrame([_row(name, step, rate) for name, step in steps.items()]).to_string(index=False))


def _row(name: str, step: Callable[[], None], rate: float) -> dict[str, object]:
    counter, traffic = FlopCounterMode(display=False), _Traffic()
    with counter, traffic:
        step()
    operations = counter.get_total_flops()
    by = {"operations": operations / rate, "memory": traffic.bytes / _H200_BYTES_A_SECOND}
    by["starts"] = traffic.kernels * _START_S
    return {
        "training": name,
        "TFLOP": round(operations / 1e12, 2),
        "GB": round(traffic.bytes / 1e9, 1),
        "FLOP a byte": round(operations / traffic.bytes),
        "kernels": traffic.kernels,
        **{f"{what}, ms": round(1e3 * seconds, 1) for what, seconds in by.items()},
        "share, %": round(100 * by["operations"] / max(by["operations"] + by["memory"], by["starts"]), 1),
    }


def operations_of(step: Callable[[], None]) -> int:
    """Return the operations of a step on the `meta` device, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def segmenter_step(config: TrainConfig, side: int) -> Callable[[], None]:
    """Return a forward and a backward pass of slices of `side` pixels, or of the windows that are trained on."""
    with torch.device("meta"):
        network = build_network(config.network, EMIDEC_LABELS.num_classes).bfloat16()
        images = torch.zeros(config.batch, 1, config.crop_px or side, config.crop_px or side, dtype=torch.bfloat16)

    def step() -> None:
        output = network(images)
        (output.logits.sum() + (0 if output.auxiliary is None else output.auxiliary.sum())).backward()

    return step


def pix2pix_step(config: Pix2PixConfig, region_px: int) -> Callable[[], None]:
    """Return one step of the generator and one of the discriminators; the small reader is left out."""
    side = config.crop_px or region_px
    given, seen = generator_channels(config, EMIDEC_LABELS), discriminator_channels(config, EMIDEC_LABELS)
    with torch.device("meta"):
        generator, discriminator = Generator(given, config).bfloat16(), Discriminator(seen, config).bfloat16()
        inputs, condition, real = (
            torch.zeros(config.batch, count, side, side, dtype=torch.bfloat16) for count in (given, seen - 1, 1)
        )

    def judged(images: Tensor) -> Tensor:
        count = len(images) // config.batch
        return torch.stack([x.mean() for x in discriminator(condition.repeat(count, 1, 1, 1), images)]).sum()

    def step() -> None:
        drawn = generator(inputs)
        judged(torch.cat([real, drawn.detach()])).backward()
        _freeze(discriminator)
        judged(drawn).backward()

    return step


def _freeze(network: nn.Module) -> None:
    network.requires_grad_(False)


if __name__ == "__main__":
    main()
