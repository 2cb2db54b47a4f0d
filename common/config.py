"""The base of every configuration object.

Reads YAML as YAML 1.2 does (its core schema, yaml.org/spec/1.2.2, section 10.3).

PyYAML follows 1.1, in which `1e-3` is text, `no` is false, `1:30` is ninety and `010` is eight.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from common.errors import InputError, one_line

# What a user may choose of them; here and not beside `runtime.compute`, so that reading it costs no PyTorch.
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp32"]

YES = frozenset({"1", "true", "yes", "on"})  # of a variable of the environment, or of a run's tag


class FrozenConfig(BaseModel):
    """A configuration that cannot change after it is made and refuses unknown keys and wrong values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


_LONGEST_YAML, _MOST_VALUES = 200_000, 100_000
_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)


class _CoreLoader(yaml.SafeLoader):
    """Builds plain values alone, resolved by the core schema; numbers may be grouped by underscores (10_000)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 # PyYAML's own form


for _tag, _pattern, _first in _CORE:
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), ["<"])


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml_file(path: Path, named: str, wanted: str, keys: str) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Args:
        path: The file.
        named: What it is called where it cannot be read.
        wanted: What to give instead.
        keys: What is said of a file that holds no keys.

    Raises:
        InputError: It cannot be read, is no YAML, or holds no keys.
    """
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{named}: cannot be read ({one_line(error)}); {wanted}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: {keys}")
    return dict(content)


def read_yaml(text: str, where: str) -> Any:
    """Read plain values from YAML.

    Args:
        text: One document.
        where: What is read, as an error names it.

    Raises:
        InputError: The text is no YAML; one line says where in it.
    """
    if len(text) > _LONGEST_YAML:
        raise InputError(f"{where}: is {len(text)} letters long, more than settings are ({_LONGEST_YAML}); shorten it")
    try:
        loader = _CoreLoader(text)
        document = loader.get_single_node()
        if document is not None:
            _check_expansion(document, {}, where)
        return None if document is None else loader.construct_document(document)
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply; write it flatter") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:  # what PyYAML raises
        raise InputError(f"{where}: is no YAML ({' '.join(str(error).split())[:200]})") from error


def _check_expansion(node: yaml.Node, known: dict[int, int], where: str) -> int:
    """Return how many values a node stands for, aliases written out; refuse what a few lines of aliases blow up."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES + 1  # until it is counted: one that holds itself has no end
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    inside = (part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,)))
    known[id(node)] = 1 + sum(_check_expansion(part, known, where) for part in inside)
    if known[id(node)] > _MOST_VALUES:
        raise InputError(f"{where}: its aliases (*) stand for more than {_MOST_VALUES} values; write them out")
    return known[id(node)]
