"""Writes miniature LVQuan19 and LVQuan18 files as MATLAB would, in both of its formats, with deliberate oddities.

`python tests/imaging/fake_lvquan.py DIR` writes four sound LVQuan19 patients and one of each oddity to look at.
"""

import sys
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

SHAPE = (36, 44)  # rows, columns: different, so that a wrong order shows
FRAMES = 20
PIXEL_MM = 1.25


def patient(number=1, shape=SHAPE):
    """Rings off centre that shrink to mid-beat and grow again; arrays (rows, columns, 20)."""
    rows, columns, beat = np.meshgrid(*(np.arange(size) for size in (*shape, FRAMES)), indexing="ij")
    radius = np.hypot(rows - (shape[0] / 2 - 2), columns - (shape[1] / 2 + number % 4))
    inner = 5 + 2.5 * np.cos(2 * np.pi * beat / FRAMES)
    endo, epi = radius < inner, radius < inner + 3.5
    levels = np.where(endo, 180.0, np.where(epi, 60.0, 110.0))
    image = levels + np.random.default_rng(number).normal(0, 5, levels.shape)
    return {"image": image, "endo": endo, "epi": epi}


def fields(number=1, **changes):
    """All that a LVQuan19 file holds; a change to None leaves the field out."""
    indices = {"areas": np.ones((2, 20)), "dims": np.ones((3, 20)), "rwt": np.ones((6, 20)), "lv_phase": np.ones(20)}
    values = patient(number) | indices | {"pix_spacing": PIXEL_MM} | changes
    return {name: value for name, value in values.items() if value is not None}


def write_version5(path, values):
    savemat(path, values, do_compression=True)
    return path


def write_version73(path, values):
    """HDF5 behind a block of 512 bytes; axes reversed; logical arrays as uint8 that say so."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            add_dataset(file, name, value)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jun 17 10:00:00 2019 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def add_dataset(file, name, value):
    value = np.atleast_2d(value)
    logical = value.dtype == bool
    stored = value.T.astype(np.uint8) if logical else value.T
    chunks = (min(20, len(stored)), *stored.shape[1:]) if stored.size > 40 else None
    dataset = file.create_dataset(name, data=stored, chunks=chunks, compression="gzip" if chunks else None)
    names = {"float64": "double", "float32": "single", "bool": "logical"}
    dataset.attrs["MATLAB_class"] = np.bytes_(names.get(value.dtype.name, value.dtype.name))
    if logical:
        dataset.attrs["MATLAB_int_decode"] = np.int32(1)


WRITERS = {"version_5": write_version5, "version_73": write_version73}


def write19(root, stem, write=write_version5, **changes):
    return write(root / f"{stem}.mat", fields(**changes))


def write18(root, patients=2, write=write_version5, **changes):
    """One file for all, the frames of one patient after the other's."""
    people = [patient(number) for number in range(1, patients + 1)]
    together = {f"{key}_LV": np.concatenate([one[name] for one in people], axis=2) for key, name in _KEYS18}
    values = {name: value for name, value in (together | changes).items() if value is not None}
    return write(root / "LVQuan18.mat", values)


_KEYS18 = (("images", "image"), ("endo", "endo"), ("epi", "epi"))


def _changed(**changes):
    return lambda root, stem, write: write19(root, stem, write, **changes)


def _cut(share):
    def write_cut(root, stem, write):
        path = write19(root, stem, write)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(share * len(raw))])

    return write_cut


def _content(raw):
    def write_content(root, stem, write):
        (root / f"{stem}.mat").write_bytes(raw)

    return write_content


def _folder(root, stem, write):
    (root / f"{stem}.mat").mkdir()


def _link_outside(root, stem, write):
    outside = root.parent / f"outside_{root.name}"
    outside.mkdir(exist_ok=True)
    (root / f"{stem}.mat").symlink_to(write19(outside, stem, write))


def _dangling_link(root, stem, write):
    (root / f"{stem}.mat").symlink_to(root / "absent")


def _complex(root, stem, write):
    write19(root, stem, write, image=patient()["image"] * (1 + 1j))


def _crashing(root, stem, write):
    """Numbers of a type that does not exist, on which SciPy 1.17.1 ends in a segmentation fault."""
    path = root / f"{stem}.mat"
    savemat(path, fields())
    raw = bytearray(path.read_bytes())
    raw[192] = 251
    path.write_bytes(raw)


