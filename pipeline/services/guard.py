"""Who may use the web interfaces: one decision, the ASGI application that holds to it, and both servers behind it.

Neither Dagster's webserver nor MLflow's server asks where a request comes from, and Dagster's runs mutations that a
foreign page has a browser send. The decision knows neither of them; there is no way to start one without it.

Started as `python -P -m pipeline.services.guard dagster --port 3000 --workspace FILE --mlflow URL` and `... mlflow
--port 5000 --artifacts DIR`, the latter with MLflow's store in `MLFLOW_BACKEND_STORE_URI`.
"""

from __future__ import annotations

import argparse
import base64
import ipaddress
import os
import secrets
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError, one_line
from common.progress import quieten
from engine.workspace import home_of
from pipeline.services.linked_pages import first_page, linked_pages

if TYPE_CHECKING:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HTTP_PORT = 80  # which a browser leaves out
_PROGRAMS_ONLY = ("/graphql", "/api/", "/ajax-api/")  # paths that no link leads to
_FEWEST_CHARACTERS = 12
_HEADERS = {
    b"x-frame-options": b"SAMEORIGIN",  # no foreign page shows ours in a frame and has it clicked
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}


@dataclass(frozen=True)
class Address:
    """Where an interface listens, the names that a proxy before it passes on, and the file with its password."""

    port: int
    host: str = LOOPBACK
    proxied: tuple[str, ...] = ()
    password_file: Path | None = None

    @property
    def url(self) -> str:
        """The address as it is typed into a browser."""
        return f"http://{_with_port(_bracketed(self.host), self.port)}"


@dataclass(frozen=True)
class Asked:
    """What the decision looks at in a request; the names of headers are in small letters."""

    path: str
    headers: Mapping[str, str]
    method: str = "GET"
    websocket: bool = False

    @property
    def is_clicked_link(self) -> bool:
        """Whether a browser fills its window with the answer: another site's page may lead here, not read it."""
        wanted = (self.method, self.headers.get("sec-fetch-mode"), self.headers.get("sec-fetch-dest"))
        return wanted == ("GET", "navigate", "document") and not self.path.casefold().startswith(_PROGRAMS_ONLY)


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that may not pass."""

    status: HTTPStatus
    reason: str


@dataclass(frozen=True)
class Door:
    """Which requests may pass: those for our own names, from our own pages or from programs.

    Attributes:
        hosts: Values of `Host` that are served, with the port as a browser writes it.
        origins: Values of `Origin` of our own pages.
        password: `name:password`, asked for if not empty.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    password: str = field(default="", repr=False)

    def refusal(self, asked: Asked) -> Refusal | None:
        """Return why a request may not pass, None if it may."""
        return (
            self._of_host(asked)
            or self._of_origin(asked)
            or self._of_site(asked)
            or self._of_password(asked)
            or self._of_graphql(asked)
        )

    def _of_host(self, asked: Asked) -> Refusal | None:
        host = asked.headers.get("host", "")
        if host.casefold() in self.hosts:
            return None
        # A foreign page may have its own name point here (DNS rebinding).
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, f"no interface is served under the name {host!r}")

    def _of_origin(self, asked: Asked) -> Refusal | None:
        origin = asked.headers.get("origin")
        if origin is None and not asked.websocket:  # a program, or a plain GET of a page of ours
            return None
        if origin is not None and origin.casefold() in self.origins:
            return None
        return Refusal(HTTPStatus.FORBIDDEN, f"requests from the origin {origin!r} are refused")

    def _of_site(self, asked: Asked) -> Refusal | None:
        site = asked.headers.get("sec-fetch-site")
        if site in (None, "same-origin", "none") or asked.is_clicked_link:
            return None
        return Refusal(HTTPStatus.FORBIDDEN, f"requests that another site's page causes ({site}) are refused")

    def _of_password(self, asked: Asked) -> Refusal | None:
        if not self.password:
            return None
        expected = "Basic " + base64.b64encode(self.password.encode()).decode()
        given = asked.headers.get("authorization", "")
        if secrets.compare_digest(given.encode(), expected.encode()):
            return None
        return Refusal(HTTPStatus.UNAUTHORIZED, "name and password are needed")

    def _of_graphql(self, asked: Asked) -> Refusal | None:
        if asked.websocket or not asked.path.casefold().startswith("/graphql"):
            return None
        kind = asked.headers.get("content-type", "").partition(";")[0].strip().casefold()
        if asked.method == "POST" and kind == "application/json":
            return None
        # Any page may have a browser send other kinds, and GETs, without asking first.
        return Refusal(HTTPStatus.FORBIDDEN, "GraphQL is taken as a POST of application/json only")


