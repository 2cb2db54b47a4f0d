import contextlib
import struct
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from common.errors import InputError
from imaging.volumes import matlab
from imaging.volumes.matlab import open_mat
from tests.imaging import fake_lvquan
from tests.imaging.fake_lvquan import WRITERS, write_version73

RNG = np.random.default_rng(0)
NUMBERS = ("f8", "f4", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.mark.parametrize(
    ("kind", "shape", "compress"),
    [
        *((kind, (2, 3, 4), True) for kind in NUMBERS),
        *(("f8", shape, False) for shape in [(1, 1), (1, 3), (3, 1, 5, 2)]),
    ],
)
def test_version_5_is_read_as_scipy_reads_it(tmp_path, kind, shape, compress):
    path = tmp_path / "a.mat"
    values = RNG.integers(0, 100, shape).astype(kind)
    savemat(path, {"x": values, "other": "text", "y": values > 50}, do_compression=compress)
    file, expected = open_mat(path, ("x", "y")), loadmat(path)
    for name in ("x", "y"):
        assert file.read(name).shape == expected[name].shape
        np.testing.assert_array_equal(file.read(name), expected[name])
    assert file.read("x").dtype == kind


def test_files_of_the_other_byte_order_are_read(tmp_path):
    path = tmp_path / "big.mat"
    values = RNG.normal(size=(2, 3))
    parts = [
        struct.pack(">IIII", 6, 8, 6, 0),  # flags: class 6, double
        struct.pack(">IIii", 5, 8, 2, 3),
        struct.pack(">HHc3x", 1, 1, b"x"),  # a name that stands in its own tag
        struct.pack(">II", 9, 48) + values.astype(">f8").tobytes(order="F"),
    ]
    content = b"".join(parts)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    path.write_bytes(header + struct.pack(">II", 14, len(content)) + content)
    np.testing.assert_array_equal(loadmat(path)["x"], values)
    np.testing.assert_array_equal(open_mat(path, ("x",)).read("x"), values)


def test_a_part_of_the_last_axis_is_the_part_of_the_whole(tmp_path, write):
    values = RNG.normal(size=(3, 4, 6))
    file = open_mat(write(tmp_path / "a.mat", {"x": values}), ("x",))
    np.testing.assert_array_equal(file.read("x", slice(3, 5)), values[..., 3:5])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", "char"),
        (np.array([1, "cell"], dtype=object), "cell"),
        ({"field": 1.0}, "struct"),
        (np.ones(2) * 1j, "complex"),
    ],
)
def test_what_is_not_numbers_is_refused_unread(tmp_path, value, kind):
    savemat(tmp_path / "a.mat", {"x": value, "y": 2.5})
    file = open_mat(tmp_path / "a.mat", ("x", "y"))
    with pytest.raises(InputError, match=f"'x' is of class {kind}; save it as an array of numbers"):
        file.read("x")
    assert file.read("y").item() == 2.5


def test_text_and_objects_of_version_73_are_refused_unread(tmp_path):
    path = write_version73(tmp_path / "a.mat", {"x": np.zeros((1, 4), np.uint16), "y": 2.5})
    with h5py.File(path, "a") as file:
        file["x"].attrs["MATLAB_class"] = np.bytes_("char")
        file.create_group("#refs#")
        file.create_dataset("references", (2,), h5py.ref_dtype)
        file.create_dataset("nothing", data=h5py.Empty("f8"))
    file = open_mat(path, ("x", "y"))
    for name in ("x", "#refs#", "references", "nothing"):
        with pytest.raises(InputError, match=r"is of class .*; save it as an array of numbers"):
            file.read(name)
    assert file.read("y").item() == 2.5


def test_a_huge_shape_is_refused_before_memory_is_taken(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:  # 80 TB that take no disk
        file.create_dataset("x", shape=(20, 2**20, 2**20), dtype="f4", chunks=(1, 64, 64))
    savemat(tmp_path / "b.mat", {"x": np.zeros((3, 4, 20))})
    raw = (tmp_path / "b.mat").read_bytes()
    real, huge = np.array([3, 4, 20], "<i4").tobytes(), np.array([2**20, 2**20, 20], "<i4").tobytes()
    (tmp_path / "b.mat").write_bytes(raw.replace(real, huge))
    for name in ("a.mat", "b.mat"):
        with pytest.raises(InputError, match=r"announces the shape \(1048576, 1048576, 20\); save it again"):
            open_mat(tmp_path / name, ("x",)).read("x")


def with_length(raw, length):
    """Give the numbers of a file's one array another length in their tag."""
    tag = struct.pack("<II", 9, 8 * 300 * 400)
    assert raw.count(tag) == 1
    return raw.replace(tag, struct.pack("<II", 9, length))


def test_an_array_that_asks_for_more_memory_than_it_announces_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"x": np.ones((300, 400))})
    raw = with_length(path.read_bytes(), 2**32 - 8)  # 4 GB for an array of 1 MB
    content = zlib.compress(raw[128:] + bytes(2**20))
    path.write_bytes(raw[:128] + struct.pack("<II", 15, len(content)) + content)
    with pytest.raises(InputError, match=r"a\.mat: not a readable MATLAB file \(MemoryError"):
        open_mat(path, ("x",))


