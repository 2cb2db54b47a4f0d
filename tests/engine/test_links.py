"""Where the links of Dagster's pages lead, and in which order a page shows what an asset tells."""

import dagster as dg
import pytest
from PIL import Image

from engine.links import Links, arms_view, browser_state, compare_page, note_mlflow, noted_mlflow, run_page, runs_page
from engine.outcome import Fact, Outcome, metadata_of, number, text

SERVER = "https://mlflow.example.org"


def links(home, **environment):
    return Links.of(home, SERVER, lambda: "7", environment)


def test_every_page_of_mlflow_is_one_about_trained_models():
    assert run_page("abc", "7") == "experiments/7/runs/abc?workflowType=machine_learning"
    assert run_page("abc") == "runs/abc?workflowType=machine_learning"
    assert runs_page("7") == "experiments/7/runs?workflowType=machine_learning&viewStateShareKey=scarforge"
    assert compare_page(["a", "b"], ["7"]).split("&") == [
        "compare-runs?runs=%5B%22a%22%2C%22b%22%5D",
        "experiments=%5B%227%22%5D",
        "workflowType=machine_learning",
    ]


def test_links_keep_to_the_host_and_port_that_show_the_page(tmp_path):
    served = links(tmp_path)
    assert served.to_run("abc") == "/scarforge/mlflow/runs/abc"
    assert served.to_mlflow("compare-runs?x") == "/scarforge/mlflow/compare-runs?x"
    assert served.to_file(tmp_path / "phantom" / "a b.html") == "/scarforge/files/phantom/a%20b.html"
    assert served.to_file(tmp_path / "studies.h5") == served.to_file(tmp_path.parent / "page.html") == ""


def test_links_are_absolute_where_another_server_shows_dagster(tmp_path):
    elsewhere = links(tmp_path, SCARFORGE_DAGSTER_URL="https://dagster.example.org")
    assert elsewhere.to_run("abc") == f"{SERVER}/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert elsewhere.to_file(tmp_path / "report.html") == ""


def test_mlflow_is_linked_where_the_interface_last_served_it(tmp_path):
    assert noted_mlflow(tmp_path) == "http://127.0.0.1:5000"
    note_mlflow(tmp_path, "http://127.0.0.1:5701")
    assert noted_mlflow(tmp_path) == "http://127.0.0.1:5701"


@pytest.fixture
def outcome(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "sheet.png")
    facts = {
        "patients_by_fold": Fact("table", [{"fold": 0}]),
        "infarct": number(0.123456),
        "no_reflow": number(12.3456),
        "patients": number(65),
        "fourth": number(0.0017249),
        "about": text("words"),
        "sheet": Fact("image", "sheet.png"),
        "report": Fact("file", "report.html"),
        "both_arms": Fact("mlflow", "compare-runs?x"),
    }
    return Outcome(facts, run_id="abc")


PAGE = ["sheet", "infarct", "no_reflow", "patients", "report", "both_arms", "mlflow_run", "fourth", "about"]


def test_a_page_begins_with_its_picture_and_three_figures_and_ends_with_its_tables(outcome, tmp_path):
    for told in (outcome, Outcome.from_json(sorted_json(outcome))):  # a record's facts are sorted by name
        shown = metadata_of(told, tmp_path, links(tmp_path))
        assert list(shown) == [*PAGE, "patients_by_fold"]
        assert [shown[name].value for name in PAGE[1:4]] == [0.123, 12.35, 65]
        assert shown["fourth"].value == 0.00172


def sorted_json(outcome):
    content = outcome.to_json()
    return content | {"facts": dict(sorted(content["facts"].items()))}


def test_pictures_are_shown_at_once_and_reports_are_links_that_open(outcome, tmp_path):
    shown = metadata_of(outcome, tmp_path, links(tmp_path))
    assert shown["sheet"] == dg.MetadataValue.md(
        "[![sheet](/scarforge/files/sheet.png?width=320)](/scarforge/files/sheet.png)"
    )  # below 1,000 letters
    assert shown["report"] == dg.MetadataValue.url("/scarforge/files/report.html")
    assert shown["both_arms"] == dg.MetadataValue.url("/scarforge/mlflow/compare-runs?x")
    elsewhere = metadata_of(outcome, tmp_path, links(tmp_path, SCARFORGE_DAGSTER_URL="https://dagster.example.org"))
    assert elsewhere["sheet"].value.startswith("![sheet](data:image/png;base64,")
    assert elsewhere["report"] == dg.MetadataValue.path(str(tmp_path / "report.html"))


def test_the_runs_are_listed_by_arm_network_fold_seed_and_the_four_dice():
    import json

    name, value = arms_view()
    assert name == "mlflow.sharedViewState.scarforge"
    state = json.loads(json.loads(value)["state"])
    assert state["selectedColumns"] == [
        *(f"params.`{key}`" for key in ("training_set", "network", "fold", "seed")),
        *(f"metrics.`dice/positive/{tissue}`" for tissue in ("infarct", "no_reflow", "cavity", "normal_myocardium")),
    ]
    assert state["searchFilter"] == ""
    assert browser_state("7")["mlflow.workflowType_v1"] == '"machine_learning"'
