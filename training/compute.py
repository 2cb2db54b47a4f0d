"""Device, precision and memory layout: chosen once, printed, and handed to every training and prediction."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from training.fabric import Fabric
from training.options import Device, Precision


@dataclass(frozen=True)
class Compute:
    """What a model runs on.

    `fabric` places tensors and opens bf16 autocast; `memory_format` is `channels_last` wherever bf16 is used:
    together they beat plain fp32 in NCHW on processors with AMX or AVX512-bf16 as on GPUs.
    """

    fabric: Fabric
    device: torch.device
    precision: Literal["bf16", "fp32"]
    memory_format: torch.memory_format

    @property
    def description(self) -> str:
        """One line for people: device and precision."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        count = torch.get_num_threads()
        threads = f", {count} thread{'s' * (count > 1)}" if self.device.type == "cpu" else ""
        several = f", {self.fabric.world_size} processes" if self.fabric.world_size > 1 else ""
        return f"{name}{threads}{several}, {self.precision}"


def cpu_has_bf16() -> bool:
    """Tell whether this processor multiplies bf16 natively (AMX or AVX512-bf16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_compute(device: Device = "auto", precision: Precision = "auto", ranks: int = 1) -> Compute:
    """Choose CUDA before CPU, and bf16 where it is native; both can be set.

    Args:
        device: `auto` takes a GPU if there is one.
        precision: `auto` takes bf16 on CUDA and on processors with AMX or AVX512-bf16, else fp32.
        ranks: Processes of this machine that train together, of which this is one: `ranks.launched_ranks()`.
    """
    # Fabric announces the precision each time; `description` says it once. Its import sets the level, so after that.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" or cpu_has_bf16() else "fp32"
    fabric = Fabric(
        accelerator=accelerator,
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    if ranks > 1:
        fabric.launch()  # meets the other processes
    return Compute(
        fabric=fabric,
        device=fabric.device,
        precision=precision,
        memory_format=torch.channels_last if precision == "bf16" else torch.contiguous_format,
    )
