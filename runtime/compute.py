"""What a training or a prediction runs on: device, precision, memory layout and ranks, chosen once and printed.

Lightning Fabric is imported without torchmetrics, which it loads with torchvision and the compiler for 1.9 s. It only
wants its version, for the detection of loss spikes, which nothing here uses. Every process that trains or predicts pays
for its imports, so this module is the only one that imports Fabric.

Several processes (ranks) may train one network together; `torchrun` starts them. Each step's batch is cut into equal
parts, one a rank, and the loss is that of the whole batch: every rank gathers the others' outputs, so that losses which
pool over the batch, such as Dice, are those of one process.

Memory that a training process has freed stays with the process, and tensors go to the device from pinned memory.
"""

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from common.config import Device, Precision
from common.errors import InputError

_UNWANTED = "torchmetrics"
_absent = _UNWANTED not in sys.modules
if _absent:
    sys.modules[_UNWANTED] = None  # type: ignore[assignment] # Python's way to say: not installed
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.wrappers import _FabricModule as FabricModule
    from lightning_fabric.wrappers import _FabricOptimizer as FabricOptimizer
finally:
    if _absent:
        del sys.modules[_UNWANTED]

__all__ = ["Fabric", "FabricModule", "FabricOptimizer", "TorchElasticEnvironment"]


