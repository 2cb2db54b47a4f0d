"""The last guard around one study: whatever is wrong with it becomes one line, and the others go on.

This is the one place that catches every exception. What a user can mend (`InputError`, a file that cannot be read,
memory that runs out) is told in those words; anything else is told as a fault of ScarForge or of a library, and its
traceback goes to this module's logger, which `SCARFORGE_DEBUG=1` shows.
"""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import InputError, escaped, is_out_of_memory

_log = logging.getLogger(__name__)

_MOST_OF_FAULT = 200  # characters of a library's own words
_MOST_OF_LINE = 2000
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def guarded(what: object, refuse: Callable[[str], None]) -> Iterator[None]:
    """Run the body for one study; where it raises, hand `refuse` the reason as one line of bounded length.

    A disk that takes no more is no study's fault and would meet the others, too: that goes on to whoever called.

    Args:
        what: The file, folder or name of the study, for messages.
        refuse: Takes the reason.
    """
    try:
        yield
    except Exception as error:
        if _is_of_writing(error):
            raise
        refuse(reason_of(what, error))


def _is_of_writing(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, is a disk that is full or cannot be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_WRITING:
            return True
        error = error.__cause__
    return False


def reason_of(what: object, error: Exception) -> str:
    """Return what an exception says about a study, as one line that names it."""
    if isinstance(error, InputError):
        return _bounded(str(error))
    if is_out_of_memory(error):
        return _bounded(f"{what}: does not fit into memory; close other programs, or take a machine with more")
    if isinstance(error, OSError):
        return _bounded(_unreadable(what, error))
    _log.debug("%s", what, exc_info=error)
    said = _bounded(f"{type(error).__name__}: {str(error).strip()}".removesuffix(": "), _MOST_OF_FAULT)
    return _bounded(
        f"{what}: cannot be used ({said}); this is a fault of ScarForge or of a library: please report it, with what "
        "SCARFORGE_DEBUG=1 shows"
    )


def _bounded(text: str, most: int = _MOST_OF_LINE) -> str:
    flat = escaped(text)
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _unreadable(what: object, error: OSError) -> str:
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename or what}: cannot be read ({words}); correct it and run again"
