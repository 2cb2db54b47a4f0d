"""The last guard around one study: any exception is one line, and the others go on."""

import errno
import logging
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.guard import guarded, reason_of
from imaging.labels import EMIDEC_LABELS
from imaging.studies import archive_writer as study_writer
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import RejectedStudy, Study, read_or_reject


def told(what, error):
    reasons = []
    with guarded(what, reasons.append):
        raise error
    (reason,) = reasons
    return reason


def study(case_id):
    mask = np.zeros((2, 40, 40), np.uint8)
    mask[:, 10:20, 10:20] = 2
    image = np.random.default_rng(0).random(mask.shape, np.float32)
    return Study(case_id, "", "normal", image, mask, (8.0, 1.5, 1.5), np.eye(4), "emidec", f"/in/{case_id}.nii.gz")


def test_what_a_user_can_mend_is_told_as_it_is():
    assert told("x", InputError("/in/x.nii.gz: has no slices; add some")) == "/in/x.nii.gz: has no slices; add some"


def test_a_file_that_cannot_be_read_is_named_with_the_systems_words():
    error = OSError(5, "Input/output error", "/in/x.nii.gz")
    said = "/in/x.nii.gz: cannot be read (Input/output error); correct it and run again"
    assert told("x", error) == said
    assert told("/in/x", TimeoutError()).startswith("/in/x: cannot be read (TimeoutError)")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_no_studys_fault_and_ends_the_command(number):
    full = OSError(number, "No space left", "/out")
    with pytest.raises(OSError, match="/out"):
        told("x", full)
    explained = InputError("/out/x.png: cannot be written; free disk space")
    explained.__cause__ = full
    with pytest.raises(InputError, match=r"/out/x\.png"):
        told("x", explained)


def test_memory_that_runs_out_is_no_fault_of_ours(guarded_faults):
    assert told(Path("/in/x"), MemoryError()) == (
        "/in/x: does not fit into memory; close other programs, or take a machine with more"
    )
    assert not guarded_faults


@pytest.mark.faulty
def test_a_librarys_exception_is_one_bounded_line_that_asks_for_a_report(guarded_faults):
    error = TypeError("The DTypes\n" + "<class 'numpy.dtypes.VoidDType'> " * 50)
    reason = told("/in/x.nii.gz", error)
    assert reason.startswith("/in/x.nii.gz: cannot be used (TypeError: The DTypes\\n<class 'numpy.dtypes.VoidDType'>")
    assert reason.endswith(
        "…); this is a fault of ScarForge or of a library: please report it, with what SCARFORGE_DEBUG=1 shows"
    )
    assert "\n" not in reason
    assert len(reason) < 350
    (record,) = guarded_faults
    assert record.levelno == logging.DEBUG
    assert record.exc_info[1] is error


@pytest.mark.faulty
def test_an_exception_without_words_gives_its_class():
    assert "(AssertionError);" in told("/in/x", AssertionError())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_goes_through(error):
    with pytest.raises(error), guarded("x", print):
        raise error


def test_line_breaks_in_a_name_are_escaped_and_length_is_bounded():
    assert reason_of("a", InputError("/in/new\nline  .nii\x1b[2J: odd")) == "/in/new\\nline  .nii\\x1b[2J: odd"
    assert len(reason_of("a", InputError("x" * 5000))) == 2000


@pytest.mark.faulty
def test_a_reader_that_breaks_is_a_rejection_that_names_the_file():
    def broken():
        raise KeyError("PixelData")

    found = read_or_reject("a", Path("/in/a.dcm"), broken)
    assert isinstance(found, RejectedStudy)
    assert found.case_id == "a"
    assert found.reason.startswith("/in/a.dcm: cannot be used (KeyError: 'PixelData'); this is a fault of ScarForge")


@pytest.mark.faulty
def test_a_study_that_cannot_be_prepared_leaves_the_others_in_the_archive(tmp_path, monkeypatch):
    prepare = study_writer.prepare_study

    def break_one(item):
        if item.case_id == "b":
            raise ZeroDivisionError("division by zero")
        return prepare(item)

    monkeypatch.setattr(study_writer, "prepare_study", break_one)
    summary = write_studies(tmp_path / "studies.h5", map(study, "abc"), EMIDEC_LABELS, "nifti", minimum_patients=2)
    assert summary.studies == 2
    (rejected,) = summary.rejected
    assert rejected.case_id == "b"
    assert rejected.reason.startswith("/in/b.nii.gz: cannot be used (ZeroDivisionError: division by zero)")