# oddity of a whole file: (what writes it, what the reason must say)
FILE_ODDITIES = {
    "cut_at_a_tenth": (_cut(0.1), "not a readable MATLAB file"),
    "cut_in_the_middle": (_cut(0.5), "not a readable MATLAB file"),
    "cut_at_the_end": (_cut(0.999), "not a readable MATLAB file"),
    "html_page": (_content(b"<html>404</html>" * 50), "not a readable MATLAB file"),
    "zero_size": (_content(b""), "not a readable MATLAB file"),
    "zeros": (_content(bytes(2000)), "not a readable MATLAB file"),
    "crashing": (_crashing, "not a readable MATLAB file"),
    "folder": (_folder, "cannot be read"),
    "link_outside": (_link_outside, "leads out of the folder"),
    "dangling_link": (_dangling_link, "cannot be read"),
    "no_image": (_changed(image=None), "has no 'image' but"),
    "no_epi": (_changed(epi=None), "has no 'epi' but"),
    "no_spacing": (_changed(pix_spacing=None), "has no 'pix_spacing' but"),
    "complex_image": (_complex, "'image' is of class complex.*; save it as an array of numbers"),
    "other_shape": (_changed(epi=patient(shape=(36, 40))["epi"]), r"epi \(36, 40, 20\); give three arrays"),
    "one_frame": (_changed(**{n: v[..., 0] for n, v in patient().items()}), r"image \(36, 44\), endo \(36, 44\)"),
    "nineteen": (_changed(**{n: v[..., 1:] for n, v in patient().items()}), r"shape \(36, 44, 19\); give .* 20 frames"),
    "negative_spacing": (_changed(pix_spacing=-1.25), "spacing 1 x -1.25 x -1.25 mm"),
    "zero_spacing": (_changed(pix_spacing=0.0), "spacing 1 x 0 x 0 mm"),
    "nan_spacing": (_changed(pix_spacing=np.nan), "spacing 1 x nan x nan mm"),
    "three_spacings": (_changed(pix_spacing=np.ones(3)), r"'pix_spacing' has shape \(1, 3\); give one number"),
}


def _frame(name, edit):
    """A sound file but for frame 07."""

    def write_changed(root, stem, write):
        values = patient()[name].astype(np.float64)
        edit(values[..., 6])
        write19(root, stem, write, **{name: values})

    return write_changed


def _fill(value):
    return lambda frame: frame.fill(value)


def _pixel(value):
    return lambda frame: frame.__setitem__((0, 0), value)


def _shift(frame):
    frame[:] = np.roll(frame, 12, axis=1)


# oddity of frame 07: (what writes it, what the reason must say)
FRAME_ODDITIES = {
    "nan_pixel": (_frame("image", _pixel(np.nan)), "1 of 1584 voxels of the image are NaN"),
    "beyond_float32": (_frame("image", _pixel(1e300)), "1 of 1584 voxels of the image are NaN or infinite"),
    "flat_image": (_frame("image", _fill(7.0)), "every voxel of the image is 7"),
    "empty_cavity": (_frame("endo", _fill(0.0)), "endo is empty"),
    "empty_ventricle": (_frame("epi", _fill(0.0)), "epi is empty"),
    "full_ventricle": (_frame("epi", _fill(1.0)), "epi is everywhere"),
    "nan_mask": (_frame("endo", _pixel(np.nan)), "endo holds 0, 1, nan"),
    "nan_frame": (_frame("epi", _fill(np.nan)), "epi holds nan"),
    "grey_mask": (_frame("epi", _pixel(0.5)), "epi holds 0, 0.5, 1"),
    "negative_mask": (_frame("epi", _pixel(-1.0)), "epi holds -1, 0, 1"),
    "cavity_outside": (_frame("endo", _shift), r"\d+ of \d+ pixels of endo lie outside epi"),
    "no_wall": (_frame("epi", lambda f: np.copyto(f, patient()["endo"][..., 6])), "no voxel of the mask is myocardium"),
}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for index in range(1, 5):
        write19(target, f"patient{index:02d}", tuple(WRITERS.values())[index % 2], number=index)
    for oddity, (write_odd, _) in (FILE_ODDITIES | FRAME_ODDITIES).items():
        write_odd(target, oddity, write_version5)
