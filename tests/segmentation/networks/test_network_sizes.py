"""Output shapes, parameters and floating point operations at the published sizes, counted by hand formulas.

A convolution from I to O channels with a k × k kernel has k²·I·O weights (and O biases), and on a map of S × S pixels
takes two operations a weight and pixel. Of a map with repeated pixels, which is not built, a 3 × 3 convolution takes
sixteen products a pixel of the map before instead of nine a pixel of the result. Norms, ReLUs, poolings and
enlargements are not counted as operations, but for those of the pooling pyramid, which are matrix products.
"""

from typing import NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segmentation.networks.blocks import count_parameters
from segmentation.networks.table import build_network
from segmentation.training.config import NetworkConfig

SIDE, CLASSES = 128, 5


class Size(NamedTuple):
    parameters: int
    flops: int


def conv(i, o, k, side, bias=True, uses=1):
    return Size(k * k * i * o + (o if bias else 0), uses * 2 * k * k * i * o * side * side)


def enlarged_conv(i, o, side, bias=True):
    return Size(conv(i, o, 3, side, bias).parameters, conv(i, o, 4, side // 2).flops)


def norm(channels):
    return Size(2 * channels, 0)


def enlarged_cells(channels, cells, side):
    return Size(0, 2 * channels * cells * side * side)


def total(*sizes):
    return Size(sum(size.parameters for size in sizes), sum(size.flops for size in sizes))


def residual_block(i, o, side):
    shortcut = [] if i == o else [conv(i, o, 1, side, bias=False), norm(o)]
    pair = [conv(i, o, 3, side, bias=False), norm(o), conv(o, o, 3, side, bias=False), norm(o)]
    return total(*pair, *shortcut)


def joining_residual_block(coarse, skip, side):
    first = [enlarged_conv(coarse, skip, side, bias=False), conv(skip, skip, 3, side, bias=False), norm(skip)]
    second = [conv(skip, skip, 3, side, bias=False), norm(skip)]
    shortcut = [conv(coarse, skip, 1, side // 2, bias=False), conv(skip, skip, 1, side, bias=False), norm(skip)]
    return total(*first, *second, *shortcut)


def attention_res_unet():
    widths, bottleneck = [64, 128, 256, 512, 512], 512
    sides = [SIDE // 2**stage for stage in range(6)]  # 128 … 4
    encoder = [residual_block(i, o, side) for i, o, side in zip([1, *widths], widths, sides, strict=False)]
    decoder, below = [], bottleneck
    for width, side in zip(reversed(widths), reversed(sides[:5]), strict=True):
        inner = width // 2
        gate = [conv(width, inner, 2, side // 2, bias=False), conv(below, inner, 1, side // 2)]
        decoder += [*gate, conv(inner, 1, 1, side // 2), joining_residual_block(below, width, side)]
        below = width
    return total(*encoder, residual_block(512, bottleneck, sides[5]), *decoder, conv(below, CLASSES, 1, SIDE))


def convolution_pair(i, o, side):
    return total(conv(i, o, 3, side), norm(o), conv(o, o, 3, side), norm(o))


def hybrid_attention_pooling(width, side, module=64, out=128):
    atrous = [conv(width, module, 3, side)] * 4 + [conv(width, module, 1, 1)]
    fused = [conv(5 * module, module, 1, side, bias=False), norm(module)]
    attention = []
    for channels in (module, 3 * width):  # three pooling grids
        inner = max(channels // 16, 4)
        attention += [conv(channels, inner, 1, 1, uses=2), conv(inner, channels, 1, 1, uses=2)]  # average and maximum
        attention += [conv(2, 1, 7, side)]
    pooled = [enlarged_cells(width, grid * grid, side) for grid in (1, 2, 4)]
    joined = [conv(2 * (module + 3 * width), out, 1, side), conv(width, out, 1, side)]
    return total(*atrous, *fused, *pooled, *attention, *joined)


def halsr_net():
    widths, bottleneck, skip = [64, 128, 256, 512], 512, 128
    sides = [SIDE // 2**stage for stage in range(5)]  # 128 … 8
    encoder = [convolution_pair(i, o, side) for i, o, side in zip([1, *widths], widths, sides, strict=False)]
    pooling = [hybrid_attention_pooling(width, side) for width, side in zip(widths, sides[1:], strict=True)]
    decoder, below = [], bottleneck
    for width, side in zip(reversed(widths), reversed(sides[:4]), strict=True):
        gate = [
            conv(skip, skip // 2, 1, side // 2, bias=False),  # gated before it is enlarged
            conv(below, skip // 2, 1, side // 2),
            conv(skip // 2, 1, 1, side // 2),
        ]
        pair = [enlarged_conv(below + skip, width, side), norm(width), conv(width, width, 3, side), norm(width)]
        decoder += [*gate, *pair]
        below = width
    squeeze = [conv(bottleneck, bottleneck // 16, 1, 1), conv(bottleneck // 16, bottleneck, 1, 1)]
    reconstruction = [conv(bottleneck, 1, 1, sides[4]), *squeeze, conv(bottleneck, CLASSES, 1, sides[4])]
    end = [conv(CLASSES, below, 1, SIDE), conv(below, CLASSES, 1, SIDE)]
    return total(*encoder, convolution_pair(512, bottleneck, sides[4]), *pooling, *decoder, *reconstruction, *end)


@pytest.mark.parametrize(
    ("expected", "millions", "gigaflops"),
    [(attention_res_unet(), 34.440, 23.01), (halsr_net(), 21.404, 21.67)],
    ids=["attention_res_unet", "halsr_net"],
)
def test_published_sizes_have_the_shapes_parameters_and_operations_of_their_formulas(
    request, expected, millions, gigaflops
):
    name = request.node.callspec.id
    with torch.device("meta"):
        network = build_network(NetworkConfig.model_validate({"name": name}), CLASSES).eval()
        with FlopCounterMode(display=False) as counter:
            logits = network(torch.zeros(1, 1, SIDE, SIDE)).logits
    assert logits.shape == (1, CLASSES, SIDE, SIDE)
    assert count_parameters(network) == expected.parameters
    assert counter.get_total_flops() == expected.flops
    assert expected.parameters / 1e6 == pytest.approx(millions, abs=0.001)
    assert expected.flops / 1e9 == pytest.approx(gigaflops, abs=0.01)
