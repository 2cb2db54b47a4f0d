"""Training slices a second of each network against a plain PyTorch loop, MONAI and segmentation_models_pytorch.

All train on the same generated slices with the same batch, in turns and in processes of their own, so that they see
the same machine; the ratios of the best turns are printed. The plain loop trains our network in fp32 and NCHW from a
`DataLoader` over one file a slice. The peers train their own networks, of about as many floating point operations as
ours would have if it built its enlarged maps, as theirs do: MONAI's AttentionUnet as its spleen tutorial does (cached
slices, DiceCELoss, Adam), and segmentation_models_pytorch's Unet as its first example does (files, DiceLoss, Adam).
At last, the share of one of our epochs (with augmentation, validation and checkpoint) that is neither a training step's
forward pass with loss, nor its backward pass, nor the optimiser; and the share if validation's forward passes are
forward passes, too.

    PYTHONPATH=PEERS python -m benchmarks.networks --network halsr_net --widths 16,32,64,128 --bottleneck 128
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training as own
from benchmarks.measuring import in_own_process
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from runtime import operations
from runtime.compute import choose_compute, keep_freed_memory
from segmentation.networks import blocks
from segmentation.networks.blocks import count_parameters
from segmentation.networks.table import build_network
from segmentation.training import loop as train
from segmentation.training.config import TrainConfig
from tests.segmentation.toy_slices import write_store

CLASSES = 5
Build = Callable[[], nn.Module]


def main() -> None:
    """Measure and print."""
    options = _parse()
    config = own._config(options)
    images, masks = own._slices(options.slices, options.size)
    flops = count_flops_as_written(partial(build_network, config.network, CLASSES), options.size)
    peers = {name: build for name in options.peers.split(",") if name for build in [PEERS[name](flops, options.size)]}
    _print_networks({"ours": partial(build_network, config.network, CLASSES), **peers}, options)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "slices.h5"
        write_store(store, images, masks)
        files = own._write_files(Path(folder) / "slices", images, masks)
        speeds: dict[str, list[float]] = {}
        for turn in range(options.turns):
            model = Path(folder) / f"model_{turn}"
            found = {"ours": in_own_process(own._our_speed, store, config, model)}
            found["plain"] = in_own_process(own._plain_speed, files, config, options.workers)
            found |= {name: in_own_process(peer_speed, name, flops, files, options) for name in peers}
            for name, speed in found.items():
                speeds.setdefault(name, []).append(speed)
            print(f"turn {turn + 1}: " + ", ".join(f"{name} {speed:.1f}" for name, speed in found.items()))
        best = {name: max(values) for name, values in speeds.items()}
        for name in list(best)[1:]:
            print(
                f"ours : {name} = {best['ours']:.1f} : {best[name]:.1f} slices/s, ratio {best['ours'] / best[name]:.2f}"
            )
        shares = in_own_process(shares_outside, store, config, Path(folder) / "epoch", options)
    print(
        "outside forward, loss, backward and optimiser: {:.2%} of an epoch, {:.2%} without validation".format(*shares)
    )


def count_flops(build: Build, size: int) -> int:
    """Return the operations of one forward pass of one slice, as PyTorch counts them."""
    with torch.device("meta"):
        network = build().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 1, size, size))
    return counter.get_total_flops()


def count_flops_as_written(build: Build, size: int) -> int:
    """Return the operations of one forward pass of one slice if enlarged maps were built before they are convolved."""

    def build_map(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)

    places = (operations, blocks)
    with (
        patch.object(places[0], "convolve_enlarged", build_map),
        patch.object(places[1], "convolve_enlarged", build_map),
    ):
        return count_flops(build, size)


def nearest(candidates: Iterable[Build], flops: int, size: int) -> Build:
    """Return the candidate whose operations are nearest to `flops`."""
    return min(candidates, key=lambda build: abs(count_flops(build, size) - flops))


def monai_attention_unet(flops: int, size: int) -> Build:
    """Return MONAI's AttentionUnet with the tutorial's five levels, as wide as the operations ask for."""
    from monai.networks.nets import AttentionUnet

    def of_width(width: int) -> nn.Module:
        channels = tuple(width * 2**level for level in range(5))
        return AttentionUnet(2, 1, CLASSES, channels=channels, strides=(2, 2, 2, 2))

    return nearest([partial(of_width, width) for width in range(4, 100, 4)], flops, size)


def smp_unet(flops: int, size: int) -> Build:
    """Return segmentation_models_pytorch's Unet: the ResNet encoder and decoder width that the operations ask for."""
    import segmentation_models_pytorch as smp

    def of_size(encoder: str, width: int) -> nn.Module:
        decoder = tuple(width * 2**level for level in reversed(range(5)))  # 256 … 16 by default
        return smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=CLASSES, decoder_channels=decoder)

    encoders = ("resnet18", "resnet34", "resnet50")
    return nearest([partial(of_size, name, width) for name in encoders for width in range(8, 97, 8)], flops, size)


def peer_speed(name: str, flops: int, files: Path, options: argparse.Namespace) -> float:
    """Return a peer's slices a second with about as many operations."""
    return PEER_SPEEDS[name](PEERS[name](flops, options.size)(), files, options)


