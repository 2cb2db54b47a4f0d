"""Writes miniature folders of PNG and TIFF slices with masks: rings for ventricles, and deliberate oddities.

`python tests/imaging/fake_image_pairs.py DIR` writes three sound patients and one of each oddity to look at.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (3, 36, 44)  # slices, rows, columns: three different numbers, so that a wrong order shows
GREY = (0, 60, 120, 180, 240)  # grey values of the EMIDEC tissues in a mask made for looking at


def label_map(number=1, shape=SHAPE):
    """Rings off centre, narrower from slice to slice; even patients have an infarct."""
    slices, rows, columns = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    column = columns - (shape[2] / 2 + number % 4)
    radius = np.hypot(rows - (shape[1] / 2 - 2), column) + slices
    mask = np.select([radius < 7, radius < 11], [1, 2], 0).astype(np.uint8)
    if number % 2 == 0:
        mask[(mask == 2) & (column > 0)] = 3
    return mask


def image_of(mask, dtype=np.uint8):
    """Each tissue at its own brightness, with noise, over the whole range of the type."""
    levels = np.array([0.25, 0.7, 0.2, 0.9, 0.4])[np.clip(mask, 0, 4)]
    noise = np.random.default_rng(0).normal(0, 0.02, mask.shape)
    return ((levels + noise) * np.iinfo(dtype).max).astype(dtype)


def write(path, pixels, **options):
    """(H, W) or (H, W, channels) as one file; (S, H, W) as the pages of a TIFF where `pages` says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pages(path, volume, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(page) for page in volume)
    first.save(path, save_all=True, append_images=others, **options)
    return path


def write_palette(path, labels):
    """A mask with colours to look at, whose indices are the label values."""
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 214, 69, 65, 65, 131, 215, 245, 215, 66, 38, 194, 129])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def write_big_endian(path, pixels):
    """16-bit grey in the byte order of old Macintoshes, uncompressed; Pillow writes its own order only."""
    height, width = pixels.shape
    data = pixels.astype(">u2").tobytes()
    entries = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    directory = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">2sHI", b"MM", 42, 8 + len(data)) + data + struct.pack(">H", len(entries)) + directory + bytes(4)
    )
    return path


def write_side_by_side(root, case_id, number=1, masks="masks", suffix=".png"):
    mask = label_map(number)
    for index, (grey, labels) in enumerate(zip(image_of(mask), mask, strict=True)):
        write(root / "images" / f"{case_id}_{index:03d}{suffix}", grey)
        write(root / masks / f"{case_id}_{index:03d}{suffix}", labels)


def write_folder(root, case_id, number=1):
    mask = label_map(number)
    for index, (grey, labels) in enumerate(zip(image_of(mask), mask, strict=True)):
        write(root / "images" / case_id / f"{index:03d}.png", grey)
        write(root / "masks" / case_id / f"{index:03d}.png", labels)


def write_stack(root, case_id, number=1):
    mask = label_map(number)
    write_pages(root / "images" / f"{case_id}.tif", image_of(mask, np.uint16))
    write_pages(root / "masks" / f"{case_id}.tif", mask)


LAYOUTS = {"side_by_side": write_side_by_side, "folder": write_folder, "stack": write_stack}


def image_path(root, case_id):
    return root / "images" / f"{case_id}_001.png"


def mask_path(root, case_id):
    return root / "masks" / f"{case_id}_001.png"


def _with(place, change):
    """A sound patient, side by side, of whom one file is changed."""

    def write_odd(root, case_id):
        write_side_by_side(root, case_id)
        change(place(root, case_id))

    return write_odd


def _content(raw):
    return lambda path: path.write_bytes(raw)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _pixels(pixels):
    return lambda path: write(path, pixels)


def _folder(path):
    path.unlink()
    path.mkdir()


def _link_outside(path):
    outside = path.parents[1].with_name(f"outside_{path.parents[1].name}") / path.name
    outside.parent.mkdir(exist_ok=True)
    path.rename(outside)
    path.symlink_to(outside)


def _jpeg(path):
    Image.open(path).save(path, format="JPEG")


