"""The one error that users are meant to read, and how it lists values."""

from collections.abc import Iterable


class InputError(Exception):
    """Input that cannot be used: the message is one line that names the thing, the values and the next step."""


def some_of(values: Iterable[object], most: int = 5) -> str:
    """Return the first values and how many more there are, as in `1, 2, 3, 4, 5 and 7 more`; `none` of none.

    Args:
        values: What is listed, in its order.
        most: How many are written out; at least 1.
    """
    listed = [str(value) for value in values]
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "") if listed else "none"
