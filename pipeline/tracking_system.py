"""What the machine is doing while a network trains, under the names that MLflow's system page shows."""

from __future__ import annotations

from typing import Any

_PREFIX = "system/"


class SystemSampler:
    """Samples processor, memory and, where there is one, GPU; one sample a call.

    It uses MLflow's monitors without their thread and client, so that the values take the same safe way as
    the others.
    """

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._monitors = _monitors()
        psutil.cpu_percent()  # the first call has nothing to compare with

    def sample(self) -> dict[str, float]:
        """Give the present values, such as `system/cpu_utilization_percentage`."""
        values = {f"{_PREFIX}process_memory_megabytes": self._process.memory_info().rss / 1e6}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update({_PREFIX + name: value for name, value in monitor.aggregate_metrics().items()})
            monitor.clear_metrics()
        return values


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, gpu_monitor

    cpu_class: Any = cpu_monitor.CPUMonitor  # untyped
    gpu_class: Any = gpu_monitor.GPUMonitor
    try:
        return [cpu_class(), gpu_class()]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return [cpu_class()]
