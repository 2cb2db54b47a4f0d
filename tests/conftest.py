"""What holds for every test."""

import logging
import os
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.mlflow_stores import empty_store, mlflow_server, prepared, silent_uri  # noqa: F401 # fixtures of several rooms

# A deadline would time the machine, which other tests are busy on, too.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A job in the background of a script, or under `nohup`, has these ignored, and what a test starts inherits that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


class _Faults(logging.Handler):
    """Keeps what the guard around a study caught and could not lay on the input."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """A network that a test builds has the same weights each time, whatever ran before."""
    torch.manual_seed(0)


_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a command that runs within a test does at a signal, such as ending the process, is over with the test."""
    before = [(number, signal.getsignal(number)) for number in _ENDING]
    hook, told_to = sys.unraisablehook, signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(told_to)
    sys.unraisablehook = hook
    for number, handler in before:
        if handler is not None:  # of no Python
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    """A command that runs within a test has its children import nothing from the current folder; later tests do."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def guarded_faults(request: pytest.FixtureRequest) -> Iterator[list[logging.LogRecord]]:
    """What the guard told as a fault of ours: none, unless the test is marked `faulty`. A bug must not hide there."""
    log, faults = logging.getLogger("common.guard"), _Faults()
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(faults)
    yield faults.found
    log.removeHandler(faults)
    log.setLevel(level)
    if request.node.get_closest_marker("faulty") is None:
        told = [f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}" for record in faults.found]
        assert not told, f"the guard around a study caught a fault: {told}"
