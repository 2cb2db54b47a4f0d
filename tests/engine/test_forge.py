"""Where links lead."""

import pytest

from engine.forge import Forge


@pytest.mark.parametrize(
    ("tracking", "page", "address"),
    [
        ("", "", "http://127.0.0.1:5000"),
        ("http://mlflow:5000/", "", "http://mlflow:5000"),
        ("http://mlflow:5000", "https://mlflow.example.org/", "https://mlflow.example.org"),
        ("postgresql+psycopg2://forge@db/mlflow", "https://mlflow.example.org", "https://mlflow.example.org"),
    ],
)
def test_links_lead_where_a_browser_finds_mlflow(tracking, page, address, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("SCARFORGE_MLFLOW_URL", page)
    assert Forge(home=str(tmp_path)).run_url("abc") == f"{address}/#/runs/abc"
