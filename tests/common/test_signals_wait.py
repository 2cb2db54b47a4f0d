"""A signal that comes while a library calls us back is heeded when the library has returned."""

import signal
import threading

import pytest
import torch

from common.config import FrozenConfig
from common.processes import signals_wait
from imaging.labels import EMIDEC_LABELS
from imaging.sources.emidec import read_emidec
from imaging.studies import archive_writer
from imaging.studies.archive import SteadyFile, StudyArchive
from runtime import checkpoint
from tests.imaging import fake_emidec


@pytest.fixture(autouse=True)
def handlers_of_python():
    """Whatever handlers this process began with; `own_signals` puts them back."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_the_first_signal_comes_when_the_block_is_over_and_its_handler_is_back():
    handler, over = signal.getsignal(signal.SIGINT), []

    def interrupted_twice():
        with signals_wait():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            over.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert over == [True]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_signal_that_is_ignored_stays_so_and_other_threads_may_write():
    with signals_wait():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    told = []

    def write():
        with signals_wait():
            told.append(True)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert told == [True]


class InterruptedFile(SteadyFile):
    def write(self, data):
        signal.raise_signal(signal.SIGINT)
        return super().write(data)


def test_ctrl_c_while_hdf5_writes_through_our_file_leaves_no_half_of_it(tmp_path, monkeypatch):
    studies = list(read_emidec(fake_emidec.write_root(tmp_path / "emidec")))
    place = tmp_path / "archive" / "studies.h5"
    monkeypatch.setattr(archive_writer, "SteadyFile", InterruptedFile)
    with pytest.raises(KeyboardInterrupt):
        archive_writer.write_studies(place, studies, EMIDEC_LABELS, "emidec")
    monkeypatch.undo()
    archive_writer.write_studies(place, studies, EMIDEC_LABELS, "emidec")
    assert list(place.parent.iterdir()) == [place]
    assert len(StudyArchive.open(place).keys()) == len(studies)


def test_ctrl_c_while_pytorch_writes_a_checkpoint_is_told_as_that(tmp_path, monkeypatch):
    save = torch.save

    class Interrupting:
        def __init__(self, file):
            self.file, self.flush, self.writes = file, file.flush, 0

        def write(self, data):
            self.writes += 1
            if self.writes == 2:  # the first is in the header, where the exception would come through
                signal.raise_signal(signal.SIGINT)
            return self.file.write(data)

    monkeypatch.setattr(checkpoint.torch, "save", lambda content, file: save(content, Interrupting(file)))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, FrozenConfig(), {"seed": 1}, {"step": 1, "weights": torch.ones(4)})
    assert list(tmp_path.iterdir()) == []
