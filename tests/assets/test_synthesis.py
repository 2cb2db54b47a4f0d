"""Which way synthetic slices are made, and what then decides an asset's result."""

import dagster as dg
import pytest

from assets.synthesis import lesion_masks, pix2pix, synthetic_slices
from common.errors import InputError
from engine.forge import Forge
from engine.settings import load_settings
from pipeline.commands.trials import TrialBench


class Stopped(Exception):
    """Ends a step once it has said what decides its result."""


@pytest.fixture
def configured(monkeypatch):
    """Give the configuration of an asset, as its cache key sees it."""
    seen = {}

    def materialise(self, context, build, config=None, *_, inputs=None, **__):
        seen["config"] = config if isinstance(config, dict) else config.model_dump()
        seen["inputs"] = inputs
        raise Stopped

    monkeypatch.setattr(Forge, "materialise", materialise)

    def ask(asset, *overrides):
        forge = Forge(profile="tiny", overrides=list(overrides))
        with pytest.raises(Stopped):
            dg.materialize([asset], partition_key="0", resources={"forge": forge})
        return dict(seen["config"])

    ask.seen = seen
    return ask


def test_a_generator_that_is_not_used_is_not_made_again_for_its_settings(configured):
    transplant = "synthesis.method=transplant"
    unused = configured(pix2pix, transplant)
    assert unused == {"method": "transplant"}
    assert configured(pix2pix, transplant, "pix2pix.steps=77") == unused
    assert configured(pix2pix, "pix2pix.steps=77")["steps"] == 77


def test_transplants_depend_on_how_they_are_carried(configured):
    plain = configured(lesion_masks)
    assert "transplant" not in plain
    first, second = (
        configured(lesion_masks, "synthesis.method=transplant", f"transplant.turn_deg={turn}") for turn in (10, 20)
    )
    assert len({str(one) for one in (plain, first, second)}) == 3


def test_more_synthetic_slices_are_asked_for_where_they_are_added(configured):
    add = ["mixing.protocol=add", "mixing.synthetic_per_real=0.25"]
    assert configured(lesion_masks, *add)["masks"] == configured(synthetic_slices, *add)["slices"] == 40
    assert configured(lesion_masks)["masks"] == 80


def test_the_judge_decides_synthetic_slices_only_where_it_may_refuse(configured):
    plain = configured(synthetic_slices)
    assert set(plain) == {"slices", "augment"}
    inputs = [("pix2pix", 0, None), ("lesion_masks", 0, None)]
    assert configured.seen["inputs"] == inputs
    assert configured(synthetic_slices, "synthesis.refuse_quantile=0.3") == plain
    refusing = configured(synthetic_slices, "synthesis.refuse=true")
    assert refusing == plain | {"refusal": {"refuse_quantile": 0.1, "refuse_draws": 3}}
    assert configured.seen["inputs"] == [*inputs, ("attention_res_unet_real_only", 0, 0)]
    assert configured(synthetic_slices, "synthesis.refuse=true", "synthesis.refuse_draws=4") != refusing


def test_transplants_that_may_be_refused_are_made_again_as_they_were_carried(configured):
    asked = ["synthesis.method=transplant", "synthesis.refuse=true"]
    first, second = (configured(synthetic_slices, *asked, f"transplant.turn_deg={turn}") for turn in (10, 20))
    assert first != second
    assert configured(pix2pix, *asked) == {"method": "transplant"}


def test_a_generator_that_is_not_used_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(Forge, "nearest", lambda *_: {})
    forge = Forge(profile="tiny", home=str(tmp_path), overrides=["synthesis.method=transplant"])
    result = dg.materialize([pix2pix], partition_key="0", resources={"forge": forge})
    assert result.success
    (event,) = result.asset_materializations_for_node("pix2pix")
    assert "needs no generator" in event.metadata["used"].value
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    assert not (tmp_path / "phantom/tiny/pix2pix/fold_0/weights.safetensors").exists()


def test_generator_and_simulator_paint_the_same():
    settings = load_settings("quick", ["pix2pix.preset=repaint"])
    assert settings.simulator.paint == settings.pix2pix.paint == settings.paints == "lesion"
    assert settings.simulator.hole_margin_px == settings.pix2pix.hole_margin_px == 1
    with pytest.raises(InputError, match=r"pix2pix.paint lesion and simulator.paint ventricle must be equal"):
        load_settings("quick", ["pix2pix.preset=repaint", "simulator.paint=ventricle"])
    assert load_settings("quick").paints == "ventricle"
    assert load_settings("quick", ["synthesis.method=transplant"]).paints == "lesion"
    with pytest.raises(InputError, match=r"'synthesis.method'.*'pix2pix' or 'transplant'"):
        load_settings("quick", ["synthesis.method=folder"])


@pytest.mark.parametrize("profile", ["demo", "quick", "paper", "tiny"])
def test_every_profile_can_repaint(profile):
    assert load_settings(profile, ["pix2pix.preset=repaint"]).pix2pix.crop_px == 96


def test_trials_of_pix2pix_need_it():
    forge = Forge(profile="tiny", overrides=["synthesis.method=transplant"])
    with pytest.raises(InputError, match=r"which synthesis.method=transplant does without"):
        TrialBench.open(forge, 0)
