"""Tensors on their way to the device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device, without waiting for a GPU to finish what it was given before.

    From ordinary memory CUDA copies only after it has done everything else, so that each such copy would stop the
    host from preparing the next step. Page-locked memory is given back after the copy, as PyTorch's allocator sees to.
    """
    if device.type != "cuda":
        return tensor.to(device)
    # An expanded tensor has elements that share memory, which cannot be locked as it is.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
