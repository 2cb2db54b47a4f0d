"""The one error that users are meant to read, and how it tells foreign texts and lists values."""

import re
from collections.abc import Iterable

# Control characters, line separators, and what stands for bytes that are no UTF-8: all of them can be in file names.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate", "bad_alloc", "Cannot allocate memory")
_LONGEST = 120  # characters of a foreign text in a message
_LONGEST_BEGIN, _LONGEST_END = 2000, 1000  # of a message, whose end is the remedy
_LONGEST_LINE = 3500

# What taking values out of JSON raises where it is none, or holds something else than was written.
UNFIT = (ValueError, LookupError, TypeError, AttributeError)


class InputError(Exception):
    """Input that cannot be used: the message is one line that names the thing, the values and the next step."""

    def __str__(self) -> str:
        """Return the message, as one line whatever the names in it hold, cut in the middle where they are endless."""
        line = escaped(super().__str__())
        return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_BEGIN]}...{line[-_LONGEST_END:]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: PyTorch and C++ say so in the words of an error of another type."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and tells_no_memory(str(error)))


def tells_no_memory(words: str) -> bool:
    """Tell whether the words of an error are those of memory that ran out."""
    return any(sign in words for sign in _NO_MEMORY)


def escaped(text: str) -> str:
    """Return a text with what would break a line, or cannot be written as UTF-8, as an escape."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(value: object) -> str:
    """Return what a file, a header or a library's error says, on one line and short enough for a message.

    Args:
        value: A text; an error that says nothing is told by its type.
    """
    text = escaped(" ".join(str(value).split())) or type(value).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def some_of(values: Iterable[object], most: int = 5, between: str = ", ") -> str:
    """Return the first values and how many more there are, as in `1, 2, 3, 4, 5 and 7 more`; `none` of none.

    Args:
        values: What is listed, in its order.
        most: How many are written out; at least 1.
        between: What parts them, `, ` or `; `.
    """
    listed = [str(value) for value in values]
    more = len(listed) - most
    return (
        between.join(listed[:most]) + (f"{between.rstrip(', ')} and {more} more" if more > 0 else "")
        if listed
        else "none"
    )
