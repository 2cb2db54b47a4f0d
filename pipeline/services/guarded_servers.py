"""Dagster's webserver and MLflow's server as processes, each behind the guard; there is no way to start one without.

Started as `python -P -m pipeline.services.guarded_servers dagster --port 3000 --workspace FILE --mlflow URL` and
`... mlflow --port 5000 --artifacts DIR`, the latter with MLflow's store in `MLFLOW_BACKEND_STORE_URI`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.quiet import quieten
from engine.workspace import home_of
from pipeline.services.guard import LOOPBACK, Address, Door, Guard, door_of
from pipeline.services.linked_pages import first_page, linked_pages

if TYPE_CHECKING:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from starlette.types import ASGIApp

_STOP_TIMEOUT_S = 2  # a page's websocket stays open as long as its window
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW = 15_000, 3_600, 20  # as `dagster-webserver` sets them


def command(server: str, address: Address, *options: str) -> list[str]:
    """Return the command line that starts a server, without the current folder on Python's path."""
    line = [sys.executable, "-P", "-m", "pipeline.services.guarded_servers", server]
    line += ["--host", address.host, "--port", str(address.port)]
    line += [part for name in address.proxied for part in ("--behind-proxy", name)]
    line += ["--password-file", str(address.password_file)] if address.password_file else []
    return [*line, *options]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it; what is wrong with the input is one line."""
    quieten()
    asked = _parser().parse_args(arguments)
    address = Address(asked.port, asked.host, tuple(asked.behind_proxy), asked.password_file)
    try:
        if asked.server == "dagster":
            _serve_dagster(address, asked.workspace, asked.mlflow)
        else:
            _serve_mlflow(address, asked.artifacts)
    except InputError as error:
        sys.exit(f"scarforge: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="guarded_servers")
    servers = parser.add_subparsers(dest="server", required=True)
    dagster, mlflow = servers.add_parser("dagster"), servers.add_parser("mlflow")
    dagster.add_argument("--workspace", type=Path, required=True)
    dagster.add_argument("--mlflow", required=True)  # where browsers find it
    mlflow.add_argument("--artifacts", type=Path, required=True)
    for server in (dagster, mlflow):
        server.add_argument("--host", default=LOOPBACK)
        server.add_argument("--port", type=int, required=True)
        server.add_argument("--behind-proxy", action="append", default=[])
        server.add_argument("--password-file", type=Path)
    return parser


def _serve_dagster(address: Address, workspace: Path, mlflow: str) -> None:
    import dagster as dg
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    door = door_of(address)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW)
        with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)]), version=__version__) as context:
            _require_loaded(context)
            app = create_app_from_workspace_process_context(context)
            app.router.routes[:0] = linked_pages(home_of(os.environ), mlflow, os.environ)
            _listen(app, address, door)


def _require_loaded(context: WorkspaceProcessContext) -> None:
    """Raise if a code location could not be loaded: its page would be empty."""
    for name, entry in context.create_request_context().get_code_location_entries().items():
        if entry.load_error:
            error = entry.load_error
            deepest = (error.cause or error).message.strip().splitlines()
            raise InputError(f"the code location {name!r} cannot be loaded: {deepest[0] if deepest else error}")


def _serve_mlflow(address: Address, artifacts: Path) -> None:
    from mlflow.server import constants

    door = door_of(address)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: os.environ["MLFLOW_BACKEND_STORE_URI"],
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts.absolute().as_uri(),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        # MLflow's own check, which takes every port of this machine for its own, so that it knows the proxy's names.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(sorted(door.hosts)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(sorted(door.origins)),
    }
    from mlflow.server.fastapi_app import app

    app.router.routes[:0] = [first_page(os.environ["MLFLOW_BACKEND_STORE_URI"])]
    _listen(app, address, door)


def _listen(app: ASGIApp, address: Address, door: Door) -> None:
    import uvicorn

    uvicorn.run(
        Guard(app, door),
        host=address.host.strip("[]"),
        port=address.port,
        log_level="warning",
        proxy_headers=bool(address.proxied),
        timeout_graceful_shutdown=_STOP_TIMEOUT_S,
    )


if __name__ == "__main__":
    main()
