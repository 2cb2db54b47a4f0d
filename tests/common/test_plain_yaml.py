import math

import pytest

from common.config import read_yaml
from common.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("on", "on"),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("1:30", "1:30"),
        ("2026-11-30", "2026-11-30"),
        ("10_000", 10_000),
        ("", None),
        ("~", None),
        ("true", True),
        ("-.inf", -math.inf),
        ("{a: [1, b, 2.5]}", {"a": [1, "b", 2.5]}),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    assert read_yaml(text, "here") == value


@pytest.mark.parametrize("text", ["[", "a: b: c", "!!python/object/apply:os.system [ls]", "&a [*b]", "\x00"])
def test_what_is_no_plain_yaml_is_one_line(text):
    with pytest.raises(InputError, match=r"^here: is no YAML \(.*\)$"):
        read_yaml(text, "here")
