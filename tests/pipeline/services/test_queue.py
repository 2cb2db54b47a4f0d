"""The queue under the settings of a workspace: a daemon that is restarted starts no run twice and forgets none."""

import dagster as dg
import pytest
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from pipeline.services.dagster_home import prepare_dagster_home
from tests.pipeline.code_server import code_server

DEFINITIONS = """
import dagster as dg

@dg.asset
def nothing() -> None: ...

defs = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("all")])
"""
NO_WORKERS = "run_launcher: {module: dagster._core.test_utils, class: MockedRunLauncher}\n"


@pytest.fixture
def queue(tmp_path):
    """An instance whose launcher only remembers, and a code server."""
    home = prepare_dagster_home(tmp_path)
    with (home / "dagster.yaml").open("a") as settings:
        settings.write(NO_WORKERS)
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    target = PythonFileTarget(str(tmp_path / "definitions.py"), None, str(tmp_path), "trivial")
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        code_server(target, instance) as workspace,
    ):
        yield instance, workspace


def submit(instance, workspace):
    @dg.asset
    def nothing() -> None: ...

    defs = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("all")])
    context = workspace.create_request_context()
    (repository,) = context.code_locations[0].get_repositories().values()
    remote = repository.get_full_job("all")
    run = instance.create_run_for_job(
        job_def=defs.resolve_job_def("all"),
        remote_job_origin=remote.get_remote_origin(),
        job_code_origin=remote.get_python_origin(),
    )
    instance.submit_run(run.run_id, context)
    return run


def a_new_daemon_looks(workspace):
    list(QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(workspace))


@pytest.mark.slow
def test_a_full_queue_waits_and_a_restarted_daemon_starts_each_run_once(queue):
    instance, workspace = queue
    runs = [submit(instance, workspace) for _ in range(4)]
    launched = instance.run_launcher.queue
    assert launched() == []
    for _ in range(2):  # the second daemon finds what the first has started
        a_new_daemon_looks(workspace)
        assert [run.run_id for run in launched()] == [run.run_id for run in runs[:2]]
    assert instance.get_run_by_id(runs[2].run_id).status == dg.DagsterRunStatus.QUEUED
    for done in runs[:2]:
        instance.report_run_canceled(instance.get_run_by_id(done.run_id))
    a_new_daemon_looks(workspace)
    a_new_daemon_looks(workspace)
    assert [run.run_id for run in launched()] == [run.run_id for run in runs]
