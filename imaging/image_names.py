"""Which PNG and TIFF files belong together: image with mask, and slices with slices of the same study.

What a name tells of patient, frame and slice is in `imaging.patient_names`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging.errors import InputError, some_of
from imaging.image_files import page_count
from imaging.patient_names import FileName, Place, by_study, tell_patients, unmatched
from imaging.source_config import SourceConfig
from imaging.source_files import composed, files_below, inside, unread_files
from imaging.study import RejectedStudy

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
    yield from unread_files(root, folders, read, "save it as PNG or TIFF in images or masks")
