"""Where studies come from: a format is one module and one line in `SOURCES`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from imaging.emidec import read_emidec
from imaging.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.study import RejectedStudy, Study

if TYPE_CHECKING:
    from imaging.phantom import PhantomConfig

Studies = Iterator[Study | RejectedStudy]


@dataclass(frozen=True)
class SourceOptions:
    """What a source may need beside its folder."""

    phantom: "PhantomConfig"


@dataclass(frozen=True)
class SourceFormat:
    """How one kind of source is read.

    Attributes:
        read: Yields the studies under a folder (None where `needs_root` is false).
        label_set: Name of the label set of its masks.
        needs_root: Whether a folder must be given.
    """

    read: Callable[[Path | None, SourceOptions], Studies]
    label_set: str
    needs_root: bool

    @property
    def has_lesions(self) -> bool:
        """Whether its studies can hold infarcts; cine sources cannot and run the real-only half."""
        return self.label_set != CINE_LABELS.name


def read_source(name: str, root: Path | None, phantom: "PhantomConfig") -> Studies:
    """Return the studies of a source one by one, the unusable ones as `RejectedStudy`.

    Args:
        name: A key of `SOURCES`.
        root: The folder that holds the studies; not used by the phantom.
        phantom: What the phantom draws.

    Raises:
        InputError: The source is unknown, or needs a folder and has none.
    """
    source = source_format(name)
    if source.needs_root and root is None:
        raise InputError(f"source {name!r} needs the folder that holds the studies; give --root DIR")
    return source.read(root, SourceOptions(phantom))


def source_format(name: str) -> SourceFormat:
    """Return the format called `name`, or raise `InputError` with the names there are."""
    if name not in SOURCES:
        raise InputError(f"source {name!r} is unknown; choose one of {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def _read_phantom(root: Path | None, options: SourceOptions) -> Studies:
    del root  # the phantom is drawn, not read
    from imaging.phantom import read_phantom  # only this source pays for the simulator's imports

    return read_phantom(options.phantom)


def _read_emidec(root: Path | None, options: SourceOptions) -> Studies:
    del options
    assert root is not None, "read_source has checked needs_root"
    return read_emidec(root)


SOURCES: Mapping[str, SourceFormat] = MappingProxyType(
    {
        "phantom": SourceFormat(_read_phantom, EMIDEC_LABELS.name, needs_root=False),
        "emidec": SourceFormat(_read_emidec, EMIDEC_LABELS.name, needs_root=True),
    }
)
