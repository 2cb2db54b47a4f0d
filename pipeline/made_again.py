"""Why a result is made again, in words for the step's log: what it was made of beside what it would be made of."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 5  # differences; the line stays one that can be read
_LONGEST = 60  # characters of a value
_ABSENT = object()


def differences(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return how two results differ in code, inputs and settings.

    Args:
        before: `code_version`, `parents` (data versions of what was read) and `config` of the result that is there;
            empty where its record does not tell.
        wanted: The same of the result that is wanted.
    """
    wanted = json.loads(json.dumps(wanted))  # as a record gives it back
    if not before or before.keys() != wanted.keys():
        return "it was made by other code, of other inputs or with other settings; its record does not tell which"
    found = [*_code(before, wanted), *_inputs(before["parents"], wanted["parents"])]
    found += _settings(before["config"], wanted["config"])
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*found[:_SHOWN], *more])


def _code(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    old, new = before["code_version"], wanted["code_version"]
    if old != new:
        yield f"code version {old} -> {new}"


def _inputs(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | wanted.keys()):
        old, new = before.get(name), wanted.get(name)
        if old != new:
            yield f"input {name} {'is new' if old is None else 'is left out' if new is None else 'changed'}"


def _settings(before: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(wanted, Mapping):
        for key in sorted(before.keys() | wanted.keys()):
            below = f"{name}.{key}" if name else str(key)
            yield from _settings(before.get(key, _ABSENT), wanted.get(key, _ABSENT), below)
    elif before is not wanted and before != wanted:
        yield f"the setting {name} changed from {_text(before)} to {_text(wanted)}"


def _text(value: Any) -> str:
    text = "not given" if value is _ABSENT else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
