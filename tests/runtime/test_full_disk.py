"""A disk without room, as a limit on the size of files makes one: what was there stays, and the message is one line."""

import multiprocessing
import resource
import signal

import pytest
import torch

from common.config import FrozenConfig
from common.errors import InputError
from common.files import write_atomically, write_json
from runtime.checkpoint import checkpoint_step, save_checkpoint
from runtime.model_card import ModelCard, read_model_json
from runtime.model_folder import read_weights, write_model_folder


def checkpoint(folder, size):
    save_checkpoint(folder, FrozenConfig(), {}, {"step": size, "weights": torch.ones(size)})


def model(folder, size):
    write_model_folder(folder, {"weights": torch.ones(size)}, FrozenConfig(), ModelCard(steps=size))


def table(folder, size):
    write_json(folder / "model_card.json", {"size": size, "text": "x" * size})


WRITERS = {"checkpoint": checkpoint, "model": model, "table": table}


def write_on_a_small_disk(what, folder, pipe):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        WRITERS[what](folder, 200_000)
    except InputError as error:
        pipe.send(str(error))


@pytest.mark.parametrize("what", WRITERS)
def test_what_was_there_stays_and_one_line_says_what_to_do(tmp_path, what):
    WRITERS[what](tmp_path, 10)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write_on_a_small_disk, args=(what, tmp_path, theirs))
    process.start()
    theirs.close()
    message = ours.recv()
    process.join()
    assert "cannot be written" in message
    assert "too large" in message.lower()
    assert "free disk space" in message
    assert "\n" not in message
    assert not list(tmp_path.glob(".*.partial"))
    if what == "checkpoint":
        assert checkpoint_step(tmp_path) == 10
    else:
        assert read_model_json(tmp_path, "model_card.json")["steps" if what == "model" else "size"] == 10
    if what == "model":
        assert len(read_weights(tmp_path)["weights"]) == 10


def test_another_fault_of_a_writer_is_left_as_it_is(tmp_path):
    def fails(part):
        raise RuntimeError("a mistake in the code")

    with pytest.raises(RuntimeError, match="a mistake in the code"):
        write_atomically(tmp_path / "file", fails)


def test_a_folder_without_checkpoint_has_no_step(tmp_path):
    assert checkpoint_step(tmp_path) is None
