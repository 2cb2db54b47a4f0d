import errno

import numpy as np
import pytest
import torch

from common.config import FrozenConfig
from common.errors import InputError
from runtime.checkpoint import checkpoint_step, digest_of, load_checkpoint, save_checkpoint

ORIGIN = {"seed": 0, "training_set": "a"}
STATE = {"step": 3, "weights": torch.arange(4.0)}


class Part(FrozenConfig):
    width: int = 8


class Config(FrozenConfig):
    steps: int = 10
    rate: float | None = None
    part: Part = Part()


class Grown(Config):
    batch: int = 32


def test_there_may_be_no_checkpoint_and_one_comes_back_as_it_was(tmp_path):
    assert load_checkpoint(tmp_path, Config(), ORIGIN) is None
    save_checkpoint(tmp_path, Config(), ORIGIN, STATE)
    state = load_checkpoint(tmp_path, Config(), ORIGIN)
    assert state["step"] == 3
    assert torch.equal(state["weights"], STATE["weights"])


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (Config(steps=11), "steps: 10 then, 11 now"),
        (Config(rate=0.1), "rate: None then, 0.1 now"),
        (Config(part=Part(width=4)), "part.width: 8 then, 4 now"),
        (Grown(), "batch: absent then, 32 now"),
    ],
)
def test_any_other_value_is_refused_and_the_one_key_named(tmp_path, now, named):
    save_checkpoint(tmp_path, Config(), ORIGIN, STATE)
    with pytest.raises(InputError) as refused:
        load_checkpoint(tmp_path, now, ORIGIN)
    assert f"was made with another configuration ({named}); restore those values or delete" in str(refused.value)


def test_a_key_that_is_no_more_is_refused(tmp_path):
    save_checkpoint(tmp_path, Grown(), ORIGIN, STATE)
    with pytest.raises(InputError, match="batch: 32 then, absent now"):
        load_checkpoint(tmp_path, Config(), ORIGIN)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"seed": 1, "training_set": "a"}, "seed: 0 then, 1 now"),
        ({"seed": 0, "training_set": "b"}, "training_set: 'a' then, 'b' now"),
    ],
)
def test_a_checkpoint_of_other_data_or_another_seed_is_refused(tmp_path, now, named):
    save_checkpoint(tmp_path, Config(), ORIGIN, STATE)
    with pytest.raises(InputError) as refused:
        load_checkpoint(tmp_path, Config(), now)
    assert f"belongs to another training ({named}); train on the same data" in str(refused.value)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    torch.save({"config": {}, "origin": {}, "state": STATE}, tmp_path / "last.pt")
    for read in (checkpoint_step, lambda folder: load_checkpoint(folder, Config(), ORIGIN)):
        with pytest.raises(InputError, match=f"was written by another version; delete {tmp_path} to start again"):
            read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_says_what_to_delete(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    for read in (checkpoint_step, lambda folder: load_checkpoint(folder, Config(), ORIGIN)):
        with pytest.raises(InputError, match=f"last.pt: is damaged or no checkpoint; delete {tmp_path} to start again"):
            read(tmp_path)


def test_one_bit_of_a_weight_that_flipped_is_found(tmp_path):
    save_checkpoint(tmp_path, Config(), ORIGIN, STATE | {"weights": torch.full((1000,), 0.1)})
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[content.index(torch.full((2,), 0.1).numpy().tobytes()) + 400] ^= 0x10
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(InputError, match=f"last.pt: is damaged or no checkpoint; delete {tmp_path} to start again"):
        load_checkpoint(tmp_path, Config(), ORIGIN)


def test_a_checkpoint_that_the_disk_does_not_give_is_not_told_to_be_deleted(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Config(), ORIGIN, STATE)
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "late")))
    with pytest.raises(OSError, match="late"):
        load_checkpoint(tmp_path, Config(), ORIGIN)


def test_a_file_of_tensors_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="is damaged or no checkpoint"):
        load_checkpoint(tmp_path, Config(), ORIGIN)


def test_digests_tell_values_shapes_types_and_text_apart():
    zeros = np.zeros((2, 3), np.float32)
    others = [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32), zeros + 1, np.array(["a", "b"])]
    assert digest_of(zeros) == digest_of(zeros.copy())
    assert len({digest_of(one) for one in [zeros, *others]}) == 5
    counted = np.arange(6).reshape(2, 3)
    assert digest_of(np.asfortranarray(counted)) == digest_of(counted)
