"""Files of some kilobytes that announce, or inflate to, gigabytes: each is refused in a line, within a gigabyte."""

import gzip
import io
import json
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fuzz.run import MOST_MEGABYTES, SECONDS_AN_INPUT, limit_time, most_megabytes, read_one
from tests.fuzz.targets import TARGETS, _meta_end, _with_checksum, _write_archive, _write_deflated, _write_store

MIB = 1 << 20
GIB_OF_ZEROS = 64  # times 16 MiB


def zeros_as_gzip(times=GIB_OF_ZEROS):
    return gzip.compress(bytes(16 * MIB), 6) * times


def zeros_deflated(times=GIB_OF_ZEROS):
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * times


def nifti_head(shape, bits=16, code=4, offset=352.0):
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, code, bits)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 8, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, offset)
    head[344:348] = b"n+1\0"
    return bytes(head)


def compressed_nifti(shape, times, **head):
    return lambda path: path.write_bytes(gzip.compress(nifti_head(shape, **head)) + zeros_as_gzip(times))


def deflated_dicom(path):
    _write_deflated(path)
    content = path.read_bytes()
    path.write_bytes(content[: _meta_end(content)] + zeros_deflated(4 * GIB_OF_ZEROS))


def _png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side):
    def write(path):
        row, packer = bytes(1 + 4 * side), zlib.compressobj(1)
        content = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
        head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
        parts = _png_chunk(b"IHDR", head) + _png_chunk(b"IDAT", content) + _png_chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)

    return write


def mat73(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("image", (1 << 16, 1 << 16), "f8", chunks=(1 << 10, 1 << 10), compression="gzip")
        dataset.attrs["MATLAB_class"] = np.bytes_("double")


def mat5(path):
    from scipy.io import savemat

    savemat(path, {"image": np.zeros((4096, 1 << 14), np.uint8)}, do_compression=True)


def store_of_many_rows(path):
    _write_store(path)
    with h5py.File(path, "r+") as file:
        for name in ("case_id", "slice_index"):
            kind = file[name].dtype
            del file[name]
            file.create_dataset(name, (1 << 33,), kind, chunks=(1 << 16,), compression="gzip")


def store_of_another_file(path):
    _write_store(path)
    with h5py.File(path, "r+") as file:
        del file["slice_index"]
        file["slice_index"] = h5py.ExternalLink("/etc/passwd", "x")


def archive(path):
    _write_archive(path)
    with h5py.File(path, "r+") as file:
        del file["index"]
        file.create_dataset("index", (1 << 33,), "u1", chunks=(1 << 20,), compression="gzip")
    path.write_bytes(_with_checksum(path.read_bytes()))


def checkpoint(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("last/data.pkl", "w") as part:
        for _ in range(GIB_OF_ZEROS):
            part.write(bytes(16 * MIB))


def weights(path):
    head = json.dumps({"a": {"dtype": "F32", "shape": [1 << 32], "data_offsets": [0, 1 << 34]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)


def text(content):
    return lambda path: path.write_text(content)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
BOMBS = {
    "nifti_gz of 8 GB": ("nifti_gz_raw", compressed_nifti((4096, 4096, 256), 1), True),
    "nifti_gz as large as may be": ("nifti_gz_raw", compressed_nifti((512, 512, 128), 16, bits=64, code=64), False),
    "nifti_gz that goes on": ("nifti_gz_raw", compressed_nifti((8, 8, 3), 4 * GIB_OF_ZEROS), True),
    "nifti_gz with an extension of 3 GB": ("nifti_gz_raw", compressed_nifti((8, 8, 3), GIB_OF_ZEROS, offset=3e9), True),
    "deflated dicom": ("dicom", deflated_dicom, True),
    "png of 1 GB": ("png", png(16000), True),
    "png as large as may be": ("png", png(5700), False),
    "mat73": ("mat73", mat73, True),
    "mat5": ("mat5", mat5, True),
    "store of many rows": ("store", store_of_many_rows, True),
    "store of another file": ("store", store_of_another_file, True),
    "archive": ("archive", archive, True),
    "checkpoint": ("checkpoint", checkpoint, True),
    "weights": ("weights", weights, True),
    "yaml of aliases": ("run_file", text(LAUGHS), True),
    "yaml nested": ("plan", text("[" * 5000), True),
    "yaml that holds itself": ("run_file", text("a: &a [*a]\n"), True),
    "yaml of 5 MB": ("run_file", text("a: [" + "1, " * 1_700_000 + "1]\n"), True),
    "json nested": ("split", text("[" * 100_000), True),
    "record nested": ("record", text('{"a":' * 100_000), True),
}


def write_all(folder):
    """Write every bomb, which takes memory, too."""
    for number, (_, (name, write, _)) in enumerate(BOMBS.items()):
        place = Path(folder, str(number))
        place.mkdir()
        path = place / TARGETS[name].name
        write(path)


def read_all(folder):
    """Read every bomb in this process; print how each ended, in how many seconds, and the most memory until then."""
    limit_time()
    for number, (what, (name, _, _)) in enumerate(BOMBS.items()):
        path, began = Path(folder, str(number), TARGETS[name].name), time.process_time()
        refused = io.StringIO()
        wrong = _read(TARGETS[name], path, refused)
        print(json.dumps([what, wrong, refused.getvalue(), time.process_time() - began, most_megabytes()]))


def _read(target, path, refused):
    import dataclasses

    from common.errors import InputError

    def read(place):
        try:
            target.read(place)
        except InputError as error:
            refused.write(str(error))
            raise

    raw = dataclasses.replace(target, read=read, sealed=bytes)
    return read_one(raw, path, path.read_bytes())


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("bombs"))
    write_all(folder)
    code = f"from tests.fuzz.test_bombs import read_all; read_all({folder!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return {row[0]: row[1:] for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("what", BOMBS)
def test_few_bytes_that_announce_many_are_refused_in_a_line_within_a_gigabyte(ended, what):
    wrong, said, seconds, megabytes = ended[what]
    assert wrong == ""
    assert bool(said) == BOMBS[what][2], said
    assert seconds < SECONDS_AN_INPUT
    assert megabytes < MOST_MEGABYTES
