"""What the guarded servers answer besides Dagster's and MLflow's own pages, so that links lead to the right place.

Beside Dagster: files of the workspace and the way to MLflow, both below `/scarforge` (`engine.links`). At MLflow's
first page: a browser that has not chosen otherwise sees the pages about trained models, and our runs first.
"""

import functools
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.links import SERVED, SHOWN_FILES, browser_state, first_runs_page, run_page
from engine.tracking.store import EXPERIMENT, find_experiment, tracking_places

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

# A file may have been planted: it may show itself, and neither runs anything nor acts in Dagster's name.
_FILE_HEADERS = {
    "content-security-policy": "sandbox allow-popups; default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    "cache-control": "no-cache",
}
_FIRST_SCRIPT = """
<script>
for (const [key, value] of Object.entries(%s)) {
  if (localStorage.getItem(key) === null) localStorage.setItem(key, value);
}
if (location.hash.length < 3) location.replace('#/' + %s);
</script>
"""

Endpoint = Callable[["Request"], "Response"]  # none is a coroutine: Starlette gives each request a thread


def linked_pages(home: Path, mlflow: str, environment: Mapping[str, str]) -> "list[Route]":
    """Return the routes below `/scarforge`.

    Args:
        home: The workspace.
        mlflow: Where browsers find MLflow.
        environment: Names the store that knows the experiment.
    """
    from starlette.routing import Route

    uri = tracking_places(home, environment).uri
    return [
        Route(f"{SERVED}/files/{{name:path}}", _file(home), methods=["GET"]),
        Route(f"{SERVED}/mlflow/{{page:path}}", _mlflow(mlflow, uri), methods=["GET"]),
    ]


def _file(home: Path) -> Endpoint:
    from starlette.responses import FileResponse, PlainTextResponse, Response

    def answer(request: "Request") -> Response:
        path, width = shown_file(home, request.path_params["name"]), request.query_params.get("width", "")
        if path is None:
            return PlainTextResponse("scarforge: no such page or picture in the workspace\n", 404)
        if path.suffix == ".png" and width.isdecimal() and int(width):
            return Response(narrowed(path, int(width)), media_type="image/png", headers=_FILE_HEADERS)
        return FileResponse(path, headers=_FILE_HEADERS)

    return answer


def shown_file(home: Path, name: str) -> Path | None:
    """Return a page or picture of the workspace by its relative path; None for all else that lies there."""
    path = (home / name).resolve()
    inside = path.is_relative_to(home.resolve()) and not any(part.startswith(".") for part in Path(name).parts)
    return path if inside and path.suffix in SHOWN_FILES and path.is_file() else None


def narrowed(path: Path, width: int) -> bytes:
    """Return a picture as PNG, no wider than `width`."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((width, small.height))
    written = io.BytesIO()
    small.save(written, format="PNG")
    return written.getvalue()


def _mlflow(server: str, uri: str) -> Endpoint:
    from starlette.responses import RedirectResponse

    experiment = functools.cache(lambda: find_experiment(uri, EXPERIMENT) or "")

    def answer(request: "Request") -> "Response":
        page, asked = request.path_params["page"], request.url.query
        if page.startswith("runs/"):
            return RedirectResponse(f"{server}/#/{run_page(page.removeprefix('runs/'), experiment())}")
        return RedirectResponse(f"{server}/#/{page}?{asked}")

    return answer


def first_page(uri: str) -> "Route":
    """Return MLflow's page with a script before its own.

    Args:
        uri: MLflow's store, which holds our experiment.
    """
    import mlflow
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    page = (Path(mlflow.__file__).parent / "server/js/build/index.html").read_text(encoding="utf-8")
    experiment = find_experiment(uri, EXPERIMENT)
    if experiment:
        script = _FIRST_SCRIPT % (json.dumps(browser_state(experiment)), json.dumps(first_runs_page(experiment)))
        page = page.replace("<head>", f"<head>{script}", 1)

    def answer(_: "Request") -> "Response":
        return HTMLResponse(page, headers={"cache-control": "no-cache"})

    return Route("/", answer, methods=["GET"])
