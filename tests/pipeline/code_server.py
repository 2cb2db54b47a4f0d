"""A code server as Dagster's daemon starts one, gone when the test goes on."""

import contextlib
from collections.abc import Iterator

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceLoadTarget
from dagster._daemon.controller import create_daemon_grpc_server_registry


@contextlib.contextmanager
def code_server(target: WorkspaceLoadTarget, instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """Serve the definitions of `target`.

    Dagster only asks the server to end; one that is slow to would be found running by whichever test comes next.
    """
    with (
        create_daemon_grpc_server_registry(instance) as servers,
        WorkspaceProcessContext(instance, target, grpc_server_registry=servers) as workspace,
    ):
        yield workspace
    servers.wait_for_processes()
