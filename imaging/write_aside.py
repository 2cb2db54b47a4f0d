"""A file of one piece that is whole or absent: written beside its place, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path, suffix: str = "") -> Iterator[Path]:
    """Give the place of a temporary neighbour of `path`, which takes its place unless an error is raised.

    Args:
        path: The file; its folder is made.
        suffix: Ends the temporary name, for a writer that goes by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
