import pytest

from common.files import written_aside


def test_a_file_is_there_when_it_is_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new folder" / "table.csv"
    with written_aside(path, ".csv") as partial:
        partial.write_text("half")
        assert partial.parent == path.parent
        assert partial.name.endswith(".csv")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def fill_the_disk(path):
    with written_aside(path) as partial:
        partial.write_text("new")
        raise OSError("full")


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        fill_the_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
