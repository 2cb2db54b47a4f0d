"""The additive attention gate on a skip connection (Oktay et al. 2018, Attention U-Net)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentation.blocks import upsample_smoothly


class AttentionGate(nn.Module):
    """Weighs each pixel of a skip map by how well it agrees with a gating signal.

    `map = sigmoid(psi(ReLU(W_x · skip + W_g · gate)))`, one value a pixel in [0, 1]; returns `skip · map`.

    As in the paper the map is formed on the gate's grid: with `stride` 2 the gate is the decoder's map before
    it is enlarged, and the attention map is enlarged to the skip's size.

    Shapes: skip (N, S, H, W), gate (N, G, H / stride, W / stride) → (N, S, H, W).
    """

    def __init__(self, skip_channels: int, gate_channels: int, inner_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.from_skip = nn.Conv2d(skip_channels, inner_channels, stride, stride=stride, bias=False)
        self.from_gate = nn.Conv2d(gate_channels, inner_channels, 1)
        self.score = nn.Conv2d(inner_channels, 1, 1)

    def attention(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the attention map (N, 1, H, W) in [0, 1]."""
        agreement = F.relu(self.from_skip(skip) + self.from_gate(gate), inplace=True)
        attention = torch.sigmoid(self.score(agreement))
        return attention if self.stride == 1 else upsample_smoothly(attention, self.stride)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the weighed skip map, shaped like `skip`."""
        return skip * self.attention(skip, gate)
