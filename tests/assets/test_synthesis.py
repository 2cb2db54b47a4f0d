"""Which way synthetic slices are made, and what then decides an asset's result."""

from dataclasses import replace

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from assets.synthesis import lesion_masks, pix2pix, synthetic_slices
from common.errors import InputError
from engine.forge import Forge
from engine.settings import load_settings
from pipeline.commands.run import _first_failure
from pipeline.commands.trials import TrialBench
from runtime.pack import SHIPPED, start_place
from segmentation.model_kind import TRAINING_SETS
from segmentation.networks.table import NETWORKS
from tests.imaging.small_stores import ATTRIBUTES


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


@pytest.fixture
def folder(tmp_path):
    """Three pairs of PNG, all of one training patient's making, and the settings that take them."""
    from tests.gan.conftest import draw_slices

    images, masks = draw_slices(3)
    for name, volume in (("images", (images * 255).astype(np.uint8)), ("masks", masks)):
        for number, pixels in enumerate(volume):
            (tmp_path / "DIR" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "DIR" / name / f"{number}.png")
    (tmp_path / "DIR" / "donors.csv").write_text("slice,donors\n*,P001\n")
    return tmp_path / "DIR", [
        "synthesis.method=folder",
        f"synthesis.root={tmp_path / 'DIR'}",
        "synthesis.spacing_mm=[1,1]",
    ]


def test_slices_of_a_folder_are_made_again_when_a_file_changes_and_not_when_the_folder_moves(configured, folder):
    root, asked = folder
    first = configured(lesion_masks, *asked)
    root.rename(root.with_name("MOVED"))
    moved = [one.replace("DIR", "MOVED") for one in asked]
    assert configured(lesion_masks, *moved) == first
    assert configured(lesion_masks, *moved, "synthesis.donors=unknown") != first
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(root.with_name("MOVED") / "images" / "1.png")
    assert configured(lesion_masks, *moved)["folder"] != first["folder"]
    assert configured(pix2pix, *moved) == {"method": "folder"}


def test_settings_of_a_folder_stand_in_no_digest_of_other_methods(folder):
    _, (_, root, spacing) = folder
    assert load_settings("tiny", [root, spacing]).digest == load_settings("tiny").digest
    assert load_settings("tiny", folder[1]).digest != load_settings("tiny").digest


def test_slices_of_a_folder_take_the_place_of_masks_and_slices(folder, tmp_path, monkeypatch):
    from imaging.slices.store import SliceStore
    from imaging.studies.split import FoldSplit
    from tests.gan.conftest import draw_slices
    from tests.imaging.small_stores import write

    size = load_settings("tiny").region.size_px
    masks = np.pad(draw_slices(6, 3)[1], ((0, 0), (0, size - 32), (0, size - 32)))
    cases = [f"P00{number // 2}" for number in range(6)]
    attributes = replace(ATTRIBUTES, region_px=size)
    real = write(tmp_path / "real.h5", masks, attributes=attributes, case_id=cases)
    split = FoldSplit(0, ("P000", "P001"), ("P003",), ("P002",))
    monkeypatch.setattr("assets.synthesis.open_slices", lambda *_: real)
    monkeypatch.setattr("assets.synthesis.open_split", lambda *_: split)
    monkeypatch.setattr(Forge, "nearest", lambda *_: {})

    def made():
        forge = Forge(profile="tiny", home=str(tmp_path / "home"), overrides=folder[1])
        return dg.materialize([lesion_masks], partition_key="0", resources={"forge": forge}, raise_on_error=False)

    result = made()
    assert result.success
    store = SliceStore.open(tmp_path / "home/phantom/tiny/lesion_masks/fold_0/slices.h5")
    np.testing.assert_array_equal(np.bincount(store.masks().ravel())[1:], np.bincount(draw_slices(3)[1].ravel())[1:])
    assert set(store.rows["donor_ids"]) == {"P001"}
    (folder[0] / "donors.csv").write_text("slice,donors\n0,P001\n1,P002\n")
    refused = made()
    assert not refused.success
    (check,) = (each for each in refused.get_asset_check_evaluations() if each.check_name == "no_patient_leak")
    assert "P002 (test, 1 rows)" in check.description
    assert "(unknown) (donors nobody has told: name them in donors.csv" in check.description
    assert _first_failure(refused, tmp_path).startswith(
        "blocking check 'no_patient_leak' of lesion_masks failed: Only training patients of the fold may be in this"
    )


def test_generator_and_simulator_paint_the_same():
    settings = load_settings("quick", ["pix2pix.preset=repaint"])
    assert settings.simulator.paint == settings.pix2pix.paint == settings.paints == "lesion"
    assert settings.simulator.hole_margin_px == settings.pix2pix.hole_margin_px == 1
    with pytest.raises(InputError, match=r"pix2pix.paint lesion and simulator.paint ventricle must be equal"):
        load_settings("quick", ["pix2pix.preset=repaint", "simulator.paint=ventricle"])
    assert load_settings("quick").paints == "lesion"
    assert load_settings("paper").paints == "ventricle"
    assert load_settings("paper", ["synthesis.method=transplant"]).paints == "lesion"
    with pytest.raises(InputError, match=r"'synthesis.method'.*'pix2pix', 'transplant' or 'folder'"):
        load_settings("quick", ["synthesis.method=diffusion"])
    with pytest.raises(
        InputError, match=r"'synthesis': method folder takes slices from a folder; give it with --set syn"
    ):
        load_settings("quick", ["synthesis.method=folder"])


@pytest.mark.parametrize("profile", ["best", "demo", "quick", "paper", "tiny"])
def test_every_profile_can_repaint(profile):
    assert load_settings(profile, ["pix2pix.preset=repaint"]).pix2pix.crop_px == 96


def test_the_best_profile_starts_from_the_shipped_model_of_cine_and_adds_softened_lesions(tmp_path):
    settings = load_settings("best")
    assert (
        start_place(settings.attention_res_unet.start_from, tmp_path).parent == SHIPPED / "cine_attention.safetensors"
    )
    assert settings.paints == "lesion"
    assert (settings.mixing.protocol, settings.synthesis.softness_px) == ("add", 0.8)
    assert {settings.training(network, arm).steps for network in NETWORKS for arm in TRAINING_SETS} == {1500}


def test_trials_of_pix2pix_need_it():
    forge = Forge(profile="tiny", overrides=["synthesis.method=transplant"])
    with pytest.raises(InputError, match=r"which synthesis.method=transplant does without"):
        TrialBench.open(forge, 0)
