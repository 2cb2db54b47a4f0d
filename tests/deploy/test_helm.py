"""Values of the charts. The charts are not in any registry of packages, so the parts that reach Dagster are checked."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def values(name):
    return yaml.safe_load((DEPLOY / "helm" / f"{name}-values.yaml").read_text())


@pytest.fixture
def code():
    [deployment] = values("dagster")["dagster-user-deployments"]["deployments"]
    return deployment


def test_what_goes_into_dagsters_settings_is_accepted_beside_what_the_chart_writes(tmp_path):
    coordinator = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator", "config": {}}
    ours = values("dagster")["additionalInstanceConfig"]
    content = {"telemetry": values("dagster")["telemetry"], "run_coordinator": coordinator, **ours}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert not instance.telemetry_enabled
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 4
        assert concurrency.run_queue_config.max_concurrent_runs == 5


def test_it_is_what_the_compose_files_have_but_for_the_numbers():
    ours, compose = values("dagster")["additionalInstanceConfig"], yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert ours["run_monitoring"] == compose["run_monitoring"]
    assert ours["run_retries"] == compose["run_retries"]
    daemon = values("dagster")["dagsterDaemon"]
    # The chart's own keys are off, or these would be there twice.
    assert not daemon["runMonitoring"]["enabled"]
    assert not daemon["runRetries"]["enabled"]


def test_the_run_launcher_accepts_what_every_run_is_given():
    dagster_k8s = pytest.importorskip("dagster_k8s")
    from dagster._config import validate_config
    from dagster_k8s.job import UserDefinedDagsterK8sConfig

    given = values("dagster")["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    snake = {"containerConfig": "container_config", "podSpecConfig": "pod_spec_config"}
    plain = {snake[name]: content for name, content in given.items()}
    launcher = {"run_k8s_config": plain, "image_pull_policy": "IfNotPresent", "service_account_name": "dagster"}
    launcher |= {"instance_config_map": "dagster-instance", "dagster_home": "/opt/dagster"}
    checked = validate_config(dagster_k8s.K8sRunLauncher.config_type(), launcher)
    assert checked.success, checked.errors
    config = UserDefinedDagsterK8sConfig.from_dict(plain)
    assert config.pod_spec_config["termination_grace_period_seconds"] == 120


def test_steps_are_pods_that_find_each_others_results(code):
    assert code["env"]["SCARFORGE_EXECUTOR"] == "k8s"
    assert code["env"]["SCARFORGE_REMOTE"].startswith("s3://")
    assert code["includeConfigInLaunchedRuns"]["enabled"]
    assert code["dagsterApiGrpcArgs"] == ["--module-name", "pipeline.definitions"]
    mounted = {mount["name"]: mount["mountPath"] for mount in code["volumeMounts"]}
    assert mounted["workspace"] == code["env"]["SCARFORGE_HOME"]
    assert mounted["studies"] == code["env"]["SCARFORGE_ROOT"]
    assert set(mounted) == {volume["name"] for volume in code["volumes"]}
    assert all(isinstance(value, str) for value in code["env"].values())


def test_runs_know_mlflow_by_the_name_that_its_chart_gives_and_allows(code):
    mlflow = values("mlflow")
    address = f"{mlflow['fullnameOverride']}:{mlflow['service']['port']}"
    assert code["env"]["MLFLOW_TRACKING_URI"] == f"http://{address}"
    assert address in mlflow["extraEnvVars"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert mlflow["image"]["tag"] == mlflow["initImages"]["mlflowDbMigration"]["tag"]
    pinned = (DEPLOY.parent / "constraints.txt").read_text().splitlines()
    assert f"mlflow=={mlflow['image']['tag']}" in pinned


def test_nothing_is_published_and_no_password_lies_in_the_values():
    for name in ("dagster", "mlflow"):
        content = values(name)
        assert not content["ingress"]["enabled"]
        assert content["telemetry"] == {"enabled": False}
        assert "LoadBalancer" not in yaml.safe_dump(content)
        assert not any(key.lower().endswith("password") for key in keys(content))


def keys(content):
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from keys(value)
    elif isinstance(content, list):
        for item in content:
            yield from keys(item)
