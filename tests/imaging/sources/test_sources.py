"""The table of formats is what the documents say and what the code can read."""

import inspect
from pathlib import Path

import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.sources.config import SourceConfig
from imaging.sources.files import source_digest
from imaging.sources.table import SOURCES, read_source, source_labels

WITH_ROOT = [name for name, source in SOURCES.items() if source.needs_root]


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_has_a_reader_with_the_arguments_it_is_given(name):
    source = SOURCES[name]
    arguments = 2 if source.needs_root else 1
    assert len(inspect.signature(source.read).parameters) == arguments


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_is_documented(name):
    assert f"| `{name}` |" in Path("docs/formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_ROOT)
def test_a_folder_without_anything_of_the_format_is_refused_before_the_first_study(name, tmp_path):
    options = SourceConfig(spacing_mm=(8.0, 1.0, 1.0))
    with pytest.raises(InputError, match="; give "):
        read_source(name, tmp_path, None, options)
    absent = "does not exist|is not a folder|no folder"
    with pytest.raises(InputError, match=absent):
        read_source(name, tmp_path / "absent", None, options)


def test_the_configuration_decides_where_the_format_leaves_the_labels_open():
    assert source_labels("nifti", SourceConfig(label_set="cine")) == CINE_LABELS
    assert source_labels("image_pairs") == EMIDEC_LABELS
    assert source_labels("acdc", SourceConfig(label_set="emidec")) == CINE_LABELS


def test_the_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = source_digest(tmp_path, None)
    assert source_digest(tmp_path, None) == first
    (tmp_path / "a").write_bytes(b"2")
    changed = source_digest(tmp_path, None)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, changed, source_digest(tmp_path, None)}) == 3
    assert source_digest(tmp_path / "b", None) != first
    with pytest.raises(InputError, match="is not a folder"):
        source_digest(tmp_path / "absent", None)
