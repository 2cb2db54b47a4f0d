"""Which PNG and TIFF files belong together: image with mask, and slices with slices of the same patient."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imaging.errors import InputError
from imaging.image_files import page_count
from imaging.own_files import without_own
from imaging.source_files import inside

HOLDS = "images/NAME.png and masks/NAME.png"
_ENDINGS = (".png", ".tif", ".tiff")
_SLICE = re.compile(r"(?P<case>.+?)(?:_|[-_]slice[-_]?)(?P<number>\d+)", re.ASCII | re.IGNORECASE)
_LAST_NUMBER = re.compile(r".*?(?P<number>\d+)", re.ASCII)


@dataclass(frozen=True)
class ImagePair:
    """The files of one name: one image and one mask, or they are refused when they are asked for.

    Attributes:
        folder: The patient's own; empty where the files of all lie together.
        stem: The name without its ending.
        images: Image files of this name.
        masks: Mask files of this name.
    """

    folder: str
    stem: str
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """One of the files, for messages."""
        return (*self.images, *self.masks)[0]

    @property
    def number(self) -> int | None:
        """The number of the slice, as the name tells it."""
        match = (_LAST_NUMBER if self.folder else _SLICE).fullmatch(self.stem)
        return int(match["number"]) if match else None

    def files(self, root: Path) -> tuple[Path, Path]:
        """Return image and mask.

        Raises:
            InputError: One of them is missing, or there twice, or leads out of `root`.
        """
        for what, found in (("image", self.images), ("mask", self.masks)):
            if not found:
                raise InputError(f"{self.path}: its {what} is missing; add it, or remove this file")
            if len(found) > 1:
                names = " and ".join(str(path) for path in found)
                raise InputError(f"{names}: are {len(found)} files for the {what} of one slice; keep one of them")
        return inside(root, self.images[0]), inside(root, self.masks[0])


def find_patients(root: Path) -> dict[str, list[ImagePair]]:
    """Return the files of each patient, in the order of names.

    Raises:
        InputError: There are no images or no masks, or a folder cannot be listed.
    """
    images = list(_image_files(root / "images"))
    masks = [*_image_files(root / "masks"), *_image_files(root / "labels")]
    if not images or not masks:
        raise InputError(
            f"image folder {root} holds {len(images)} images and {len(masks)} masks; give the folder that holds {HOLDS}"
        )
    pairs: dict[tuple[str, str], ImagePair] = {}
    for folder, path in images:
        pairs.setdefault((folder, path.stem), ImagePair(folder, path.stem)).images.append(path)
    for folder, path in masks:
        pairs.setdefault((folder, path.stem), ImagePair(folder, path.stem)).masks.append(path)
    patients: dict[str, list[ImagePair]] = {}
    for _, pair in sorted(pairs.items()):
        patients.setdefault(_case_of(root, pair), []).append(pair)
    return dict(sorted(patients.items()))


def in_order(case_id: str, pairs: list[ImagePair]) -> list[ImagePair]:
    """Return a patient's slices by their numbers.

    Raises:
        InputError: There are several, and one has no number, or the number of another.
    """
    if len(pairs) == 1:
        return pairs
    if len({pair.folder for pair in pairs}) > 1:
        raise InputError(f"{pairs[0].path}: patient {case_id!r} has a folder too ({pairs[-1].path.parent}); keep one")
    numbered: dict[int, ImagePair] = {}
    for pair in pairs:
        if pair.number is None:
            raise InputError(
                f"{pair.path}: patient {case_id!r} has {len(pairs)} files and this name has no slice number; "
                "call the slices NAME_000, NAME_001"
            )
        first = numbered.setdefault(pair.number, pair)
        if first is not pair:
            raise InputError(f"{first.path} and {pair.path.name} are both slice {pair.number}; remove one of them")
    return [numbered[number] for number in sorted(numbered)]


def _image_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the patient's folder, or nothing, and the path of each PNG or TIFF."""
    for path in _listed(folder):
        if path.is_dir():
            yield from ((path.name, own) for own in _listed(path) if own.suffix.lower() in _ENDINGS)
        elif path.suffix.lower() in _ENDINGS:
            yield "", path


def _listed(folder: Path) -> list[Path]:
    """Return what a folder holds without hidden files: macOS leaves one beside each file."""
    try:
        return sorted(path for path in without_own(folder.iterdir()) if path.name[0] != ".") if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); correct its permissions") from error


def _case_of(root: Path, pair: ImagePair) -> str:
    match = _SLICE.fullmatch(pair.stem)
    if pair.folder or match is None:
        return pair.folder or pair.stem
    has_pages = pair.path.resolve().is_relative_to(root) and page_count(pair.path) > 1
    return pair.stem if has_pages else match["case"]
