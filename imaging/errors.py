"""The one error that users are meant to read."""


class InputError(Exception):
    """Input that cannot be used: the message is one line that names the thing, the values and the next step."""
