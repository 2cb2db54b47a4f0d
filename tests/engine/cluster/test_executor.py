"""Which executor runs the steps: chosen by the environment, explained where it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from common.errors import InputError
from engine.cluster.executor import chosen_executor, executor_name, forwarded_environment, kubernetes_config

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("environment", [{}, {"SCARFORGE_EXECUTOR": ""}, {"SCARFORGE_EXECUTOR": "multiprocess"}])
def test_steps_are_processes_of_this_machine_unless_told_otherwise(environment):
    assert executor_name(environment) == "multiprocess"
    executor = chosen_executor(environment, [])
    assert executor.name == dg.multiprocess_executor.name


def test_an_unknown_executor_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match=r"SCARFORGE_EXECUTOR='dask' .* choose one of multiprocess, ray, k8s"):
        chosen_executor({"SCARFORGE_EXECUTOR": "dask"}, [])


@pytest.mark.parametrize(
    ("name", "package", "module"),
    [("ray", "dagster_ray", "engine.cluster.ray_steps"), ("k8s", "dagster_k8s", "dagster_k8s")],
)
def test_an_executor_that_is_not_installed_tells_how_to_install_it(name, package, module, monkeypatch):
    for known in [known for known in sys.modules if known.startswith((package, module))]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}.*pip install 'scarforge\[{name}\]'"):
        chosen_executor({"SCARFORGE_EXECUTOR": name}, [])


def test_a_step_elsewhere_is_told_what_it_needs_but_no_secret(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {
        "SCARFORGE_PROFILE": "tiny",
        "SCARFORGE_ROOT": "studies",
        "SCARFORGE_MAIL_PASSWORD": "x",
        "SCARFORGE_NOTIFY": "jsons://hooks/x",
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
        "MLFLOW_TRACKING_TOKEN": "x",
        "DAGSTER_HOME": "/shared/dagster",
        "HOME": "/root",
    }
    assert sorted(forwarded_environment(environment)) == [
        "DAGSTER_HOME=/shared/dagster",
        "MLFLOW_TRACKING_URI=http://tracking:5000",
        f"SCARFORGE_HOME={tmp_path}/workspace",
        "SCARFORGE_PROFILE=tiny",
        f"SCARFORGE_ROOT={tmp_path}/studies",
    ]


@pytest.mark.parametrize("value", ["many", "-1", "inf", "nan"])
def test_a_number_of_gpus_that_is_none_is_refused(value):
    with pytest.raises(InputError, match=rf"SCARFORGE_K8S_GPUS='{value}'"):
        kubernetes_config({"SCARFORGE_K8S_GPUS": value}, [])


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["multiprocess", "ray", "k8s"])
def test_definitions_stay_light_whatever_the_executor(executor):
    if executor != "multiprocess":
        pytest.importorskip(f"dagster_{executor}", reason="its extra is installed by make test-cluster")
    heavy = "torch", "mlflow", "ray", "albumentations"
    code = (
        f"import sys, pipeline.definitions as d; print(d.defs.executor.name, [n for n in {heavy} if n in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCARFORGE_EXECUTOR": executor}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert done.stdout.startswith(executor)
