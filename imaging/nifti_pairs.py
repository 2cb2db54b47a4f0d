"""Reads anyone's NIfTI studies: `images/NAME.nii.gz` with `labels/NAME.nii.gz`, in any orientation.

Masks may lie in `masks` instead of `labels`, and be called NAME_gt, NAME_seg, NAME_label or NAME_manual. What the
numbers in a mask mean, and a spacing better than the headers', the configuration tells.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from imaging.errors import InputError
from imaging.nifti_study import NamedFile, NiftiPair, nifti_files, nifti_study, pair_by_name
from imaging.source_config import SourceConfig
from imaging.source_files import source_folder
from imaging.study import RejectedStudy, Study, read_or_reject

_HOLDS = "images/NAME.nii.gz and labels/NAME.nii.gz"
_MASK_ENDINGS = ("_gt", "_seg", "_label", "_manual")


def read_nifti_pairs(root: Path, config: SourceConfig) -> Iterator[Study | RejectedStudy]:
    """Yield the studies in the order of their names, each patient's file one study.

    Args:
        root: The folder that holds `images` and `labels`.
        config: Label set, meaning of the masks' numbers, and perhaps the spacing.

    Raises:
        InputError: `root` is no folder, or holds no pairs, or a tissue of `label_values` is unknown.
    """
    root = source_folder(root, "NIfTI", _HOLDS)
    values = config.label_numbers()
    images = nifti_files(root / "images")
    masks = [*nifti_files(root / "labels"), *nifti_files(root / "masks")]
    if not images or not masks:
        raise InputError(
            f"NIfTI folder {root} holds {len(images)} images and {len(masks)} masks; "
            f"give the folder that holds {_HOLDS}"
        )
    pairs = pair_by_name(images, _by_image(masks, {name for name, _ in images}))
    return (read_or_reject(pair.name, pair.path, partial(_read_study, root, pair, config, values)) for pair in pairs)


def _by_image(masks: Iterable[NamedFile], images: set[str]) -> Iterator[NamedFile]:
    """Name each mask as its image: an image of the same name comes first."""
    for name, path in masks:
        ending = next((ending for ending in _MASK_ENDINGS if name.endswith(ending)), "")
        yield name if name in images else name.removesuffix(ending), path


def _read_study(root: Path, pair: NiftiPair, config: SourceConfig, values: Mapping[int, int] | None) -> Study:
    image_path, mask_path = pair.files(root)
    return nifti_study(pair.name, image_path, mask_path, config.labels, values=values, spacing_mm=config.spacing_mm)
