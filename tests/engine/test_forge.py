"""Where links lead."""

import pytest

from engine.forge import Forge
from engine.run_tags import RunIdentity


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


def test_a_run_in_mlflow_is_its_asset_fold_seed_and_cache_key(tmp_path):
    run = RunIdentity("halsr_net_real_only", 2, 0, "abc")
    assert run.key == "halsr_net_real_only/fold_2/seed_0/abc"
    assert RunIdentity("comparison", None, None, "abc").key == "comparison/abc"
    others = [("pix2pix", 2, 0, "abc"), ("halsr_net_real_only", 1, 0, "abc"), ("halsr_net_real_only", 2, 1, "abc")]
    assert run.key not in {RunIdentity(*other).key for other in (*others, ("halsr_net_real_only", 2, 0, "abd"))}
    forge = Forge(source="emidec", profile="quick", home=str(tmp_path))
    parent = {"key": "night/1", "name": "Night", "stage": "night"}
    told = forge.told(run, "a run", {"stage": "training"}, {"network": {"widths": (1, 2)}}, tmp_path / "x", parent)
    assert (told["key"], told["folder"], told["parent"]) == (run.key, str(tmp_path / "x"), parent)
    assert told["tags"] == {
        "stage": "training",
        "source": "emidec",
        "profile": "quick",
        "fold": "2",
        "seed": "0",
        "scarforge_parent": "night/1",
        "asset": "halsr_net_real_only",
    }
    assert told["params"]["network.widths"] == (1, 2)
