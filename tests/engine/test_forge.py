"""Where links lead, and what a run may be configured with."""

from typing import get_args

import dagster as dg
import pytest
from dagster._core.execution.validate_run_config import validate_run_config

from common.errors import InputError
from engine.forge import Forge
from engine.run_config import forge_fields
from engine.run_tags import RunIdentity, run_name
from engine.tracking import store
from pipeline.definitions import defs


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
    monkeypatch.setattr(store, "find_experiment", lambda *_: "7")
    page = "experiments/7/runs/abc?workflowType=machine_learning"
    assert Forge(home=str(tmp_path)).run_url("abc") == f"{address}/#/{page}"


def test_a_runs_name_begins_with_what_tells_it_from_the_others():
    assert run_name(3, 0, "real_plus_gan", "halsr_net", "scores") == "f3 s0 real + GAN HALSR-Net scores"
    assert run_name(0, None, "champions") == "f0 champions"
    assert run_name(None, 0, "comparison real only / real + GAN") == "comparison real only / real + GAN"


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


def refused(**config: object) -> str:
    """What the launchpad says of a run's configuration, before there is a run; empty where nothing is wrong."""
    job = defs.resolve_job_def("quick_fold")
    try:
        validate_run_config(job, {"resources": {"forge": {"config": config}}})
    except dg.DagsterInvalidConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"source": "acme"}, "not in enum type"),
        ({"profile": "huge"}, "not in enum type"),
        ({"seeds": ["first"]}, "seeds"),
        ({"changes": {"pix2pix": {"stepz": 5}}}, 'unexpected config entry "stepz"'),
        ({"changes": {"pix2pix": {"steps": "many"}}}, 'Value "many"'),
        ({"changes": {"device": "tpu"}}, "not in enum type device"),
    ],
)
def test_a_wrong_value_is_refused_in_the_launchpad(config, said):
    assert said in refused(**config)


def test_changed_settings_are_a_mapping_in_the_launchpad():
    changes = {"pix2pix": {"steps": 5, "adversarial": "bce"}, "source": {"spacing_mm": [8, 1.5, 1.5]}, "device": "cpu"}
    assert not refused(source="nifti", profile="quick", seeds=[0, 1], changes=changes)
    forge = Forge(source="nifti", profile="quick", changes=changes, overrides=["pix2pix.steps=7"])
    settings = forge.settings()
    assert (settings.pix2pix.steps, settings.pix2pix.adversarial, settings.device) == (7, "bce", "cpu")
    assert settings.source.spacing_mm == (8, 1.5, 1.5)
    assert forge.model_dump(mode="json", exclude_none=True)["changes"]["pix2pix"] == {"steps": 5, "adversarial": "bce"}


def test_every_field_of_the_launchpad_has_a_description():
    assert all(field.description for field in Forge.model_fields.values())
    source = Forge.model_fields["changes"].annotation.model_fields["source"].annotation
    (part,) = (kind for kind in get_args(source) if kind is not type(None))
    assert part.model_fields["label_values"].description.startswith("Name of the tissue by the number in the mask")


def test_names_in_the_environment_are_checked():
    with pytest.raises(InputError, match="source 'acme' is unknown; choose one of"):
        forge_fields({"SCARFORGE_SOURCE": "acme"})
    with pytest.raises(InputError, match="profile 'huge' does not exist"):
        forge_fields({"SCARFORGE_PROFILE": "huge"})


def test_a_run_that_two_profiles_share_tells_the_profile_as_a_tag_alone(tmp_path):
    def told(profile):
        forge = Forge(source="emidec", profile=profile, home=str(tmp_path))
        return forge.told(RunIdentity("studies", None, 0, "key"), "studies", {"stage": "studies"}, {"a": 1})

    quick, paper = told("quick"), told("paper")
    assert quick["params"] == paper["params"] == {"a": 1, "stage": "studies", "source": "emidec", "seed": "0"}
    assert (quick["tags"]["profile"], paper["tags"]["profile"]) == ("quick", "paper")
