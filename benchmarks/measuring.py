"""How benchmarks measure: each contestant in a process of its own, and what share of the time each operator takes.

Of its own, so that none finds memory or threads as another left them.

An operator's time is its own, without that of the operators it calls: of PyTorch's operators by its profiler, with
their backward passes, on a GPU the time of their kernels; of everything else that Python calls by `cProfile`.
"""

import cProfile
import multiprocessing
import pstats
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_CONVOLUTIONS = ("conv", "mkldnn_", "cudnn", "xmma", "implicit_gemm")


def in_own_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Return what a function of a module returns when a new process calls it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def operator_shares(step: Callable[[], object], times: int) -> dict[str, float]:
    """Return the share of each of PyTorch's operators with its backward pass in calls of `step`, largest first."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        for _ in range(times):
            step()
    seconds: dict[str, float] = {}
    for event in found.key_averages():
        name = event.key.removesuffix("_backward")
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[name] = seconds.get(name, 0.0) + own
    return _shares(seconds)


def call_shares(call: Callable[[], object]) -> dict[str, float]:
    """Return the share of each Python function and each built-in one in a call, largest first."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    seconds: dict[str, float] = {}
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined] # typeshed lacks it
        name = function if file == "~" else f"{Path(file).stem}.{function}"
        seconds[name] = seconds.get(name, 0.0) + own
    return _shares(seconds)


def is_convolution(name: str) -> bool:
    """Tell whether an operator, a kernel or a function is a convolution or its backward pass."""
    return any(part in name.lower() for part in _CONVOLUTIONS)


def told(shares: Mapping[str, float], most: int = 5) -> str:
    """Return the convolutions' share and the largest others in one line."""
    others = [(name, share) for name, share in shares.items() if not is_convolution(name)]
    convolutions = 1 - sum(share for _, share in others)
    return f"convolutions {convolutions:.1%}; " + ", ".join(f"{name} {share:.1%}" for name, share in others[:most])


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    whole = sum(seconds.values())
    return {name: seconds[name] / whole for name in sorted(seconds, key=lambda name: -seconds[name])}
