"""A GPU on paper: tensors that claim to be on `cuda` and hold no values, beside real ones on the host.

Below PyTorch's `FakeTensorMode` shapes, types and devices follow as on a GPU; what the host computes has its values. So
a tensor left on the host, a value read back and a copy that waits are found on a machine without a GPU, with networks
of any size. What does not live here: speed, and the bits that a GPU gives.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan.networks import generator
from runtime.compute import Compute, Fabric

aten = torch.ops.aten
_COPIES = (aten._to_copy.default, aten.copy_.default)
_WITHOUT_KERNEL = (
    "aten::empty",
    "aten::new_empty",
    "aten::_unsafe_view",
    "aten::lift",
    "prim::device",
    "aten::_to_copy",
)
_HOUSE = Path(__file__).parents[1]
_BOOLEAN = (torch.bool, torch.uint8)


class ClaimedGpu(TorchDispatchMode):
    """Runs what the host computes for real and follows what the GPU would do, counting it.

    Attributes:
        reads: Where the host waited for a value of the GPU, as the operator and the shape.
        waits: Copies to the GPU for which the host waited: from memory that is not page-locked, or on demand.
        kernels: Operators that start a kernel; views and bare allocations start none, fused lists count as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.waits: list[str] = []
        self.kernels: list[str] = []

    def start(self) -> None:
        """Count from here."""
        for counted in (self.reads, self.waits, self.kernels):
            counted.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not ours and target != "cuda":
            return _on_host(func, args, kwargs)
        if _is_composite(func):  # without autograd they come whole
            with self:
                return func.decompose(*args, **kwargs)
        if func in _COPIES:
            return self._copy(func, args, kwargs, target)
        left = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.dim()]
        if left:
            raise AssertionError(f"{func}: a tensor {tuple(left[0].shape)} was left on the host")
        if func is aten._local_scalar_dense.default:
            return self._read(func, ours[0], lambda: torch.ones((), dtype=ours[0].dtype).item())
        if func is aten._linalg_check_errors.default:
            return self._read(func, ours[0], lambda: None)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            chosen = [index for index in args[1] if index is not None and index.dtype in _BOOLEAN]
            if chosen:  # the host is told how many
                return self._read(func, chosen[0], lambda: args[0])
        self._count(func)
        return func(*args, **kwargs)

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: str | None) -> Any:
        goal, source = (args[0], args[1]) if func is aten.copy_.default else (None, args[0])
        if isinstance(source, FakeTensor) and (target == "cpu" or (goal is not None and goal.device.type == "cpu")):
            dtype = kwargs.get("dtype") or source.dtype
            return self._read(func, source, lambda: torch.zeros(source.shape, dtype=dtype) if goal is None else goal)
        if not isinstance(source, FakeTensor):
            asked = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if not (asked and getattr(source, "claims_to_be_pinned", False)):
                self.waits.append(_told(func, source))
        self.kernels.append(str(func))
        return func(*args, **kwargs)

    def _read(self, func: Any, tensor: Tensor, value: Callable[[], Any]) -> Any:
        self.reads.append(_told(func, tensor))
        with unset_fake_temporarily():
            return value()

    def _count(self, func: Any) -> None:
        if not func.is_view and not func.name().startswith(_WITHOUT_KERNEL):
            self.kernels.append(str(func))


def _is_composite(func: Any) -> bool:
    return func.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )


def _told(func: Any, tensor: Tensor) -> str:
    """Say which operator of which line of the project it was."""
    ours = [f for f in traceback.extract_stack() if f.filename != __file__ and ".venv" not in f.filename]
    frame = next((f for f in reversed(ours) if Path(f.filename).is_relative_to(_HOUSE)), None)
    where = "" if frame is None else f" at {Path(frame.filename).relative_to(_HOUSE)}:{frame.lineno}, {frame.line}"
    return f"{func} {tuple(tensor.shape)}{where}"


def _on_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with unset_fake_temporarily():
        if func is aten.is_pinned.default:
            return False
        if func is aten._pin_memory.default:
            locked = args[0].clone()
            locked.claims_to_be_pinned = True
            return locked
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    """A GPU's generator: its seed lies on the host, what it draws is not looked at."""

    def __new__(cls, _device: object = "cpu") -> "_Generator":
        return super().__new__(cls, "cpu")


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Move a module by giving it new parameters: PyTorch would exchange the tensors below the old ones."""
    for child in module.children() if recurse else ():
        _apply(child, fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = fn(parameter)
            if moved is not parameter:
                module._parameters[name] = nn.Parameter(moved.detach(), parameter.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = fn(value)
    return module


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    with torch.no_grad():
        copied = tensor.clone()
    copied = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    return memo.setdefault(id(tensor), copied)


def _backward(
    tensors: Tensor, grad_tensors: Any = None, retain_graph: Any = None, create_graph: bool = False, **_: Any
) -> None:
    """Go through the graph in its order, as PyTorch's engine does, which asks the driver for the GPU's streams."""
    (loss,) = (tensors,) if isinstance(tensors, Tensor) else tensors
    (given,) = (None,) if grad_tensors is None or grad_tensors[0] is None else grad_tensors
    waiting: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss) if given is None else given]}
    with torch.no_grad():
        for node in _from_the_end(loss.grad_fn):
            run = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
            found = run(*waiting.pop(node))
            for gradient, (following, place) in zip(_as_tuple(found), node.next_functions, strict=True):
                if following is None or gradient is None:
                    continue
                wanted = following._input_metadata
                sums = waiting.setdefault(following, [None] * len(wanted))
                gradient = gradient.sum_to_size(wanted[place].shape).to(wanted[place].dtype)
                sums[place] = gradient if sums[place] is None else sums[place] + gradient


def _from_the_end(last: Any) -> list[Any]:
    """Return the nodes of a graph, each behind all that hand a gradient to it."""
    ordered: list[Any] = []
    seen, stack = set(), [(last, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return ordered[::-1]


def _as_tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


@contextmanager
def _autocast(dtype: torch.dtype) -> Iterator[None]:
    """Open what `torch.autocast("cuda")` opens where there is a GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def claimed_compute(monkeypatch: pytest.MonkeyPatch, precision: str = "bf16") -> Compute:
    """Return what `choose_compute` gives on a GPU, with Fabric as it is there."""
    named = "bf16-mixed" if precision == "bf16" else "32-true"
    fabric = Fabric(accelerator="cpu", strategy=SingleDeviceStrategy(device="cuda:0"), precision=named)
    monkeypatch.setattr(fabric._accelerator, "setup_device", lambda _: None)
    if precision == "bf16":
        monkeypatch.setattr(fabric._precision, "forward_context", lambda: _autocast(torch.bfloat16))
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    return Compute(fabric, torch.device("cuda", 0), precision, layout)


@contextmanager
def claimed_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimedGpu]:
    """Let `cuda` be a GPU on paper."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(nn.Module, "_apply", _apply)
    monkeypatch.setattr(torch.autograd, "backward", _backward)
    monkeypatch.setattr(FakeTensor, "__deepcopy__", _deepcopy, raising=False)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 0)
    generator._kernel.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), ClaimedGpu() as gpu:
        yield gpu
    generator._kernel.cache_clear()
