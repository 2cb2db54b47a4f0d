"""Reads single slices with their label maps, whoever made them: `images/NAME` with `masks/NAME` (or `labels`).

PNG, TIFF and NIfTI, read and refused as those of studies are; a name pairs files and tells nothing of a patient. Beside
them `holes/NAME` may say where a slice was painted: 0 is the camera's. The pages of a TIFF and the slices of a volume
are slices of one file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from imaging.labels import LabelSet, distinct_values, to_labels
from imaging.sources.files import composed, files_below, inside, nifti_stem, unread_studies
from imaging.sources.image_pairs import ImagePair, read_mask
from imaging.studies.study import check_geometry
from imaging.volumes.image_files import read_grey, read_pixels
from imaging.volumes.nifti import read_nifti_pair

HOLDS = "images/NAME.png and masks/NAME.png (or .tif, .nii.gz)"
FOLDERS = {"images": ("images",), "masks": ("masks", "labels"), "holes": ("holes",)}
_ANY_SLICE_MM = 8.0  # of single slices nobody asks
_PICTURES = (".png", ".tif", ".tiff")
_ASK_FOR_SPACING = "PNG and TIFF carry no spacing; give --set synthesis.spacing_mm=[1,1] (row, column in mm)"


@dataclass(frozen=True)
class SliceFiles:
    """The files of one name; `files` refuses what is no pair.

    Attributes:
        name: Path below the folder of images, without its ending.
        images: Image files of this name.
        masks: Mask files of this name.
        holes: Files of this name that say where it was painted.
    """

    name: str
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    holes: list[Path] = field(default_factory=list)

    @property
    def all(self) -> list[Path]:
        """Every file."""
        return [*self.images, *self.masks, *self.holes]

    def files(self, root: Path) -> tuple[Path, Path]:
        """Return image and mask.

        Raises:
            InputError: One of them is missing, or there twice, or leads out of `root`.
        """
        if not self.images and not self.masks:
            raise InputError(f"{self.holes[0]}: is no hole of any slice; add its image and mask, or remove this file")
        return ImagePair(self.name, self.images, self.masks).files(root)

    def hole(self, root: Path) -> Path | None:
        """Return the file that says where the slice was painted, None where there is none.

        Raises:
            InputError: There are two, or it leads out of `root`.
        """
        if len(self.holes) > 1:
            raise InputError(f"{some_of(self.holes)}: are {len(self.holes)} holes of one slice; keep one of them")
        return inside(root, self.holes[0]) if self.holes else None


@dataclass(frozen=True, eq=False)
class ReadSlices:
    """The slices of one file.

    Attributes:
        name: As `SliceFiles` has it.
        path: The image.
        image: (S, H, W), as the file has it.
        mask: (S, H, W) label values.
        hole: (S, H, W) 1 where it was painted; None where nobody says.
        spacing_mm: (row, column).
        full_scale: The number that stands for 1 where the file tells it by its type; 0 where it does not.
    """

    name: str
    path: Path
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    hole: NDArray[np.uint8] | None
    spacing_mm: tuple[float, float]
    full_scale: float


def find_slices(root: Path, spacing_mm: tuple[float, float] | None) -> list[SliceFiles]:
    """Return the files of every slice in the order of their names, each a whole pair.

    Args:
        root: The folder that holds `images` and `masks`.
        spacing_mm: (row, column), needed for PNG and TIFF.

    Raises:
        InputError: There are none, one is no pair, an image of another format lies among them, or the spacing is
            missing.
    """
    found: dict[str, SliceFiles] = {}
    for kind, folders in FOLDERS.items():
        for name, path in _named_files(root, folders):
            getattr(found.setdefault(name, SliceFiles(name)), kind).append(path)
    slices = [found[name] for name in sorted(found)]
    images, masks, holes = (sum(bool(getattr(each, kind)) for each in slices) for kind in FOLDERS)
    if not images or not masks:
        raise InputError(f"{root}: holds {images} images and {masks} masks; give the folder that holds {HOLDS}")
    _refuse_unread(root, slices)
    _refuse_odd(root, slices, holes > 0)
    if spacing_mm is not None:
        check_geometry((_ANY_SLICE_MM, *spacing_mm), np.eye(4), "synthesis.spacing_mm")
    pictures = [each.images[0] for each in slices if nifti_stem(each.images[0]) is None]
    if pictures and spacing_mm is None:
        raise InputError(f"{pictures[0]}: spacing unknown: {_ASK_FOR_SPACING}")
    return slices


def _named_files(root: Path, folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for folder in (root / name for name in folders):
        for path in files_below(folder):
            stem = nifti_stem(path) or (path.stem if path.suffix.lower() in _PICTURES else None)
            if stem is not None and not path.is_dir():
                yield composed((path.parent / stem).relative_to(folder).as_posix()), path


def _refuse_unread(root: Path, slices: Sequence[SliceFiles]) -> None:
    read = {path for each in slices for path in each.all}
    folders = [root / name for names in FOLDERS.values() for name in names]
    rejected = list(unread_studies(root, folders, read, "save it as PNG, TIFF or NIfTI in images or masks"))
    if rejected:
        raise InputError(f"{rejected[0].reason}{_more(len(rejected))}")


def _refuse_odd(root: Path, slices: Sequence[SliceFiles], with_holes: bool) -> None:
    faults = []
    for each in slices:
        try:
            each.files(root)
            hole = each.hole(root)
        except InputError as error:
            faults.append(str(error))
        else:
            if with_holes and hole is None:
                faults.append(f"{each.images[0]}: has no hole while others have; add it to {root / 'holes'}")
    if faults:
        raise InputError(f"{faults[0]}{_more(len(faults))}")


def _more(count: int) -> str:
    return f" (and {count - 1} more like it)" if count > 1 else ""


def read_slices(root: Path, files: SliceFiles, labels: LabelSet, spacing_mm: tuple[float, float] | None) -> ReadSlices:
    """Read the slices of one name.

    Args:
        root: The folder that holds `images` and `masks`.
        files: Found by `find_slices`.
        labels: Label set of the masks.
        spacing_mm: (row, column); None for that of a NIfTI file.

    Raises:
        InputError: A file is unreadable, or its values are no label values, or image, mask and hole do not belong
            together.
    """
    image_path, mask_path = files.files(root)
    hole_path = files.hole(root)
    volumes = [nifti_stem(path) is not None for path in (image_path, mask_path)]
    if any(volumes) and not all(volumes):
        raise InputError(f"{image_path}: is of another format than its mask {mask_path.name}; save both as one format")
    if all(volumes):
        image, mask = read_nifti_pair(image_path, mask_path)
        values: NDArray[Any] = image.image
        drawn, spacing, full = to_labels(mask.data, labels, str(mask_path)), image.spacing_mm[1:], 1.0
    else:
        assert spacing_mm is not None, "find_slices asks for it"
        values = read_grey(image_path)
        drawn, spacing, full = read_mask(mask_path, labels, None), spacing_mm, _full_scale(values.dtype)
    _check_shape(mask_path, "mask", drawn, image_path, values)
    if not np.isfinite(values).all():
        raise InputError(f"{image_path}: holds NaN or infinite values; repair what made it")
    hole = None if hole_path is None else _read_hole(hole_path, image_path, values)
    own = spacing_mm or (spacing[0], spacing[1])
    return ReadSlices(files.name, image_path, values.astype(np.float32), drawn, hole, own, full)


def _full_scale(kind: np.dtype[Any]) -> float:
    """Return the number that stands for 1 in a picture; 0 for whole numbers of 32 bits, which have no scale."""
    if kind.kind in "bf":
        return 1.0
    return float(np.iinfo(kind).max) if kind.itemsize <= 2 else 0.0


def _read_hole(path: Path, image_path: Path, image: NDArray[Any]) -> NDArray[np.uint8]:
    values = read_pixels(path) if nifti_stem(path) is None else read_nifti_pair(image_path, path)[1].data
    _check_shape(path, "hole", values, image_path, image)
    found = distinct_values(values.astype(np.int64)) if values.size else []
    if len(set(found) - {0}) > 1 or not np.array_equal(values, np.rint(values)):
        raise InputError(
            f"{path}: holds {some_of(found)}; a hole is 0 where a slice is the camera's and 1 where painted"
        )
    return (values != 0).astype(np.uint8)


def _check_shape(path: Path, what: str, values: NDArray[Any], image_path: Path, image: NDArray[Any]) -> None:
    if values.shape != image.shape:
        raise InputError(
            f"{path}: {what} {values.shape} and image {image_path.name} {image.shape} (slice, row, column) differ in "
            f"shape; give the {what} of this image"
        )
