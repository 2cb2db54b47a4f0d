"""What a segmenter's result depends on, besides the assets that it reads."""

import dagster as dg
import pytest

from assets.segmenters import attention_res_unet_real_only, seeds_together
from engine.forge import Forge
from engine.outcome import Check, Outcome
from engine.record import Record


class Stopped(Exception):
    """Ends a step once it has said what it reads."""


@pytest.fixture
def read(monkeypatch):
    """What the step reads, as its cache key sees it."""
    seen = {}

    def produce(self, context, name, fold, seed, parents, config, build):
        seen.update(parents)
        raise Stopped

    monkeypatch.setattr(Forge, "nearest", lambda *_: {"training_set_real_only/fold_0": "1"})
    monkeypatch.setattr(Forge, "produce", produce)

    def ask(*overrides):
        seen.clear()
        forge = Forge(profile="tiny", overrides=list(overrides))
        with pytest.raises(Stopped):
            dg.materialize([attention_res_unet_real_only], partition_key="0", resources={"forge": forge})
        return dict(seen)

    return ask


def test_other_weights_to_start_from_are_another_input(read, tmp_path):
    assert set(read()) == {"training_set_real_only/fold_0", "seed"}
    setting = f"attention_res_unet.start_from={tmp_path}"
    (tmp_path / "weights.safetensors").write_bytes(b"some")
    first, again = read(setting), read(setting)
    (tmp_path / "weights.safetensors").write_bytes(b"others")
    assert first == again
    assert first["start_from"] != read(setting)["start_from"]


@pytest.mark.parametrize("seeds", [(3, 7), (7, 3)])
def test_the_figures_of_a_check_are_named_by_the_seed_itself(tmp_path, seeds):
    records = {
        seed: (Record("a", "", str(seed), {}, Outcome({}, (Check("finite_losses", True, {"rounds": seed}),))), tmp_path)
        for seed in seeds
    }
    (check,) = seeds_together(records, Forge(home=str(tmp_path))).check_results
    assert {name: value.value for name, value in check.metadata.items()} == {
        "seed_3/rounds": 3,
        "seed_7/rounds": 7,
    }
