"""The phases of the heart: how frames come by their names, and that one module knows the names."""

import ast
from pathlib import Path

from imaging.studies.study import name_phases

ROOT = Path(__file__).parents[3]
ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline")


def test_the_largest_cavity_is_end_diastole_and_the_smallest_end_systole():
    assert name_phases({"01": 90.0, "05": 60.0, "12": 30.0}, {}) == {"01": "ED", "12": "ES"}
    assert name_phases({1: 30, 7: 90}, {}) == {7: "ED", 1: "ES"}
    assert name_phases({"01": 50.0, "12": 50.0}, {}) == {"01": "ED", "12": "ES"}


def test_what_the_source_names_is_not_measured():
    assert name_phases({"01": 30.0, "12": 90.0}, {"ED": "01"}) == {"01": "ED", "12": "ES"}
    assert name_phases({"01": 30.0, "12": 90.0}, {"ED": "01", "ES": "12"}) == {"01": "ED", "12": "ES"}
    assert name_phases({"12": 90.0}, {"ED": "01"}) == {"01": "ED", "12": "ES"}  # whose drawing is lacking


def test_one_frame_alone_keeps_its_number():
    assert name_phases({"01": 90.0}, {}) == {}
    assert name_phases({}, {"ES": "12"}) == {"12": "ES"}


def test_no_other_module_writes_the_names_or_the_published_weights():
    found = {
        (str(path.relative_to(ROOT)), value)
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for value in written_values(path)
        if value in ("ED", "ES", 26.0)
    }
    assert found == {
        ("imaging/studies/study.py", "ED"),
        ("imaging/studies/study.py", "ES"),
        ("imaging/labels.py", 26.0),
    }


def written_values(path):
    """Return the constants of a module, of numbers those in tables alone: 26 counts other things, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = [value for node in ast.walk(tree) if isinstance(node, ast.Dict) for value in node.values]
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {node.value for node in [*constants, *tables] if isinstance(node, ast.Constant)}