def monai_speed(network: nn.Module, files: Path, options: argparse.Namespace) -> float:
    """Train as MONAI's tutorials do: `CacheDataset`, its loader, DiceCELoss, Adam."""
    from monai.data import CacheDataset
    from monai.data import DataLoader as MonaiLoader
    from monai.losses import DiceCELoss

    def load(path: Path) -> tuple[Tensor, Tensor]:
        image, mask = np.load(path)
        return torch.from_numpy(image)[None], torch.from_numpy(mask)[None]

    cached = CacheDataset(sorted(files.glob("*.npy")), load, progress=False)
    loader = MonaiLoader(cached, batch_size=options.batch, shuffle=True, num_workers=options.workers)
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)
    return loop_speed(network, loader, DiceCELoss(to_onehot_y=True, softmax=True), optimiser, options)


def smp_speed(network: nn.Module, files: Path, options: argparse.Namespace) -> float:
    """Train as the first example of segmentation_models_pytorch does: files, DiceLoss, Adam."""
    from segmentation_models_pytorch.losses import DiceLoss

    loader = DataLoader(own.SliceFiles(files), options.batch, shuffle=True, num_workers=options.workers)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)
    return loop_speed(network, loader, DiceLoss("multiclass", from_logits=True), optimiser, options)


def loop_speed(
    network: nn.Module,
    loader: Any,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    options: argparse.Namespace,
) -> float:
    """Run `steps` steps that warm up and as many that count."""
    device = choose_compute().device
    network.to(device).train()
    batches = own._endless(loader)
    for step in range(2 * options.steps):
        if step == options.steps:
            own._wait(device)
            start = time.perf_counter()
        image, mask = next(batches)
        optimiser.zero_grad()
        value = loss(network(image.to(device)), mask.to(device))
        value.backward()
        optimiser.step()
        value.item()
    own._wait(device)
    return options.steps * options.batch / (time.perf_counter() - start)


def shares_outside(
    path: Path,
    config: TrainConfig,
    folder: Path,
    options: argparse.Namespace,
) -> tuple[float, float]:
    """Return two shares of one epoch.

    The first is neither forward pass with loss, nor backward pass, nor optimiser of a training step. The second leaves
    out the forward passes of the validation as well. Each part is waited for, so on a GPU, where the host prepares the
    next step beside it, both shares are larger than in training.
    """
    keep_freed_memory()
    store = SliceStore.open(path)
    defaults, steps = TrainConfig(), max(len(store) // options.batch, 1)
    changes = {name: getattr(defaults, name) for name in ("augmentation", "balanced_sampling")}
    config = config.model_copy(update={**changes, "steps": 2 * steps, "validate_every": steps})
    validation = PartSlices.of(store, np.arange(options.validation))
    run = train._Training(store, validation, config, choose_compute(), folder, 0)
    training, validating = Stopwatch(run.compute.device), Stopwatch(run.compute.device)
    run.forward, run.compute.fabric.backward = (
        training.around(run.forward),
        training.around(run.compute.fabric.backward),
    )
    run.step_optimiser.step = training.around(run.step_optimiser.step)
    run.average.network.forward = validating.around(run.average.network.forward)
    with patch.object(train, "segmentation_loss", training.around(train.segmentation_loss)):
        run.save(run.train_round() | run.validate())  # warms up
        training.seconds, validating.seconds, start = 0.0, 0.0, time.perf_counter()
        run.save(run.train_round() | run.validate())
        own._wait(run.compute.device)
    epoch = time.perf_counter() - start
    return 1 - training.seconds / epoch, 1 - (training.seconds + validating.seconds) / epoch


class Stopwatch:
    """Adds up the seconds of some calls, waiting for the device before and after each."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self._device = 0.0, device

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            own._wait(self._device)
            start = time.perf_counter()
            result = call(*arguments, **named)
            own._wait(self._device)
            self.seconds += time.perf_counter() - start
            return result

        return timed


PEERS: dict[str, Callable[[int, int], Build]] = {"monai": monai_attention_unet, "smp": smp_unet}
PEER_SPEEDS: dict[str, Callable[[nn.Module, Path, argparse.Namespace], float]] = {
    "monai": monai_speed,
    "smp": smp_speed,
}


def _print_networks(networks: dict[str, Build], options: argparse.Namespace) -> None:
    print(f"batch {options.batch}, {options.size} × {options.size}, {choose_compute().description}")
    for name, build in networks.items():
        kind, flops, written = (
            type(build()).__name__,
            count_flops(build, options.size),
            count_flops_as_written(build, options.size),
        )
        print(
            f"{name}: {kind}, {count_parameters(build()) / 1e6:.2f} M parameters, {written / 1e9:.2f} GFLOPs a slice, "
            f"of which {flops / 1e9:.2f} are carried out"
        )


def _parse() -> argparse.Namespace:
    parser = own.network_options(__doc__)
    parser.add_argument("--validation", type=int, default=80, help="slices validated at the end of the epoch")
    parser.add_argument("--workers", type=int, default=0, help="of every DataLoader")
    parser.add_argument("--peers", default="monai,smp", help="which of them; empty for none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
