"""Simulated lesion masks: what the generator is asked to draw.

`config` says what is wanted, `anatomy` reads a slice, `ring_model` and `lesion_model` hold what was fitted on the
training slices, `lesions` grows lesions or carries them over, `simulator` chooses and accepts, `write` fills a
store, and `distributions` compares the result with the training slices. Nothing here knows PyTorch.

The configuration alone loads at once, since every process reads the settings; the rest loads when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gan.simulator.config import STRATEGIES, SimulatorConfig, StrategyShares

if TYPE_CHECKING:
    from gan.simulator.distributions import (
        compare_distributions,
        measure_masks,
        plot_distributions,
        summarise_distributions,
    )
    from gan.simulator.simulator import HEALED_ANATOMY, WARPED_ANATOMY, Draft, MaskSimulator
    from gan.simulator.write import SimulatedMask, write_lesion_masks

__all__ = [
    "HEALED_ANATOMY",
    "STRATEGIES",
    "WARPED_ANATOMY",
    "Draft",
    "MaskSimulator",
    "SimulatedMask",
    "SimulatorConfig",
    "StrategyShares",
    "compare_distributions",
    "measure_masks",
    "plot_distributions",
    "summarise_distributions",
    "write_lesion_masks",
]

_MODULE_OF = {
    "HEALED_ANATOMY": "simulator",
    "WARPED_ANATOMY": "simulator",
    "Draft": "simulator",
    "MaskSimulator": "simulator",
    "SimulatedMask": "write",
    "compare_distributions": "distributions",
    "measure_masks": "distributions",
    "plot_distributions": "distributions",
    "summarise_distributions": "distributions",
    "write_lesion_masks": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
