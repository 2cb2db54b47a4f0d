"""What is answered below `/scarforge` and at MLflow's first page."""

import asyncio
import io
import shutil
from dataclasses import dataclass, field

import pytest
from PIL import Image
from starlette.applications import Starlette

from engine.tracking.store import prepare_store
from engine.workspace import DATABASE, sqlite_uri
from pipeline.services.linked_pages import first_page, linked_pages, narrowed, shown_file

MLFLOW = "http://127.0.0.1:5701"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


def answer_of(routes, target, method="GET"):
    path, _, query = target.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    answer = Answer()

    async def receive():
        await asyncio.Event().wait()  # a browser that has asked, and stays

    async def send(message):
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        answer.text += message.get("body", b"").decode(errors="replace")

    asyncio.run(Starlette(routes=routes)(scope | {"server": ("127.0.0.1", 80), "scheme": "http"}, receive, send))
    return answer


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    for name in ("phantom/report.html", "phantom/.hidden/report.html", "phantom/sheet.png", "phantom/record.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "outside.html").write_text("outside")
    (folder / "phantom" / "link.html").symlink_to(tmp_path / "outside.html")
    return folder


@pytest.mark.parametrize(
    "name",
    ["phantom/record.json", "phantom/.hidden/report.html", "../outside.html", "phantom/link.html", "none.html", ""],
)
def test_nothing_but_pages_and_pictures_of_the_workspace_is_shown(name, home):
    assert shown_file(home, name) is None


def test_a_page_may_show_itself_and_run_nothing(home):
    routes = linked_pages(home, MLFLOW, {})
    answer = answer_of(routes, "/scarforge/files/phantom/report.html")
    assert (answer.status, answer.text) == (200, "phantom/report.html")
    assert answer.headers["content-type"].startswith("text/html")
    assert "sandbox allow-popups" in answer.headers["content-security-policy"]
    assert answer_of(routes, "/scarforge/files/phantom/sheet.png").headers["content-type"] == "image/png"
    assert answer_of(routes, "/scarforge/files/phantom/record.json").status == 404
    assert answer_of(routes, "/scarforge/files/phantom/report.html", "POST").status == 405


def test_a_picture_is_made_no_wider_than_asked(tmp_path):
    Image.new("RGB", (800, 400)).save(tmp_path / "sheet.png")
    with Image.open(io.BytesIO(narrowed(tmp_path / "sheet.png", 320))) as small:
        assert small.size == (320, 160)
    Image.new("RGB", (200, 400)).save(tmp_path / "narrow.png")
    with Image.open(io.BytesIO(narrowed(tmp_path / "narrow.png", 320))) as same:
        assert same.size == (200, 400)


def test_links_to_mlflow_lead_to_where_it_is_now_and_among_the_trained_models(home, empty_store):
    shutil.copy2(empty_store, home / DATABASE)
    prepare_store(sqlite_uri(home))
    routes = linked_pages(home, MLFLOW, {})
    run = answer_of(routes, "/scarforge/mlflow/runs/abc").headers["location"]
    assert run == f"{MLFLOW}/#/experiments/1/runs/abc?workflowType=machine_learning"
    both = answer_of(routes, "/scarforge/mlflow/compare-runs?runs=%5B%22a%22%5D&workflowType=machine_learning")
    assert both.headers["location"] == f"{MLFLOW}/#/compare-runs?runs=%5B%22a%22%5D&workflowType=machine_learning"


def test_mlflows_first_page_opens_our_runs_with_the_columns_that_tell_arms_apart(home, empty_store):
    shutil.copy2(empty_store, home / DATABASE)
    prepare_store(uri := sqlite_uri(home))
    page = answer_of([first_page(uri)], "/").text
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert '"mlflow.workflowType_v1": "\\"machine_learning\\""' in script
    assert '"experiments/1/runs?workflowType=machine_learning"' in script
    assert "dice/positive/no_reflow" in script
    assert page.index("<script>") < page.index("static-files")
