"""What decides an asset's result is in its cache key, and what does not is not."""

import dagster as dg
import pytest

from assets.localiser import lv_localiser
from assets.quality import synthesis_quality
from assets.scores import attention_res_unet_real_only_scores
from assets.synthesis import pix2pix
from common.errors import InputError
from engine.forge import Forge
from engine.record import cache_key


class Stopped(Exception):
    """Ends a step once it has said what its result is made of."""


@pytest.fixture
def key_of(monkeypatch):
    """Return the cache key that an asset's result has with some settings, all its inputs being the same."""
    seen = []

    def produce(self, context, name, fold, seed, parents, config, build):
        seen.append(cache_key("", parents, config if isinstance(config, dict) else config.model_dump(mode="json")))
        raise Stopped

    monkeypatch.setattr(Forge, "nearest", lambda *_: {"real_slices/fold_0": "1"})
    monkeypatch.setattr(Forge, "records", lambda *_: {})
    monkeypatch.setattr(Forge, "version", lambda _, asset, *__: asset)
    monkeypatch.setattr(Forge, "produce", produce)

    def ask(asset, *overrides):
        forge = Forge(profile="tiny", overrides=list(overrides))
        with pytest.raises(Stopped):
            dg.materialize([asset], partition_key="0", resources={"forge": forge})
        return seen[-1]

    return ask


def put(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_pix2pix_is_made_again_for_other_vgg16_weights_where_its_loss_reads_them(key_of, tmp_path):
    def key(content, weight, name="vgg16.safetensors"):
        path = put(tmp_path / name, content)
        return key_of(pix2pix, f"quality.vgg16_weights={path}", f"pix2pix.perceptual_weight={weight}")

    assert key(b"one", 1) == key(b"one", 1, "moved.safetensors")
    assert key(b"one", 1) != key(b"other", 1)
    assert key(b"one", 0) == key(b"other", 0) == key_of(pix2pix)


@pytest.mark.parametrize("name", ["vgg16_weights", "alexnet_weights", "inception_weights"])
def test_the_quality_is_measured_again_for_other_weights_and_not_for_moved_ones(key_of, tmp_path, name):
    def key(content, file="weights"):
        return key_of(synthesis_quality, f"quality.{name}={put(tmp_path / file, content)}")

    assert key(b"one") == key(b"one", "moved")
    assert key(b"one") != key(b"other")


def test_weights_that_are_not_there_are_named(tmp_path):
    forge = Forge(profile="tiny", overrides=[f"quality.alexnet_weights={tmp_path / 'none'}"])
    with pytest.raises(InputError, match=r"quality.alexnet_weights: .*none cannot be read \(No such file"):
        dg.materialize([synthesis_quality], partition_key="0", resources={"forge": forge})


def test_the_localiser_counts_slices_again_in_a_region_of_another_size(key_of):
    keys = {key_of(lv_localiser, f"region.size_px={size}") for size in (96, 128, 160)}
    assert len(keys) == 3
    assert key_of(lv_localiser, "region.size_px=128", "region.jitter_mm=1") in keys  # it cuts nothing


def test_scores_are_written_again_for_every_setting_that_their_manifest_names(key_of):
    scores = attention_res_unet_real_only_scores
    assert key_of(scores) != key_of(scores, "quality.minimum_variety=0.3")
    assert key_of(scores) == key_of(scores, "processes=1")