def ended_by(monkeypatch, code):
    """Have the reading process do something else."""
    monkeypatch.setattr(matlab, "_READER", ("-c", code))


def test_a_reader_that_crashes_costs_its_file(tmp_path, monkeypatch):
    path = WRITERS["version_5"](tmp_path / "a.mat", {"x": 1.0})
    ended_by(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(
        InputError, match=r"a\.mat: not a readable MATLAB file \(reading it ended with SIGSEGV\); copy it"
    ):
        open_mat(path, ("x",))


def test_a_reader_that_does_not_end_is_ended(tmp_path, monkeypatch):
    path = WRITERS["version_5"](tmp_path / "a.mat", {"x": 1.0})
    monkeypatch.setattr(matlab, "_PATIENCE_S", 0.5)
    ended_by(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(InputError, match=r"\(it took longer than 0\.5 s\)"):
        open_mat(path, ("x",))


def test_cells_with_objects_beside_the_arrays_are_left_where_they_are(tmp_path):
    savemat(tmp_path / "a.mat", {"cells": np.array([{"a": np.ones(3)}, "text"], dtype=object), "y": 2.5})
    file = open_mat(tmp_path / "a.mat", ("cells", "y"))
    assert file.read("y").item() == 2.5
    assert file.said["cells"].kind == "cell"
    assert "cells" not in file.values


@pytest.mark.parametrize("side", [0, -3])
def test_sides_that_are_not_positive_are_refused(tmp_path, side):
    path = tmp_path / "a.mat"
    savemat(path, {"x": np.zeros((3, 4))})
    sides = np.array([[3, 4], [side, 4]], "<i4")
    path.write_bytes(path.read_bytes().replace(sides[0].tobytes(), sides[1].tobytes()))
    with pytest.raises(InputError, match=rf"announces the shape \({side}, 4\)"):
        open_mat(path, ("x",)).read("x")


def test_what_an_hdf5_file_points_to_elsewhere_is_not_followed(tmp_path):
    outside = write_version73(tmp_path / "outside.h5", {"x": np.ones((3, 4))})
    path = write_version73(tmp_path / "a.mat", {"y": 1.0})
    with h5py.File(path, "a") as file:
        file["linked"] = h5py.ExternalLink(str(outside), "x")
        file["soft"] = h5py.SoftLink("/y")
        file.create_dataset("raw", (4, 3), "u1", external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((4, 3), "f8")
        layout[:] = h5py.VirtualSource(str(outside), "x", (4, 3))
        file.create_virtual_dataset("virtual", layout)
    file = open_mat(path, ("linked",))
    for name in ("linked", "soft", "raw", "virtual"):
        with pytest.raises(InputError, match=rf"'{name}' is of class (link|external)"):
            file.read(name)


def test_one_damaged_array_does_not_hide_the_others(tmp_path):
    path = fake_lvquan.write19(tmp_path, "p1", write_version73)
    with h5py.File(path, "r") as file:
        offset = file["epi"].id.get_chunk_info(0).byte_offset + 512
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    file = open_mat(path, ("image", "epi"))
    assert file.read("image").shape == (36, 44, 20)
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        file.read("epi")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mat")
    values = {"x": RNG.normal(size=(4, 5, 3)), "pix": 1.5}
    savemat(folder / "plain.mat", values)
    files = [folder / "plain.mat", *(write(folder / f"{name}.mat", values) for name, write in WRITERS.items())]
    return folder, [file.read_bytes() for file in files]


def damage(sound, which, changes):
    folder, files = sound
    raw = bytearray(files[which])
    for place, value in changes:
        raw[int(place * (len(raw) - 1))] = value
    (folder / "damaged.mat").write_bytes(raw)
    with contextlib.suppress(InputError):
        file = open_mat(folder / "damaged.mat", ("x", "pix"))
        assert [file.read(name).ndim for name in ("x", "pix")]


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)


@settings(max_examples=12)  # a process each
@given(which=st.integers(0, 1), changes=CHANGES)
def test_a_damaged_file_of_version_5_is_read_or_refused_and_never_crashes(sound, which, changes):
    damage(sound, which, changes)


@settings(max_examples=100)
@given(changes=CHANGES)
def test_a_damaged_file_of_version_73_is_read_or_refused_and_never_crashes(sound, changes):
    damage(sound, 2, changes)
