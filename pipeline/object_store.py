"""The door to object storage: any fsspec address, opened once, with errors that say what to install or mend."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from imaging.errors import InputError

VARIABLE = "SCARFORGE_REMOTE"
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


class UnreachableError(Exception):
    """The store did not do what was asked of it; the message names the store and its own words."""


class ObjectStore:
    """Files under one prefix of an object store, by relative path.

    Raises:
        InputError: The address is not one, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = url.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else url
        if not parts.scheme or "://" not in url or not (parts.netloc + parts.path).strip("/"):
            raise InputError(f"{VARIABLE}={self.name!r}: write PROTOCOL://PLACE, such as s3://bucket/prefix")
        self._files, root = _open(parts.scheme, url, self.name)
        self._root = root.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file, None where there is none."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            content: bytes = self._files.cat_file(self._at(path))
            return content
        return None

    def write(self, path: str, content: bytes) -> None:
        """Write a small file; a store of objects shows it whole or not at all."""
        with self._errors():
            self._files.pipe_file(self._at(path), content)

    def upload(self, folder: Path, names: Mapping[str, str], path: str) -> None:
        """Copy the named files of a folder to below `path`."""
        with self._errors():
            for name in names:
                self._files.put_file(str(folder / name), self._at(f"{path}/{name}"))

    def download(self, path: str, names: Mapping[str, str], folder: Path) -> None:
        """Copy the named files from below `path` into a folder; one that is missing there is missing here, too."""
        with self._errors():
            for name in names:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    self._files.get_file(self._at(f"{path}/{name}"), str(target))

    def remove(self, path: str) -> None:
        """Remove everything below `path`, if there is anything."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._at(path), recursive=True)

    def find(self, path: str, name: str) -> list[str]:
        """Return the paths of all files of this name below `path`."""
        with self._errors():
            self._files.invalidate_cache()
            found = [str(file) for file in self._files.find(self._at(path))]
        return sorted(file.removeprefix(f"{self._root}/") for file in found if file.rsplit("/", 1)[-1] == name)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Every driver has errors of its own, many of them no OSError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UnreachableError(f"{self.name}: {type(error).__name__}: {error}") from error


def _open(protocol: str, url: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        kind = fsspec.get_filesystem_class(protocol)
        options = {"auto_mkdir": True} if issubclass(kind, LocalFileSystem) else {}
        files, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        remedy = f"run `pip install {_DRIVERS[protocol]}`" if protocol in _DRIVERS else str(error)
        raise InputError(f"{VARIABLE}={name!r}: the driver of {protocol}:// is not installed; {remedy}") from error
    except ValueError as error:
        known = "s3, gs, abfs, file, memory"
        raise InputError(f"{VARIABLE}={name!r}: {error}; fsspec's protocols are {known} and others") from error
    return files, str(root)
