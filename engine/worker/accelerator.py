"""Which device a process computes on, and the locks that keep the others of this machine away from it.

A GPU has a lock of its own, so that as many processes compute at once as there are GPUs that they may see
(`CUDA_VISIBLE_DEVICES`). What does not live here: what is done with the device (`runtime.compute`).
"""

import getpass
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from common.config import Precision
from engine.locks import LOCKS, accelerator_lock, held, tell_of_wait
from runtime.compute import Compute, choose_compute

_LOOKS_EVERY_S = 1.0
_WHO = "another training"


@contextmanager
def accelerator(device: str, lock: str) -> Iterator[int]:
    """Hold a device and give the number of its GPU among the visible ones, 0 on the CPU; wait until one is free.

    Args:
        device: `auto`, `cpu` or `cuda`.
        lock: The lock file of `Forge.accelerator_lock` or `Forge.training_lock`; empty where devices may be shared.
    """
    if not lock:
        yield 0
        return
    on_gpu, path = device != "cpu" and torch.cuda.is_available(), Path(lock)
    of_machine = path.name.startswith("accelerator_")
    with ExitStack() as stack:
        if not (on_gpu and of_machine):
            stack.enter_context(held(path, _WHO))
        yield stack.enter_context(_free_gpu(path.parent if of_machine else None)) if on_gpu else 0


@contextmanager
def borrowed(device: str, precision: Precision, lock: str, deterministic: bool = False) -> Iterator[Compute]:
    """Hold a GPU for a step that predicts or draws, and leave no cached memory on it; the CPU is not held for that."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    with accelerator(device, lock if on_gpu else "") as gpu:
        try:
            yield choose_compute(device, precision, gpu=gpu, deterministic=deterministic)  # type: ignore[arg-type] # checked in Settings
        finally:
            torch.cuda.empty_cache()  # nothing where no GPU was used


@contextmanager
def device_of_command(home: Path) -> Iterator[Compute]:
    """Hold a GPU for a command that is no step of the graph, on a workspace that need not exist; no CPU is held."""
    beside = home if home.is_dir() else Path(tempfile.gettempdir()) / f"scarforge_{getpass.getuser()}"
    with borrowed("auto", "auto", accelerator_lock(beside / LOCKS) if torch.cuda.is_available() else "") as compute:
        yield compute


@contextmanager
def _free_gpu(workspace_locks: Path | None) -> Iterator[int]:
    """Hold the locks of the first free GPU: the same files for all workspaces of a user, and for all of a workspace."""
    ids = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    here = Path(tempfile.gettempdir())
    paths = [[here / f"scarforge_{getpass.getuser()}_{one}.lock"] for one in ids]
    if workspace_locks is not None:
        paths = [[*known, workspace_locks / f"accelerator_{one}.lock"] for known, one in zip(paths, ids, strict=True)]
    told = False
    while True:
        for number, files in enumerate(paths):
            with _held_at_once(files) as is_mine:
                if is_mine:
                    yield number
                    return
        if not told:
            tell_of_wait(_WHO, (files[0] for files in paths))
            told = True
        time.sleep(_LOOKS_EVERY_S)


@contextmanager
def _held_at_once(files: Sequence[Path]) -> Iterator[bool]:
    """Hold all of some lock files, or none where another process holds one, and tell which."""
    with ExitStack() as stack:
        is_mine = False
        with suppress(Timeout):
            for file in files:
                stack.enter_context(FileLock(file, timeout=0))
            is_mine = True
        yield is_mine
