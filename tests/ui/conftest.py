"""One start of both interfaces and one fold, materialised through the browser, for all tests of this folder."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.ui.browser import browser, keep_picture
from tests.ui.dagster_pages import DagsterPages
from tests.ui.mlflow_pages import MlflowPages
from tests.ui.servers import PROFILE, Servers, start_servers

_HERE = Path(__file__).parent
_FAILURES = _HERE.parents[1] / "build" / "ui-failures"
_OPEN: dict[str, Servers | BrowserContext] = {}  # what a failure is documented with


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.ui)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and _HERE in item.path.parents:
        folder = _FAILURES / re.sub(r"\W+", "_", f"{item.name} {report.when}")
        report.sections.append(("user interfaces", f"screenshots and the servers' logs: {_document(folder)}"))
    return report


def _document(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    servers, context = _OPEN.get("servers"), _OPEN.get("context")
    if isinstance(servers, Servers):
        for log in servers.logs:
            shutil.copy2(log, folder)
    if isinstance(context, BrowserContext):
        for number, page in enumerate(context.pages):
            keep_picture(page, f"page_{number}", folder)
            (folder / f"page_{number}.txt").write_text(f"{page.url}\n{page.locator('body').aria_snapshot()}\n")
    return folder


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        _OPEN["context"] = opened
        yield opened
        del _OPEN["context"]


@pytest.fixture(scope="session")
def servers(context: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = start_servers(tmp_path_factory.mktemp("ui") / "home")
    _OPEN["servers"] = started
    yield started
    del _OPEN["servers"]
    started.stop()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    opened = context.new_page()
    yield opened
    opened.close()


@pytest.fixture
def dagster(page: Page, servers: Servers) -> DagsterPages:
    return DagsterPages(page, servers.dagster)


@pytest.fixture
def mlflow(page: Page, servers: Servers) -> MlflowPages:
    return MlflowPages(page, servers.mlflow)


@pytest.fixture(scope="session")
def fold(context: BrowserContext, servers: Servers) -> str:
    """The Dagster run of fold 0, started and watched to its end in the browser."""
    page = context.new_page()
    pages = DagsterPages(page, servers.dagster)
    pages.open_job(f"{PROFILE}_fold")
    run_id = pages.materialise(fold="0")
    pages.watch_run(run_id)
    page.close()
    return run_id
