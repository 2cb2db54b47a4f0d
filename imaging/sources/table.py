"""Where studies come from: a format is one module and one line in the table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, LabelSet
from imaging.sources.config import SourceConfig
from imaging.studies.study import RejectedStudy, Study

if TYPE_CHECKING:
    from imaging.phantom import PhantomConfig

Studies = Iterator[Study | RejectedStudy]


@dataclass(frozen=True)
class SourceFormat:
    """How one kind of source is read.

    Attributes:
        module: The module that reads it, imported only when it does: readers bring DICOM, HDF5 and others along.
        function: Its function. Takes the folder and the source configuration; the phantom's takes its own.
        label_set: Of its masks; None where the configuration says it.
        needs_root: Whether a folder must be given.
        names_tell: Whether names of files or folders tell the patients, so that the configuration's rules count.
        about: One line for people.
    """

    module: str
    function: str
    label_set: LabelSet | None
    about: str
    needs_root: bool = True
    names_tell: bool = True

    @property
    def read(self) -> Callable[..., Studies]:
        """The function that yields the studies."""
        reader: Callable[..., Studies] = getattr(import_module(self.module), self.function)
        return reader


def read_source(name: str, root: Path | None, phantom: "PhantomConfig", config: SourceConfig | None = None) -> Studies:
    """Return the studies of a source one by one, the unusable ones as `RejectedStudy`.

    Args:
        name: A key of `SOURCES`.
        root: The folder that holds the studies; not used by the phantom.
        phantom: What the phantom draws.
        config: What the files leave open.

    Raises:
        InputError: The source is unknown, or needs a folder and has none, or holds nothing of its format, or has
            no names that tell patients and is given a rule for them.
    """
    source = source_format(name)
    config = config or SourceConfig()
    for setting in ("patient_pattern", "one_slice_per_patient"):
        if getattr(config, setting) and not source.names_tell:
            raise InputError(
                f"source.{setting} would change nothing: no name tells the patients of source {name!r}; leave it out"
            )
    root = source_root(name, root)
    return source.read(phantom) if root is None else source.read(root, config)


def source_format(name: str) -> SourceFormat:
    """Return the format called `name`, or raise `InputError` with the names there are."""
    if name not in SOURCES:
        raise InputError(f"source {name!r} is unknown; choose one of {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def reads_folder(name: str) -> bool:
    """Whether a source is read from a folder, as one is taken to be that is not in the table."""
    return name not in SOURCES or SOURCES[name].needs_root


def source_root(name: str, root: Path | None) -> Path | None:
    """Return the folder that a source is read from, None where it needs none.

    Raises:
        InputError: The source is unknown, or its folder is not named, is a file or does not exist.
    """
    if not source_format(name).needs_root:
        return None
    if root is None:
        raise InputError(f"source {name!r} needs the folder that holds the studies; give --root DIR")
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"--root {root}: {what}; give the folder that holds the studies")
    return root


def source_labels(name: str, config: SourceConfig | None = None) -> LabelSet:
    """Return the label set of a source's masks."""
    return source_format(name).label_set or (config or SourceConfig()).labels


_TABLE: dict[str, SourceFormat] = {
    "phantom": SourceFormat(
        "imaging.phantom",
        "read_phantom",
        EMIDEC_LABELS,
        "drawn, nothing to download",
        needs_root=False,
        names_tell=False,
    ),
    "emidec": SourceFormat(
        "imaging.sources.emidec", "read_emidec", EMIDEC_LABELS, "EMIDEC: Case_P001/Images, Contours"
    ),
    "acdc": SourceFormat(
        "imaging.sources.acdc", "read_acdc", CINE_LABELS, "ACDC: patient001/patient001_frame01.nii.gz"
    ),
    "mscmr_lge": SourceFormat(
        "imaging.sources.mscmr", "read_mscmr_lge", CINE_LABELS, "MS-CMRSeg LGE: images/subject1_DE.nii.gz, labels"
    ),
    "lvquan19": SourceFormat("imaging.sources.lvquan", "read_lvquan19", CINE_LABELS, "LVQuan19: one .mat a patient"),
    "lvquan18": SourceFormat(
        "imaging.sources.lvquan", "read_lvquan18", CINE_LABELS, "LVQuan18: one .mat for all", names_tell=False
    ),
    "sunnybrook": SourceFormat(
        "imaging.sources.sunnybrook", "read_sunnybrook", CINE_LABELS, "DICOM slices with contour text files"
    ),
    "nifti": SourceFormat(
        "imaging.sources.nifti_pairs",
        "read_nifti_pairs",
        None,
        "images/X.nii.gz, labels/X.nii.gz",
    ),
    "image_pairs": SourceFormat(
        "imaging.sources.image_pairs",
        "read_image_pairs",
        None,
        "PNG or TIFF: images, masks",
    ),
}
SOURCES: Mapping[str, SourceFormat] = MappingProxyType(_TABLE)
