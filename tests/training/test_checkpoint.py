import pytest
import torch

from imaging.config import FrozenConfig
from imaging.errors import InputError
from training.checkpoint import load_checkpoint, save_checkpoint

STATE = {"step": 3, "weights": torch.arange(4.0)}


class OldPart(FrozenConfig):
    width: int = 8


class OldConfig(FrozenConfig):
    steps: int = 10
    rate: float | None = None
    part: OldPart = OldPart()


class Part(OldPart):
    depth: int = 2


class Config(OldConfig):
    batch: int = 32
    flips: tuple[int, ...] = (0, 1)
    part: Part = Part()


class Required(OldConfig):
    seed: int


def test_there_may_be_no_checkpoint_and_one_comes_back_as_it_was(tmp_path):
    assert load_checkpoint(tmp_path, OldConfig()) is None
    save_checkpoint(tmp_path, OldConfig(), STATE)
    state = load_checkpoint(tmp_path, OldConfig())
    assert state["step"] == 3
    assert torch.equal(state["weights"], STATE["weights"])


def test_a_key_that_is_younger_than_the_checkpoint_agrees_while_it_has_its_default(tmp_path):
    save_checkpoint(tmp_path, OldConfig(steps=7, part=OldPart(width=4)), STATE)
    state = load_checkpoint(tmp_path, Config(steps=7, part=Part(width=4)))
    assert torch.equal(state["weights"], STATE["weights"])


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (OldConfig(steps=11), "steps: 10 then, 11 now"),
        (OldConfig(rate=0.1), "rate: None then, 0.1 now"),
        (Config(batch=16), "batch: absent then, 16 now"),
        (Config(flips=()), "flips: absent then, [] now"),
        (Config(part=Part(depth=3)), "part.depth: absent then, 3 now"),
        (Config(part=Part(width=4)), "part.width: 8 then, 4 now"),
        (Required(seed=0), "seed: absent then, 0 now"),
    ],
)
def test_any_other_value_is_refused_and_the_one_key_named(tmp_path, now, named):
    save_checkpoint(tmp_path, OldConfig(), STATE)
    with pytest.raises(InputError) as refused:
        load_checkpoint(tmp_path, now)
    assert f"was made with another configuration ({named}); restore those values or delete" in str(refused.value)


def test_a_key_that_is_no_more_is_refused(tmp_path):
    save_checkpoint(tmp_path, Config(), STATE)
    with pytest.raises(InputError, match="batch: 32 then, absent now; flips"):
        load_checkpoint(tmp_path, OldConfig())