def door_of(address: Address) -> Door:
    """Return the door of an interface.

    Raises:
        InputError: The address is that of every network, or of another machine's reach without a password or a proxy
            that asks for one; the password file cannot be used.
    """
    _require_guarded(address)
    names = _LOOPBACK_NAMES if _is_loopback(address.host) else ()
    own = {_with_port(name, address.port) for name in (*names, _bracketed(address.host))}
    proxied = {name.casefold() for name in address.proxied}
    origins = {f"http://{name}" for name in own | proxied} | {f"https://{name}" for name in proxied}
    password = read_password(address.password_file) if address.password_file else ""
    return Door(frozenset(own | proxied), frozenset(origins), password)


def read_password(path: Path) -> str:
    """Return the line `name:password` of a file that only its owner may read.

    Raises:
        InputError: The file cannot be read, is open to others, or holds something else.
    """
    try:
        mode = path.stat().st_mode
        line = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"password file {path}: cannot be read ({one_line(error)}); write NAME:PASSWORD into it"
        ) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"password file {path}: others may read it ({stat.filemode(mode)}); run chmod 600 on it")
    name, _, password = line.partition(":")
    if not name or len(password) < _FEWEST_CHARACTERS or len(line.splitlines()) != 1:
        raise InputError(
            f"password file {path}: expected one line NAME:PASSWORD, the password of {_FEWEST_CHARACTERS} characters "
            "or more"
        )
    return line


class Guard:
    """An ASGI application that passes on what its door does not refuse."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or open one websocket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._door.refusal(_asked(scope))
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})  # the browser sees 403
        else:
            await _refuse(refusal, scope, receive, send)


def _asked(scope: Scope) -> Asked:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        # Two values are one that is none of ours.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Asked(scope["path"], headers, scope.get("method", "GET"), scope["type"] == "websocket")


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            missing = [(name, value) for name, value in _HEADERS.items() if name not in there]
            message = {**message, "headers": [*message.get("headers", ()), *missing]}
        await send(message)

    return sender


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import PlainTextResponse

    asks = refusal.status is HTTPStatus.UNAUTHORIZED
    headers = {"WWW-Authenticate": 'Basic realm="ScarForge", charset="UTF-8"'} if asks else None
    answer = PlainTextResponse(f"scarforge: {refusal.reason}\n", refusal.status, headers)
    await answer(scope, receive, _with_headers(send))


def _require_guarded(address: Address) -> None:
    host = address.host
    if host in ("", "*") or (_ip(host) or ipaddress.ip_address(1)).is_unspecified:
        raise InputError(f"host {host!r} is no name that a browser asks for; give this machine's name or address")
    if not (_is_loopback(host) or address.password_file or address.proxied):
        raise InputError(
            f"host {host}: other machines reach it, and whoever does may run anything; add --password-file FILE, or "
            "--behind-proxy HOST if a proxy before it asks for passwords"
        )


def _is_loopback(host: str) -> bool:
    address = _ip(host)
    return address.is_loopback if address else host.casefold() == "localhost"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.casefold()


def _with_port(name: str, port: int) -> str:
    return name if port == _HTTP_PORT else f"{name}:{port}"


_STOP_TIMEOUT_S = 2  # a page's websocket stays open as long as its window
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW = 15_000, 3_600, 20  # as `dagster-webserver` sets them


def command(server: str, address: Address, *options: str) -> list[str]:
    """Return the command line that starts a server, without the current folder on Python's path."""
    line = [sys.executable, "-P", "-m", "pipeline.services.guard", server]
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
    parser = argparse.ArgumentParser(prog="guard")
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
