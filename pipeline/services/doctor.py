"""What this machine has, and what would be used."""

import importlib.metadata
import platform
import shutil
from pathlib import Path

import psutil

from common.processes import usable_cores
from pipeline.commands.output import print_json

_GIB = 2**30
_PACKAGES = ("dagster", "mlflow", "torch", "torchvision", "albumentations", "h5py", "pandas", "numpy")
_ENOUGH_DISK_GIB = 5


def print_report(home: Path, as_json: bool = False) -> None:
    """Print the machine, what would be used, and what stands in the way; a line each, or as JSON."""
    found = report(home)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        print(f"{name:<{max(map(len, found))}}  {value}")


def report(home: Path) -> dict[str, str]:
    """Return name and value of everything a run depends on."""
    from runtime.compute import choose_compute, cpu_has_fast_bf16

    existing = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / _GIB
    lines = {
        "python": platform.python_version(),
        "cores": str(usable_cores()),
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "bf16 on this processor": "fast" if cpu_has_fast_bf16() else "no: fp32 would be used",
        "training on": choose_compute().description,
        "workspace": str(home.absolute()),
        "disk free there": f"{free:.0f} GiB" + ("" if free > _ENOUGH_DISK_GIB else " (a paper fold needs about 5)"),
    }
    for package in _PACKAGES:
        lines[package] = importlib.metadata.version(package)
    return lines
