"""What is written is whole or absent, and a write that fails is told in one way, whatever fills the file."""

import ast
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from common.errors import InputError
from common.files import give_usual_rights, move, put_in_place, unwritable, write_atomically, written_aside

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline")


def test_a_file_is_there_when_it_is_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new folder" / "table.csv"
    with written_aside(path, ".csv") as partial:
        partial.write_text("half")
        assert partial.parent == path.parent
        assert partial.name.endswith(".csv")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_what_a_library_leaves_to_its_owner_alone_gets_the_rights_of_anything_new(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        with written_aside(tmp_path / "x.safetensors") as partial:
            save_file({"a": np.ones(2)}, partial)  # which makes a temporary file of its own
        made = Path(tempfile.mkdtemp(dir=tmp_path))
        give_usual_rights(made)
        (made / "private").touch(0o600)
        put_in_place(made, tmp_path / "whole")
    finally:
        os.umask(before)
    places = ("x.safetensors", "whole", "whole/private")  # a file of the user's own is left as it is
    assert [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in places] == [file, folder, 0o600]


def test_what_hdf5_could_not_write_as_it_closes_is_told_as_that(tmp_path):
    def fails(_):
        words = (
            "Can't decrement id ref count (file write failed: time = 1, file descriptor = 13, errno = 5, error = 'I/O')"
        )
        raise RuntimeError(words)

    with pytest.raises(InputError, match=r"x\.h5: cannot be written \(Input/output error\); check the disk"):
        write_atomically(tmp_path / "x.h5", fails)


def fill_the_disk(path):
    with written_aside(path) as partial:
        partial.write_text("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(InputError, match=r"table\.csv: cannot be written \(No space left on device\); free disk space"):
        fill_the_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_fault_that_is_not_of_writing_is_left_as_it_is(tmp_path):
    def fails(partial):
        raise ValueError("a mistake in the code")

    with pytest.raises(ValueError, match="a mistake in the code"):
        write_atomically(tmp_path / "table.csv", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_told_with_its_remedy(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"a part of this path is a file"),
        written_aside(tmp_path / "file" / "table.csv"),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"\(File name too long\); choose a shorter path"),
        written_aside(tmp_path / ("x" * 300)) as partial,
    ):
        partial.write_text("")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EROFS, "Read-only file system"),
            "(Read-only file system); choose a place on a disk that can be",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "(Permission denied); correct the permissions and"),
        (OSError("file write failed: errno = 28, error message = 'No space'"), "(No space left on device); free disk"),
        (OSError("[Errno 122] Can't write data (quota)"), "(Disk quota exceeded); free disk space and run"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "(No space left on device); free disk"),
        (RuntimeError("Unable to extend dataset"), "(Unable to extend dataset); free disk space or correct the perm"),
    ],
)
def test_every_library_s_words_become_the_system_s(error, words):
    told = str(unwritable(Path("out/slices.h5"), error))
    assert told.startswith(f"out/slices.h5: cannot be written {words}")
    assert told.endswith("What was there before is kept")


def test_a_folder_is_put_in_place_with_its_files_and_takes_no_other_s_place(tmp_path):
    for name in ("partial", "other"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text(name)
    put_in_place(tmp_path / "partial", tmp_path / "place")
    assert (tmp_path / "place" / "inner" / "file").read_text() == "partial"
    with pytest.raises(OSError, match="not empty"):
        move(tmp_path / "other", tmp_path / "place")


def test_nobody_else_renames_files_into_place():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if str(path.relative_to(ROOT)) != "common/files.py"
        for line in renamings(path.read_text(encoding="utf-8"))
    }
    assert not found


def test_the_search_finds_renamings_and_no_replacing_in_texts():
    assert list(renamings("os.replace(a, b)\npart.replace(path)\npath.rename(other)\nshutil.move(a, b)")) == [
        1,
        2,
        3,
        4,
    ]
    assert not list(
        renamings("text.replace('a', 'b')\ncolumn.rename('slices')\ntable.rename(columns={})\nreplace(x, y=1)")
    )


def renamings(source: str) -> Iterator[int]:
    """Give the lines that rename a file or flush one to disk."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        module, name = getattr(node.func.value, "id", ""), node.func.attr
        of_path = name in ("rename", "replace") and len(node.args) == 1 and not node.keywords
        if (module, name) in {("os", "replace"), ("os", "rename"), ("os", "fsync"), ("shutil", "move")} or (
            of_path and not isinstance(node.args[0], ast.Constant | ast.Dict)
        ):
            yield node.lineno
