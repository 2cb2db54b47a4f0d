"""A page of another site, in a real browser, against both interfaces: nothing changes, nothing is read."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from tests.ui.foreign_page import ATTACK, Site, site
from tests.ui.servers import PROFILE, Servers

PLACE = 'repositoryName: "__repository__", repositoryLocationName: "scarforge"'
NIGHTLY = f'scheduleSelector: {{{PLACE}, scheduleName: "nightly"}}'
START = f"mutation {{startSchedule({NIGHTLY}) {{__typename}}}}"
STATE = f"{{scheduleOrError({NIGHTLY}) {{... on Schedule {{scheduleState {{id selectorId status}}}}}}}}"
FOLD = f'selector: {{{PLACE}, pipelineName: "{PROFILE}_fold"}}'
LAUNCH = f'mutation {{launchRun(executionParams: {{mode: "default", runConfigData: "{{}}", {FOLD}}}) {{__typename}}}}'
RUNS = "{runsOrError {... on Runs {results {id}}}}"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=100"
CREATE = ("/ajax-api/2.0/mlflow/experiments/create", "", '{"name": "intruder"}')
SAME_ORIGIN_POST = """
async ([path, body]) => {
  const answer = await fetch(path, {method: 'POST', body, headers: {'Content-Type': 'application/json'}});
  return [answer.status, await answer.text()];
}
"""


@pytest.fixture(scope="module")
def evil() -> Iterator[Site]:
    with site() as served:
        yield served


def asked_by_program(address: str, body: str | None = None) -> Any:
    request = urllib.request.Request(address, body and body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def graphql(servers: Servers, query: str) -> Any:
    return asked_by_program(f"{servers.dagster}/graphql", json.dumps({"query": query}))["data"]


def state(servers: Servers) -> tuple[Any, Any, Any]:
    """Return what an intruder would change."""
    experiments = asked_by_program(origin(servers.mlflow) + EXPERIMENTS)["experiments"]
    names = sorted(experiment["name"] for experiment in experiments)
    return graphql(servers, STATE), graphql(servers, RUNS), names


def origin(address: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(address))


def writes(*mutations: str) -> list[tuple[str, str, str]]:
    return [("/graphql", mutation, json.dumps({"query": mutation})) for mutation in mutations]


def test_the_page_really_tries_all(evil: Site, page: Page):
    with site() as victim:
        page.goto(evil.page)
        target = f"http://localhost:{victim.port}"
        page.evaluate(ATTACK, {"target": target, "writes": writes(START), "reads": ["/"]})
        assert {
            ("GET", "image"),
            ("GET", "script"),
            ("GET", "empty"),
            ("GET", "iframe"),
            ("GET", "websocket"),
            ("POST", "text/plain"),
            ("POST", "application/x-www-form-urlencoded"),
            ("POST", "multipart/form-data"),
            ("OPTIONS", "empty"),  # before JSON
        } <= set(victim.asked)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_site_changes_nothing_and_reads_nothing(name: str, evil: Site, page: Page, servers: Servers):
    before = state(servers)
    assert before[0]["scheduleOrError"]["scheduleState"]["status"] == "STOPPED"
    for address, tried, reads in (
        (servers.dagster, writes(START, LAUNCH), ["/server_info", f"/graphql?query={RUNS}", "/"]),
        (origin(servers.mlflow), [CREATE, *writes("{mlflowGetExperiment {experiment {name}}}")], ["/version", "/"]),
    ):
        target = address.replace("127.0.0.1", name)
        page.goto(evil.page)
        assert page.evaluate(ATTACK, {"target": target, "writes": tried, "reads": reads}) == []
    assert state(servers) == before


def test_a_name_that_is_pointed_here_is_not_served(page: Page, servers: Servers):
    before = state(servers)
    for address, (path, _, body) in ((servers.dagster, writes(START)[0]), (origin(servers.mlflow), CREATE)):
        opened = page.goto(f"http://rebound.test:{urlsplit(address).port}/")
        assert opened is not None
        assert opened.status == 421
        assert page.evaluate(SAME_ORIGIN_POST, [path, body])[0] == 421
    assert state(servers) == before


def test_a_link_on_another_site_still_opens_both(evil: Site, page: Page, servers: Servers):
    for address, title in ((servers.dagster, "Dagster"), (servers.mlflow, "MLflow")):
        page.goto(evil.page)
        page.evaluate("address => { document.body.innerHTML = `<a href='${address}'>see</a>`; }", address)
        page.get_by_role("link", name="see").click()
        page.wait_for_function("title => document.title.includes(title)", arg=title)


def test_the_interfaces_own_pages_may_do_what_the_foreign_one_may_not(page: Page, servers: Servers):
    page.goto(f"{servers.dagster}/server_info")
    status, answer = page.evaluate(SAME_ORIGIN_POST, ["/graphql", writes(START)[0][2]])
    assert (status, json.loads(answer)) == (200, {"data": {"startSchedule": {"__typename": "ScheduleStateResult"}}})
    running = graphql(servers, STATE)["scheduleOrError"]["scheduleState"]
    assert running["status"] == "RUNNING"
    stopped = graphql(servers, f'mutation {{stopRunningSchedule(id: "{running["id"]}") {{__typename}}}}')
    assert stopped == {"stopRunningSchedule": {"__typename": "ScheduleStateResult"}}
    page.goto(f"{origin(servers.mlflow)}/version")
    status, answer = page.evaluate(SAME_ORIGIN_POST, [CREATE[0], '{"name": "made by the own page"}'])
    assert status == 200
    page.evaluate(SAME_ORIGIN_POST, ["/ajax-api/2.0/mlflow/experiments/delete", answer])
