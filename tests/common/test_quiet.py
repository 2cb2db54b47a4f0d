"""Warnings of libraries stay away from the terminal, unless they are asked for."""

import logging
import warnings

import pytest

from common.guard import guarded
from common.progress import DEBUG, quieten

LOGGERS = ("py.warnings", "common.guard")


@pytest.fixture(autouse=True)
def as_before():
    """Put the loggers, and what shows warnings, back."""
    logs = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(log.handlers), log.level, log.propagate) for log in logs]
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    for log, (handlers, level, propagate) in zip(logs, before, strict=True):
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.mark.faulty
@pytest.mark.parametrize("wanted", ["", "0", "1"])
def test_warnings_and_tracebacks_are_shown_only_with_the_variable(monkeypatch, capsys, wanted):
    monkeypatch.setenv(DEBUG, wanted)
    quieten()
    warnings.simplefilter("default")
    warnings.warn("Casting complex values to real discards the imaginary part", RuntimeWarning, stacklevel=1)
    with guarded("/in/x.nii.gz", lambda _: None):
        raise KeyError("PixelData")
    told = capsys.readouterr().err
    assert ("imaginary part" in told) == (wanted == "1")
    assert ("Traceback" in told) == (wanted == "1")
