"""Reads anyone's slices as PNG or TIFF: `images/NAME.png` with `masks/NAME.png` (or `labels`).

A study is one file (the pages of a TIFF are its slices), or files of single slices: `CASE_000.png`, `CASE_001.png`
or `CASE-slice1.png` side by side, or `CASE/000.png` in a folder a patient. Image and mask have the same name, and
perhaps different endings.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.image_files import COLOURED, read_grey, read_pixels
from imaging.image_names import HOLDS, FoundPictures, ImagePair, find_pictures
from imaging.label_values import labels_by_colour, to_labels
from imaging.labels import patient_group
from imaging.nifti import MOST_VOXELS
from imaging.patient_names import Place, in_order
from imaging.source_config import SourceConfig
from imaging.source_files import source_folder
from imaging.study import RejectedStudy, Study, check_geometry, read_or_reject


def read_image_pairs(root: Path, config: SourceConfig) -> Iterator[Study | RejectedStudy]:
    """Yield the studies in the order of their names, then what could not be read.

    Args:
        root: The folder that holds `images` and `masks` (or `labels`).
        config: Label set, meaning of the masks' numbers and of the names, and the spacing, which must be given.

    Raises:
        InputError: `root` is no folder, or holds no pairs, or the spacing or a tissue of `label_values` is wrong, or
            names leave open what is a patient.
    """
    root = source_folder(root, "image", HOLDS)
    if config.spacing_mm is None:
        raise InputError(
            "PNG and TIFF carry no spacing; give --set source.spacing_mm=[8,1.4,1.4] (slice, row, column in mm)"
        )
    check_geometry(config.spacing_mm, np.eye(4), "source.spacing_mm")
    values = config.label_numbers()
    return _studies(root, find_pictures(root, config), config, values)


def _studies(
    root: Path, found: FoundPictures, config: SourceConfig, values: Mapping[int, int] | None
) -> Iterator[Study | RejectedStudy]:
    for place, pairs in found.studies.items():
        read = partial(_read_study, root, place, pairs, found.places, config, values)
        yield read_or_reject(place.patient, _place(pairs), read)
    yield from found.unread


def _place(pairs: Sequence[ImagePair]) -> Path:
    """Return where a study lies, for messages."""
    first, last = pairs[0].path, pairs[-1].path
    if len(pairs) == 1:
        return first
    return first.parent if "/" in pairs[0].name else Path(f"{first} to {last.name}")


def _read_study(
    root: Path,
    place: Place,
    pairs: Sequence[ImagePair],
    places: Mapping[str, Place],
    config: SourceConfig,
    values: Mapping[int, int] | None,
) -> Study:
    image, mask = _read_slices(root, in_order(pairs, places), config, values)
    assert config.spacing_mm is not None
    slice_mm, row_mm, column_mm = config.spacing_mm
    return Study(
        case_id=place.patient,
        frame=place.frame,
        group=patient_group(mask, config.labels),
        image=image,
        mask=mask,
        spacing_mm=config.spacing_mm,
        affine=np.diag([column_mm, row_mm, slice_mm, 1.0]),
        label_set=config.label_set,
        path=str(_place(pairs)),
    )


def _read_slices(
    root: Path, pairs: Sequence[ImagePair], config: SourceConfig, values: Mapping[int, int] | None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return image and label map (S, H, W)."""
    images: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.uint8]] = []
    for pair in pairs:
        image_path, mask_path = pair.files(root)
        image = read_grey(image_path).astype(np.float32)
        mask = _read_mask(mask_path, config, values)
        images.append(image)
        masks.append(mask)
        _check_slice(pair, images, mask)
        if len(image) > 1 and len(pairs) > 1:
            raise InputError(f"{pair.path}: has {len(image)} pages beside other files of the patient; keep one TIFF")
    return np.concatenate(images), np.concatenate(masks)


def _read_mask(path: Path, config: SourceConfig, values: Mapping[int, int] | None) -> NDArray[np.uint8]:
    """Return label values (pages, H, W): by the label set's colours where the file is coloured, else by its greys."""
    pixels = read_pixels(path)
    if pixels.ndim == COLOURED:
        return labels_by_colour(pixels, config.labels, str(path))
    return to_labels(pixels, config.labels, str(path), values)


def _check_slice(pair: ImagePair, images: list[NDArray[np.float32]], mask: NDArray[np.uint8]) -> None:
    """Raise `InputError` unless the latest of a patient's slices fits its mask and the slices before."""
    image = images[-1]
    if image.shape != mask.shape:
        raise InputError(
            f"{pair.masks[0]}: mask {mask.shape} and image {image.shape} (slice, row, column) differ in shape; "
            "give the mask that was drawn on this image"
        )
    if len(images) > 1 and image.shape != images[0].shape:
        raise InputError(
            f"{pair.path}: shape {image.shape} (slice, row, column) is not the first slice's {images[0].shape}; "
            "give slices of one size, or one TIFF with all of them as pages"
        )
    if len(images) * image.size > MOST_VOXELS:
        raise InputError(f"{pair.path}: {len(images)} slices of {image.shape[1:]} pixels are no study; check the names")
