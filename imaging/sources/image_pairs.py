"""Reads anyone's slices as PNG or TIFF: `images/NAME.png` with `masks/NAME.png` (or `labels`).

A study is one file (the pages of a TIFF are its slices), or files of single slices: `CASE_000.png`, `CASE_001.png`
or `CASE-slice1.png` side by side, or `CASE/000.png` in a folder a patient. Image and mask have the same name, and
perhaps different endings.

Which PNG and TIFF files belong together: image with mask, and slices with slices of the same study.

What a name tells of patient, frame and slice is in `imaging.sources.patient_names`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from imaging.labels import LabelSet, labels_by_colour, patient_group, to_labels
from imaging.sources.config import SourceConfig
from imaging.sources.files import composed, files_below, inside, source_folder, unread_studies
from imaging.sources.patient_names import FileName, Place, by_study, in_order, tell_patients, unmatched
from imaging.studies.study import RejectedStudy, Study, check_geometry, read_or_reject
from imaging.volumes.image_files import COLOURED, page_count, read_grey, read_pixels
from imaging.volumes.nifti import MOST_VOXELS

HOLDS = "images/NAME.png and masks/NAME.png"
_IMAGES, _MASKS = ("images",), ("masks", "labels")
_ENDINGS = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class ImagePair:
    """The files of one name: one image and one mask, or they are refused when they are asked for.

    Attributes:
        name: Path below the folder of images or masks, without its ending.
        images: Image files of this name.
        masks: Mask files of this name.
    """

    name: str
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """One of the files, for messages."""
        return (*self.images, *self.masks)[0]

    def files(self, root: Path) -> tuple[Path, Path]:
        """Return image and mask.

        Raises:
            InputError: One of them is missing, or there twice, or leads out of `root`.
        """
        for what, found in (("image", self.images), ("mask", self.masks)):
            if not found:
                raise InputError(f"{self.path}: its {what} is missing; add it, or remove this file")
            if len(found) > 1:
                names = some_of(found)
                raise InputError(f"{names}: are {len(found)} files for the {what} of one slice; keep one of them")
        return inside(root, self.images[0]), inside(root, self.masks[0])


@dataclass(frozen=True)
class FoundPictures:
    """What lies in a folder of pictures.

    Attributes:
        studies: The files of each patient and frame, in the order of names.
        places: What each name tells.
        unread: What is no study, and why.
    """

    studies: Mapping[Place, Sequence[ImagePair]]
    places: Mapping[str, Place]
    unread: Sequence[RejectedStudy]


def find_pictures(root: Path, config: SourceConfig) -> FoundPictures:
    """Return the files of each study, and what cannot be read.

    Raises:
        InputError: There are no images or no masks, or a folder cannot be listed, or names leave patients open.
    """
    pairs: dict[str, ImagePair] = {}
    for name, path in _image_files(root, _IMAGES):
        pairs.setdefault(name, ImagePair(name)).images.append(path)
    for name, path in _image_files(root, _MASKS):
        pairs.setdefault(name, ImagePair(name)).masks.append(path)
    images, masks = (sum(len(found) for found in each) for each in _both(pairs))
    if not images or not masks:
        raise InputError(
            f"image folder {root} holds {images} images and {masks} masks; give the folder that holds {HOLDS}"
        )
    ordered = [pairs[name] for name in sorted(pairs)]
    names = [FileName(pair.name, _has_pages(root, pair), bool(pair.images)) for pair in ordered]
    places = tell_patients(names, config, f"image folder {root}")
    return FoundPictures(by_study(ordered, places), places, list(_unread(root, ordered, places)))


def _both(pairs: Mapping[str, ImagePair]) -> tuple[list[list[Path]], list[list[Path]]]:
    return [pair.images for pair in pairs.values()], [pair.masks for pair in pairs.values()]


def _image_files(root: Path, folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each PNG or TIFF, hidden ones left out."""
    for folder in (root / name for name in folders):
        for path in files_below(folder):
            if path.suffix.lower() in _ENDINGS and not path.is_dir():
                yield composed(path.relative_to(folder).with_suffix("").as_posix()), path


def _has_pages(root: Path, pair: ImagePair) -> bool:
    return pair.path.resolve().is_relative_to(root) and page_count(pair.path) > 1


def _unread(root: Path, pairs: Sequence[ImagePair], places: Mapping[str, Place]) -> Iterator[RejectedStudy]:
    if left := unmatched(pairs, places):
        yield left
    read = {path for pair in pairs for path in (*pair.images, *pair.masks)}
    folders = [root / name for name in (*_IMAGES, *_MASKS)]
    yield from unread_studies(root, folders, read, "save it as PNG or TIFF in images or masks")


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
        mask = read_mask(mask_path, config.labels, values)
        images.append(image)
        masks.append(mask)
        _check_slice(pair, images, mask)
        if len(image) > 1 and len(pairs) > 1:
            raise InputError(f"{pair.path}: has {len(image)} pages beside other files of the patient; keep one TIFF")
    return np.concatenate(images), np.concatenate(masks)


def read_mask(path: Path, labels: LabelSet, values: Mapping[int, int] | None) -> NDArray[np.uint8]:
    """Return label values (pages, H, W): by the label set's colours where the file is coloured, else by its greys.

    Raises:
        InputError: It is unreadable, or holds what is no label.
    """
    pixels = read_pixels(path)
    if pixels.ndim == COLOURED:
        return labels_by_colour(pixels, labels, str(path))
    return to_labels(pixels, labels, str(path), values)


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
