"""Lightning Fabric, imported without torchmetrics: Fabric loads it, torchvision and the compiler with it, for 1.9 s.

Fabric only wants its version, for the detection of loss spikes, which nothing here uses. Every process that trains or
predicts pays for its imports, so this module is the only one that imports Fabric.
"""

import sys

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
