"""Kubernetes: no cluster is here, so the executor's configuration and the pods it asks for are held against schemas."""

import dagster as dg
import pytest
from dagster._config import validate_config

from engine.cluster.executor import chosen_executor, kubernetes_config, steps_of_pool

pytestmark = pytest.mark.cluster

WITH_GPUS = {"SCARFORGE_EXECUTOR": "k8s", "SCARFORGE_K8S_GPUS": "1"}


@pytest.fixture(scope="module")
def gpu_steps():
    from pipeline.definitions import all_assets

    return steps_of_pool(all_assets)


def schema():
    from dagster_k8s import k8s_job_executor  # `make test` collects this folder without the extra `cluster`

    field = k8s_job_executor.config_schema.as_field()
    return field.config_type


@pytest.mark.parametrize("environment", [{}, WITH_GPUS])
def test_the_executors_configuration_fits_its_schema(environment, gpu_steps):
    config = kubernetes_config(environment, gpu_steps)
    assert validate_config(schema(), config).success
    assert chosen_executor({**environment, "SCARFORGE_EXECUTOR": "k8s"}, gpu_steps).name == "k8s"


def test_the_schema_refuses_what_dagster_k8s_does_not_know():
    wrong = {"per_step_k8s_config": {"pix2pix": {"container_configuration": {}}}}
    assert not validate_config(schema(), wrong).success


def test_a_training_asks_its_pod_for_a_gpu_and_a_table_does_not(gpu_steps):
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    steps = kubernetes_config(WITH_GPUS, gpu_steps)["per_step_k8s_config"]
    assert set(steps) == set(gpu_steps) >= {"pix2pix", "halsr_net_real_only"}
    assert "comparison" not in steps
    own = UserDefinedDagsterK8sConfig.from_dict(steps["pix2pix"])
    job = construct_dagster_k8s_job(DagsterK8sJobConfig(job_image="scarforge:0.2.0"), ["dagster"], "step", own)
    (container,) = job.spec.template.spec.containers
    assert container.resources.limits == {"nvidia.com/gpu": "1"}
    assert container.image == "scarforge:0.2.0"


def test_jobs_resolve_with_the_executor(gpu_steps):
    @dg.asset
    def nothing() -> None: ...

    executor = chosen_executor(WITH_GPUS, gpu_steps)
    defs = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("all", "*")], executor=executor)
    assert defs.resolve_job_def("all").executor_def.name == "k8s"