@dataclass(frozen=True)
class Compute:
    """What a model runs on.

    `fabric` places tensors and opens bf16 autocast; `memory_format` is `channels_last` on CPUs, where it beats NCHW
    (docs/speed.md), and on GPUs with bf16, whose tensor cores want it (not measured). `deterministic` says that the
    process takes only kernels which give the same bits each time.
    """

    fabric: Fabric
    device: torch.device
    precision: Literal["bf16", "fp32"]
    memory_format: torch.memory_format
    deterministic: bool = False

    @property
    def description(self) -> str:
        """One line for people: device and precision."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        count = torch.get_num_threads()
        threads = f", {count} thread{'s' * (count > 1)}" if self.device.type == "cpu" else ""
        several = f", {self.fabric.world_size} processes" if self.fabric.world_size > 1 else ""
        kernels = ", deterministic kernels" if self.deterministic else ""
        return f"{name}{threads}{several}, {self.precision}{kernels}"

    def said(self) -> dict[str, Any]:
        """Return what a model's card says of it."""
        return {"precision": self.precision} | ({"deterministic": True} if self.deterministic else {})

    def lay_out(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (N, C, H, W) on the device in `memory_format`.

        The memory of one channel is the same in every format; its strides then say which one is meant, so that a 1 × 1
        convolution answers in that one.
        """
        images = images.to(device=self.device, memory_format=self.memory_format)
        if images.shape[1] == 1 and self.memory_format == torch.channels_last:
            return images[:, 0, :, :, None].permute(0, 3, 1, 2)
        return images


def cpu_has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this processor trains faster in bf16 than in fp32: with AMX, or with AMD's AVX512-bf16.

    With AVX512-bf16 alone, as where AMX is kept from a virtual machine, Intel processors are slower than in fp32.
    """
    try:
        described = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in described or ("avx512_bf16" in described and "AuthenticAMD" in described)


def choose_compute(
    device: Device = "auto",
    precision: Precision = "auto",
    ranks: int = 1,
    gpu: int = 0,
    deterministic: bool = False,
    nodes: int = 1,
) -> Compute:
    """Choose CUDA before CPU, and bf16 where it is native; both can be set.

    Args:
        device: `auto` takes a GPU if there is one.
        precision: `auto` takes bf16 on GPUs that have it (from Ampere on) and where `cpu_has_fast_bf16`, else fp32.
        ranks: Processes that train together, of which this is one: `ranks.launched_ranks()`.
        gpu: Which of the GPUs that `CUDA_VISIBLE_DEVICES` shows, where one process trains alone.
        deterministic: Take only kernels that give the same bits each time, in the whole process.
        nodes: On how many machines the ranks are, the same number on each: `ranks.launched_nodes()`.

    Raises:
        InputError: CUDA is asked for where there is none, or by more processes than there are GPUs.
    """
    # Fabric announces the precision each time; `description` says it once. Its import sets the level, so after that.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: PyTorch finds no GPU here; choose device cpu or auto (`scarforge doctor`)")
    here = ranks // nodes
    if accelerator == "cuda" and here > torch.cuda.device_count():
        raise InputError(
            f"{here} processes want a GPU each and {torch.cuda.device_count()} are visible here; start that many "
            "processes, or choose device cpu"
        )
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16(accelerator) else "fp32"
    _choose_kernels(deterministic)
    fabric = Fabric(
        accelerator=accelerator,
        devices=[gpu] if accelerator == "cuda" and ranks == 1 else here,
        num_nodes=nodes,
        strategy="ddp" if ranks > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    if ranks > 1:
        fabric.launch()  # meets the other processes
    return Compute(
        fabric=fabric,
        device=fabric.device,
        precision=precision,
        memory_format=torch.channels_last if precision == "bf16" or accelerator == "cpu" else torch.contiguous_format,
        deterministic=deterministic,
    )


def _choose_kernels(deterministic: bool) -> None:
    """Say how GPUs compute in fp32, rather than take what PyTorch's parts do each by itself, and with which kernels.

    Its convolutions take TF32 (10 bits of mantissa) unasked, its matrix products do not; here fp32 is fp32. cuDNN tries
    out its algorithms for each shape: shapes are few and stay. What it finds fastest may differ from run to run, so
    that deterministic kernels go without.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set on its class; costs time
    if deterministic:  # cuBLAS reads it at its first product; without it PyTorch refuses the product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _has_fast_bf16(accelerator: str) -> bool:
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_fast_bf16()


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system; without glibc nothing changes.

    Each training step frees activations of tens of megabytes. By default glibc gives such blocks back at once, and the
    next step's are mapped and zeroed anew, page by page: in the quick profile's Attention Res-UNet 17,000 page faults
    and a tenth of the time (docs/speed.md). The process then holds its peak until it ends, so this is for processes
    that train and end.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # large blocks come from the heap too,
    libc.mallopt(_TRIM_THRESHOLD, -1)  # whose end is never cut off


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device, without waiting for a GPU to finish what it was given before.

    From ordinary memory CUDA copies only after it has done everything else, so that each such copy would stop the
    host from preparing the next step. Page-locked memory is given back after the copy, as PyTorch's allocator sees to.
    """
    if device.type != "cuda":
        return tensor.to(device)
    # An expanded tensor has elements that share memory, which cannot be locked as it is.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def send_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one type on the device: `send`, but with one copy for all of them."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    sent = send(torch.cat([tensor.reshape(-1) for tensor in tensors]), device)
    parts = torch.split(sent, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


Value = TypeVar("Value")


def launched_ranks() -> int:
    """Return how many processes `torchrun` started together with this one, on all nodes; 1 without it."""
    return TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 1


def launched_nodes() -> int:
    """Return on how many nodes `torchrun` started them; 1 without it.

    Raises:
        InputError: Nodes have different numbers of processes.
    """
    if not TorchElasticEnvironment.detect():
        return 1
    ranks, here, nodes = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    if ranks != here * nodes:
        raise InputError(
            f"torchrun started {ranks} processes on {nodes} nodes and {here} of them here; give every node the same "
            "--nproc-per-node"
        )
    return nodes


@dataclass(frozen=True)
class Ranks:
    """The processes of one training; one process alone is the usual case and costs nothing.

    Attributes:
        fabric: Launched, where there are several.
    """

    fabric: Fabric

    @property
    def count(self) -> int:
        """How many there are."""
        return self.fabric.world_size

    @property
    def index(self) -> int:
        """Which one this is, counted from 0."""
        return self.fabric.global_rank

    @property
    def is_first(self) -> bool:
        """Whether this one validates, writes and reports."""
        return self.index == 0

    def part_of(self, batch: int) -> slice:
        """Return this rank's places in a batch; the parts are disjoint, equal and make up the batch.

        Raises:
            InputError: The batch cannot be cut into equal parts.
        """
        if batch % self.count:
            raise InputError(
                f"a batch of {batch} cannot be shared by {self.count} processes; "
                f"set batch to a multiple of {self.count} or start another number of processes"
            )
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def gather(self, own: Tensor) -> Tensor:
        """Return the parts (n, ...) of all ranks as the whole batch (N, ...); gradients flow into the own part only."""
        if self.count == 1:
            return own
        with torch.no_grad():
            parts = list(self.fabric.all_gather(own.detach().contiguous()))
        parts[self.index] = own
        return torch.cat(parts)

    def join_norms(self, network: nn.Module) -> nn.Module:
        """Let batch normalisation take the statistics of the whole batch, where ranks train on GPUs.

        PyTorch has that for GPUs alone: on CPUs each rank normalises its own part.
        """
        if self.count == 1 or self.fabric.device.type != "cuda":
            return network
        joined: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return joined

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss of the whole batch.

        Each rank has the gradient of its own part, and data parallel training averages over ranks: the factor makes
        the sum of it.
        """
        self.fabric.backward(loss if self.count == 1 else loss * self.count)

    def of_first(self, value: Value) -> Value:
        """Return the first rank's value on every rank."""
        return value if self.count == 1 else self.fabric.broadcast(value)

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.count > 1:
            self.fabric.barrier()
