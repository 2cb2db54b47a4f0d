"""Where the steps of a run are carried out: processes of this machine, jobs of a Ray cluster, or pods of Kubernetes.

Chosen by `SCARFORGE_EXECUTOR`, without a change of code. Ray and Kubernetes are imported only when they are chosen.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from common.errors import InputError

EXECUTORS = ("multiprocess", "ray", "k8s")
GPU_POOL = "gpu"

# What a step needs of the environment in which its run was started, wherever it is carried out.
_FORWARDED_PREFIXES = ("SCARFORGE_", "MLFLOW_", "OMP_")
_FORWARDED_NAMES = ("DAGSTER_HOME", "PYTHONPATH", "PGPASSFILE", "NO_ALBUMENTATIONS_UPDATE")
_SECRETS = ("PASSWORD", "TOKEN", "SECRET", "NOTIFY")  # a job's environment is shown by Ray's dashboard


def executor_name(environment: Mapping[str, str]) -> str:
    """Return which executor `SCARFORGE_EXECUTOR` names.

    Args:
        environment: Usually `os.environ`.

    Raises:
        InputError: It names none of `EXECUTORS`.
    """
    name = environment.get("SCARFORGE_EXECUTOR") or "multiprocess"
    if name not in EXECUTORS:
        raise InputError(f"SCARFORGE_EXECUTOR={name!r} does not exist; choose one of {', '.join(EXECUTORS)}")
    return name


def chosen_executor(environment: Mapping[str, str], gpu_steps: Iterable[str]) -> dg.ExecutorDefinition:
    """Return the executor of every job.

    Args:
        environment: Usually `os.environ`; for Ray also `SCARFORGE_RAY_CPUS` and `SCARFORGE_RAY_GPUS` (a step's share)
            and `SCARFORGE_RAY_RETRIES`, for Kubernetes `SCARFORGE_K8S_GPUS`.
        gpu_steps: Names of the steps in the pool `gpu`.

    Raises:
        InputError: A value is wrong, or the chosen executor is not installed.
    """
    name = executor_name(environment)
    if name == "ray":
        return _ray(environment, frozenset(gpu_steps))
    if name == "k8s":
        return _kubernetes(environment, gpu_steps)
    return dg.multiprocess_executor.configured(_processes())


def _processes() -> dict[str, Any]:
    """Return the configuration of steps that are processes of this machine.

    They are forked from Dagster's server, which has the libraries: to start Python anew, with Dagster and torch, costs
    a step 3 to 8 s. Trainings are processes of their own (`engine.worker`).
    """
    # Two beside each other only where a core is idle: trainings wait for each other in the pool "gpu". With several
    # GPUs a training for each, and one step that prepares.
    config: dict[str, Any] = {"max_concurrent": pool_size(os.environ) + 1}
    if sys.platform == "linux":
        libraries = ["torch", "pipeline.definitions", "dagster._cli"]
        config["start_method"] = {"forkserver": {"preload_modules": libraries}}
    return config


def pool_size(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many trainings this machine has places for: one a GPU that may be seen, and one without any.

    Args:
        environment: Usually `os.environ`, for `CUDA_VISIBLE_DEVICES`.
        devices: Where the driver shows its GPUs as `nvidia0`, `nvidia1` and so on; PyTorch takes seconds to tell them.
    """
    there = sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia*"))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    named = there if visible is None else len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    return max(1, min(there, named))


def steps_of_pool(assets: Iterable[Any], pool: str = GPU_POOL) -> list[str]:
    """Return the names of the steps that a pool limits."""
    return sorted(asset.op.name for asset in assets if isinstance(asset, dg.AssetsDefinition) and asset.op.pool == pool)


def forwarded_environment(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that a step on another machine needs, as `NAME=value`, folders as absolute paths.

    Secrets are left out: Ray's dashboard shows a job's environment. Set those on the machines themselves.
    """
    names = [
        name
        for name in sorted(environment)
        if (name.startswith(_FORWARDED_PREFIXES) or name in _FORWARDED_NAMES)
        and not any(word in name for word in _SECRETS)
    ]
    values = {name: environment[name] for name in names}
    # A Ray job starts in a folder of its own, in which a relative path means something else.
    values["SCARFORGE_HOME"] = str(Path(values.get("SCARFORGE_HOME") or "workspace").absolute())
    if values.get("SCARFORGE_ROOT"):
        values["SCARFORGE_ROOT"] = str(Path(values["SCARFORGE_ROOT"]).absolute())
    return [f"{name}={value}" for name, value in values.items()]


def _ray(environment: Mapping[str, str], gpu_steps: frozenset[str]) -> dg.ExecutorDefinition:
    try:
        from engine.cluster.ray_steps import RayOptions, ray_steps_executor
    except ModuleNotFoundError as error:
        raise _missing("ray", "ray", error) from error
    options = RayOptions(
        cpus=_number(environment, "SCARFORGE_RAY_CPUS", 1.0),
        gpus=_number(environment, "SCARFORGE_RAY_GPUS", 0.0),
        retries=int(_number(environment, "SCARFORGE_RAY_RETRIES", 1.0)),
        gpu_steps=gpu_steps,
        # The job's command is `dagster …`: this interpreter's, where a machine has it, else the machine's own.
        environment=(*forwarded_environment(environment), f"PATH={Path(sys.executable).parent}:${{PATH}}"),
    )
    return ray_steps_executor(options)


def _kubernetes(environment: Mapping[str, str], gpu_steps: Iterable[str]) -> dg.ExecutorDefinition:
    """Return dagster-k8s's executor; image, volumes and environment of a step's pod are those of the run launcher."""
    try:
        from dagster_k8s import k8s_job_executor
    except ModuleNotFoundError as error:
        raise _missing("k8s", "k8s", error) from error
    return k8s_job_executor.configured(kubernetes_config(environment, gpu_steps))


def kubernetes_config(environment: Mapping[str, str], gpu_steps: Iterable[str]) -> dict[str, Any]:
    """Return the executor's configuration: `SCARFORGE_K8S_GPUS` for each step in the pool `gpu`, none for others."""
    gpus = int(_number(environment, "SCARFORGE_K8S_GPUS", 0.0))
    if not gpus:
        return {}
    limits = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}}
    return {"per_step_k8s_config": dict.fromkeys(gpu_steps, limits)}


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{name}={text!r}: expected a number from 0 on, such as 1")
    return value


def _missing(name: str, extra: str, error: ModuleNotFoundError) -> InputError:
    return InputError(f"SCARFORGE_EXECUTOR={name} needs {error.name}; pip install 'scarforge[{extra}]'")
