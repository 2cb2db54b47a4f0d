"""After a whole fold with keys and passwords in the environment: no file of the workspace holds any of them."""

import psutil
import pytest

from tests.ui.servers import SECRET, Servers


@pytest.mark.usefixtures("fold")
def test_no_file_of_the_workspace_and_no_command_line_holds_a_secret(servers: Servers):
    files = [path for path in servers.home.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    # Runs and their configuration, logs of the services and of steps, MLflow, models.
    assert {"mlflow.db", "runs.db", "dagster-webserver.log", "scores.csv", "model_card.json"} <= names
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    family = psutil.Process(servers.process.pid).children(recursive=True)
    assert len(family) >= 3
    assert [process for process in family if SECRET in " ".join(process.cmdline())] == []
