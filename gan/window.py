"""Square windows around the hole, where a loss or a training step need not see the whole slice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Where one batch's windows lie.

    Attributes:
        tops: N first rows.
        lefts: N first columns.
        size_px: Height and width.
    """

    tops: list[int]
    lefts: list[int]
    size_px: int

    def cut(self, images: Tensor) -> Tensor:
        """Return the windows (N, C, size, size) of images (N, C, H, W)."""
        places = zip(images, self.tops, self.lefts, strict=True)
        size = self.size_px
        return torch.stack([image[:, top : top + size, left : left + size] for image, top, left in places])

    def at(self, rows: Sequence[int]) -> "Windows":
        """Return the windows of some rows."""
        return Windows([self.tops[row] for row in rows], [self.lefts[row] for row in rows], self.size_px)


def windows_around(holes: Tensor, size_px: int) -> Windows:
    """Return windows centred on the middle of each hole (N, 1, H, W), moved inwards where they cross the border.

    A slice without a hole has its window in the middle. Windows are never larger than the slice.
    """
    size = min(size_px, *holes.shape[-2:])
    return Windows(_starts(holes.amax(dim=(1, 3)), size), _starts(holes.amax(dim=(1, 2)), size), size)


def _starts(occupied: Tensor, size: int) -> list[int]:
    """Return where windows of `size` begin that are centred on what is occupied, (N, L) of 0 and 1."""
    occupied = occupied.float()
    length, count = occupied.shape[1], occupied.sum(dim=1)
    places = torch.arange(length, dtype=torch.float32, device=occupied.device)
    middle = (occupied * places).sum(dim=1) / count.clamp_min(1)
    middle = torch.where(count > 0, middle, torch.full_like(middle, (length - 1) / 2))
    starts: list[int] = (middle - (size - 1) / 2).round().clamp(0, length - size).int().tolist()
    return starts
