"""How a training step grows with batch, width and image size, and how near it comes to the device's limit.

Each row changes one thing of the first. `share` is the step's operations a second (three times the forward pass's) as
a share of those of one large convolution, forward and backward, in the training's precision on the same device: what
the hardware gives when nothing else is in the way. `minutes` are for 60 epochs of 10,000 slices without validation.
Memory is the peak of the process on a CPU, of PyTorch's allocator on a GPU.

    python -m benchmarks.growth --steps 100                                           # on a GPU
    python -m benchmarks.growth --widths 16,32,64,128,128 --bottleneck 128 --steps 4  # on two cores
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from benchmarks import training as own
from benchmarks.measuring import in_own_process
from benchmarks.networks import count_flops
from runtime.compute import choose_compute
from segmentation.networks.table import build_network
from tests.segmentation.toy_slices import write_store

CLASSES = 5
_EPOCHS, _SLICES = 60, 10_000
_PASSES = 3  # forward, gradient of the input, gradient of the weights


def main() -> None:
    """Measure and print."""
    options = _parse()
    rate = in_own_process(convolution_rate)
    print(f"{options.network}, {choose_compute().description}; one convolution: {rate / 1e12:.2f} TFLOP/s")
    rows = [in_own_process(measure, variant, rate) for variant in variants(options)]
    print(pd.DataFrame(rows).to_string(index=False))


def variants(options: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the options as given and then with one thing changed at a time."""
    yield options
    changes: list[dict[str, object]] = [{"batch": batch} for batch in _numbers(options.batches)]
    changes += [_scaled(options, scale) for scale in map(float, options.scales.split(","))]
    changes += [{"size": size} for size in _numbers(options.sizes)]
    changes += [{"compiled": True}] if options.with_compiled else []
    for change in changes:
        if any(getattr(options, name) != value for name, value in change.items()):
            yield argparse.Namespace(**(vars(options) | change))


def measure(options: argparse.Namespace, convolution_rate: float) -> dict[str, object]:
    """Train with these options; return the row of the table."""
    config = own._config(options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slices.h5"
        write_store(path, *own._slices(4 * options.batch, options.size))
        found = own._our_last_round(path, config, Path(folder) / "model")
    speed = found["images_per_second"]
    flops = count_flops(partial(build_network, config.network, CLASSES), options.size)
    return {
        "widths": "-".join(map(str, config.network.widths)),
        "batch": options.batch,
        "size": options.size,
        "compiled": options.compiled,
        "GFLOPs a slice": round(flops / 1e9, 2),
        "slices a second": round(speed, 1),
        "share": f"{_PASSES * flops * speed / convolution_rate:.1%}",
        "minutes": round(_EPOCHS * _SLICES / speed / 60, 1),
        "memory, MB": round(found["peak_memory_mb"]),
    }


def convolution_rate(channels: int = 256, side: int = 64, times: int = 10) -> float:
    """Return the operations a second of a 3 × 3 convolution, forward and backward, as the training computes it.

    A GPU is given sixteen times the slices and twenty convolutions a time, beside which what it costs to start them
    is nothing.
    """
    compute = choose_compute()
    batch, repeats = (256, 20) if compute.device.type == "cuda" else (16, 1)
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    layer = layer.to(compute.device, dtype, memory_format=compute.memory_format)
    x = torch.randn(batch, channels, side, side).to(compute.device, dtype, memory_format=compute.memory_format)
    x.requires_grad_()
    gradient = torch.randn_like(x)

    def both_ways() -> None:
        layer(x).backward(gradient)
        layer.weight.grad = x.grad = None

    both_ways()
    fastest = float("inf")
    for _ in range(times):
        own._wait(compute.device)
        start = time.perf_counter()
        for _ in range(repeats):
            both_ways()
        own._wait(compute.device)
        fastest = min(fastest, (time.perf_counter() - start) / repeats)
    return _PASSES * 2 * 9 * channels**2 * side**2 * batch / fastest


def _scaled(options: argparse.Namespace, scale: float) -> dict[str, object]:
    network = own._config(options).network
    widths = ",".join(str(round(width * scale)) for width in network.widths)
    return {"widths": widths, "bottleneck": round(network.bottleneck * scale)} if scale != 1 else {}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse() -> argparse.Namespace:
    parser = own.network_options(__doc__)
    parser.add_argument("--batches", default="8,16,32,64")
    parser.add_argument("--scales", default="0.5,1,2", help="of all widths")
    parser.add_argument("--sizes", default="96,128,192,256")
    parser.add_argument("--with-compiled", action="store_true", help="measure torch.compile too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
