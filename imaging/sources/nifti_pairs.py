"""Reads anyone's NIfTI studies: `images/NAME.nii.gz` with `labels/NAME.nii.gz`, in any orientation.

Masks may lie in `masks` instead of `labels`, and be called NAME_gt, NAME_seg, NAME_label, NAME_mask or NAME_manual; an
image may be called NAME_0000. What a name tells of patient and frame is in `imaging.sources.patient_names`; what the
numbers in a mask mean, and a spacing better than the headers', the configuration tells.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from common.errors import InputError, some_of
from imaging.labels import LABEL_SETS, patient_group
from imaging.sources.config import SourceConfig
from imaging.sources.files import composed, files_below, nifti_stem, source_folder, unread_studies
from imaging.sources.nifti_studies import NamedFile, NiftiPair, nifti_study, pair_by_name
from imaging.sources.patient_names import FileName, Place, by_study, in_order, tell_patients, unmatched
from imaging.studies.study import RejectedStudy, Study, read_or_reject
from imaging.volumes.nifti_header import read_header

_HOLDS = "images/NAME.nii.gz and labels/NAME.nii.gz"
_IMAGES, _MASKS = "images", ("labels", "masks")
_MASK_NAME = re.compile("(?P<name>.+)[-_](gt|seg|label|labels|mask|manual)", re.DOTALL)
_FIRST_CHANNEL = "_0000"  # nnU-Net's, of images alone
_NO_HEADER = (InputError, OSError, EOFError, zlib.error, ValueError, HeaderDataError, WrapStructError, ImageFileError)


def read_nifti_pairs(root: Path, config: SourceConfig) -> Iterator[Study | RejectedStudy]:
    """Yield the studies in the order of their names, each file one study, then what could not be read.

    Args:
        root: The folder that holds `images` and `labels`.
        config: Label set, meaning of the masks' numbers and of the names, and perhaps the spacing.

    Raises:
        InputError: `root` is no folder, or holds no pairs, or a tissue of `label_values` is unknown, or names leave
            open what is a patient.
    """
    root = source_folder(root, "NIfTI", _HOLDS)
    values = config.label_numbers()
    images = _files(root / _IMAGES)
    masks = [found for folder in _MASKS for found in _files(root / folder)]
    if not images or not masks:
        raise InputError(
            f"NIfTI folder {root} holds {len(images)} images and {len(masks)} masks; "
            f"give the folder that holds {_HOLDS}"
        )
    images = _without_channel(images, {name for name, _ in masks})
    pairs = pair_by_name(images, _by_image(masks, {name for name, _ in images}))
    volumes = {pair.name for pair in pairs if _is_volume(root, pair.path)}
    names = [FileName(pair.name, pair.name in volumes, bool(pair.images)) for pair in pairs]
    places = tell_patients(names, config, f"NIfTI folder {root}")
    return _studies(_Pairs(root, pairs, places, volumes, config, values))


@dataclass(frozen=True)
class _Pairs:
    """What a folder holds: the pairs, what their names tell, and the names of those that are volumes."""

    root: Path
    pairs: Sequence[NiftiPair]
    places: Mapping[str, Place]
    volumes: set[str]
    config: SourceConfig
    values: Mapping[int, int] | None

    def read(self, place: Place, own: Sequence[NiftiPair]) -> Study:
        """Read a study from its volume, or from its files of one slice each."""
        if len(own) == 1:
            return self._read(place, own[0])
        if any(pair.name in self.volumes for pair in own):
            frame = f", frame {place.frame!r}" if place.frame else ""
            raise InputError(
                f"{own[0].path}: {some_of(pair.path.name for pair in own)} are all of patient {place.patient!r}{frame};"
                " keep one of them, or name their frames, such as P01_frame01"
            )
        return _stacked([self._read(place, pair) for pair in in_order(own, self.places)])

    def _read(self, place: Place, pair: NiftiPair) -> Study:
        image_path, mask_path = pair.files(self.root)
        return nifti_study(
            place.patient,
            image_path,
            mask_path,
            self.config.labels,
            frame=place.frame,
            values=self.values,
            spacing_mm=self.config.spacing_mm,
        )


def _studies(found: _Pairs) -> Iterator[Study | RejectedStudy]:
    for place, own in by_study(found.pairs, found.places).items():
        yield read_or_reject(place.patient, own[0].path, partial(found.read, place, own))
    if left := unmatched(found.pairs, found.places):
        yield left
    read = {path for pair in found.pairs for path in (*pair.images, *pair.masks)}
    folders = [found.root / name for name in (_IMAGES, *_MASKS)]
    yield from unread_studies(found.root, folders, read, "save it as .nii.gz in images or labels")


def _files(folder: Path) -> list[NamedFile]:
    """Return the path below a folder, without `.nii.gz`, and the path of each NIfTI file."""
    named = ((nifti_stem(path), path) for path in files_below(folder))
    return [
        (composed((path.parent / stem).relative_to(folder).as_posix()), path)
        for stem, path in named
        if stem is not None
    ]


def _without_channel(images: Iterable[NamedFile], masks: set[str]) -> list[NamedFile]:
    """Name an image as its mask where that lacks the channel's number."""
    bare = ((name, name.removesuffix(_FIRST_CHANNEL), path) for name, path in images)
    return [(other if other in masks and name not in masks else name, path) for name, other, path in bare]


def _by_image(masks: Iterable[NamedFile], images: set[str]) -> Iterator[NamedFile]:
    """Name each mask as its image: an image of the same name comes first."""
    for name, path in masks:
        match = _MASK_NAME.fullmatch(name)
        yield name if name in images or not match else match["name"], path


def _is_volume(root: Path, path: Path) -> bool:
    """Whether a file holds several slices; one that cannot be told counts so, and is refused when it is read."""
    if not path.resolve().is_relative_to(root):
        return True
    try:
        shape = read_header(path).get_data_shape()
    except _NO_HEADER:
        return True
    return len(shape) > 2 and min(shape[:3]) > 1


def _stacked(slices: Sequence[Study]) -> Study:
    """Return one study from the slices of a patient and frame, each a study of one."""
    first = slices[0]
    for one in slices:
        if one.image.shape != (1, *first.image.shape[1:]):
            raise InputError(
                f"{one.path}: shape {one.image.shape} (slice, row, column) is no slice like the first's "
                f"{first.image.shape}; give slices of one size"
            )
    mask = np.concatenate([one.mask for one in slices])
    return replace(
        first,
        image=np.concatenate([one.image for one in slices]),
        mask=mask,
        group=patient_group(mask, LABEL_SETS[first.label_set]),
    )