def _animation(path):
    write_pages(path, np.stack([np.zeros((36, 44), np.uint8), np.ones((36, 44), np.uint8)]))


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, depth, colour, rows):
    """A PNG of any header; `rows` are the bytes of the picture, each row with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _varying_alpha(path):
    grey = np.array(Image.open(path))
    write(path, np.dstack([grey, grey, grey, np.arange(grey.size).reshape(grey.shape) % 256]).astype(np.uint8))


def _coloured(path):
    grey = np.array(Image.open(path))
    write(path, np.dstack([grey, grey // 2, grey]))


def _value(value):
    def write_value(path):
        labels = np.array(Image.open(path))
        labels[0, 0] = value
        write(path, labels)

    return write_value


def _second_ending(path):
    write(path.with_suffix(".tif"), np.zeros((36, 44), np.uint8))


def _same_number(path):
    write(path.with_name(path.name.replace("_001", "_1")), np.zeros((36, 44), np.uint8))


def _without_number(path):
    write(path.with_name(path.name.replace("_001", "")), np.zeros((36, 44), np.uint8))


def _also_a_folder(root, case_id):
    write_side_by_side(root, case_id)
    write_folder(root, case_id)


def _stacks_in_a_folder(root, case_id):
    for part, values in (("images", image_of(label_map())), ("masks", label_map())):
        for index in range(2):
            write_pages(root / part / case_id / f"{index}.tif", values)


def _unequal_pages(root, case_id):
    write_stack(root, case_id)
    grey = image_of(label_map())
    first, second = Image.fromarray(grey[0]), Image.fromarray(grey[1, :30])
    first.save(root / "images" / f"{case_id}.tif", save_all=True, append_images=[second])


def _fewer_pages(root, case_id):
    write_stack(root, case_id)
    write_pages(root / "masks" / f"{case_id}.tif", label_map()[:2])


def _flat(root, case_id):
    write(root / "images" / f"{case_id}.png", np.full((36, 44), 7, np.uint8))
    write(root / "masks" / f"{case_id}.png", label_map()[0])


# oddity: (what writes it, what the reason must say)
ODDITIES = {
    "cut_off": (_with(image_path, _cut), "not a readable PNG or TIFF"),
    "html_page": (_with(image_path, _content(b"<html>404</html>" * 50)), "not a readable PNG or TIFF"),
    "zero_size": (_with(mask_path, _content(b"")), "not a readable PNG or TIFF"),
    "jpeg": (_with(image_path, _jpeg), "not a readable PNG or TIFF"),
    "bomb": (
        _with(image_path, _content(png(60_000, 60_000, 8, 0, bytes(9)))),
        "not a readable PNG or TIFF .*3600000000",
    ),
    "absurd_size": (_with(mask_path, _content(png(2**31 - 1, 2**31 - 1, 16, 6, b""))), "not a readable PNG or TIFF"),
    "folder": (_with(image_path, _folder), "its image is missing; add it"),
    "no_mask": (_with(mask_path, Path.unlink), "its mask is missing; add it"),
    "no_image": (_with(image_path, Path.unlink), "its image is missing; add it"),
    "two_masks": (_with(mask_path, _second_ending), "are 2 files for the mask of one slice; keep one"),
    "link_outside": (_with(image_path, _link_outside), "leads out of the folder"),
    "animation": (_with(image_path, _animation), "is an animation of 2 frames; save"),
    "coloured_image": (_with(image_path, _coloured), r"\d+ pixels are coloured; save an image as grey"),
    "coloured_mask": (
        _with(mask_path, _coloured),
        r"\d+ pixels are coloured; .*a mask as grey values or with a palette",
    ),
    "varying_alpha": (_with(image_path, _varying_alpha), r"its transparency varies \(0 to 255\); save it without"),
    "deep_colour": (
        _with(image_path, _content(png(44, 36, 16, 2, bytes(36 * (1 + 44 * 6))))),
        "colours or transparency of 16 bits, of which 8 would be lost; save",
    ),
    "deep_alpha": (
        _with(image_path, _content(png(44, 36, 16, 4, bytes(36 * (1 + 44 * 4))))),
        "colours or transparency of 16 bits, of which 8 would be lost; save",
    ),
    "other_shape": (_with(mask_path, _pixels(label_map()[0, :30])), r"mask \(1, 30, 44\) and image \(1, 36, 44\)"),
    "foreign_label": (_with(mask_path, _value(77)), r"label values \[77\]"),
    "same_number": (_with(image_path, _same_number), r"P2_001\.png and P2_1\.png are both slice 1; remove one"),
    "without_number": (_with(image_path, _without_number), "this name has no slice number; call"),
    "also_a_folder": (_also_a_folder, "has a folder too .*; keep one"),
    "stacks_in_a_folder": (_stacks_in_a_folder, "has 3 pages beside other files of the patient; keep one TIFF"),
    "unequal_pages": (_unequal_pages, "page 1 has 30 x 44 pixels and page 0 36 x 44; save"),
    "fewer_pages": (_fewer_pages, r"mask \(2, 36, 44\) and image \(3, 36, 44\)"),
    "flat_image": (_flat, "every voxel of the image is 7; export"),
}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for index, (layout, write_patient) in enumerate(LAYOUTS.items()):
        write_patient(target, layout.replace("_", ""), index)
    for oddity, (write_odd, _) in ODDITIES.items():
        write_odd(target, oddity.replace("_", ""))
