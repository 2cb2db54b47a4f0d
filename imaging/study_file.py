"""The bytes of an archive of studies: its checksum, and a file that HDF5 can be trusted to write.

The file begins with a user block that holds a SHA-256 of everything after it, so that truncation or a single
flipped byte is found on opening, without decompressing anything.
"""

import hashlib
import os
from pathlib import Path

FORMAT = "scarforge studies 2"
USER_BLOCK = 512  # bytes; the smallest that HDF5 allows
_READ_BYTES = 1 << 22


def seal(path: Path) -> None:
    """Write the checksum of everything after the user block into it, and flush the file to disk."""
    block = _user_block(path)
    with path.open("r+b") as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def verify(path: Path) -> None:
    """Raise `ValueError` unless the file is an archive whose bytes match its checksum."""
    with path.open("rb") as file:
        found = file.read(USER_BLOCK)
    if not found.startswith(FORMAT.encode()):
        raise ValueError(f"it does not begin with {FORMAT!r}")
    if found != _user_block(path):
        raise ValueError("its bytes do not match its checksum")


def _user_block(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return f"{FORMAT} sha256 {digest.hexdigest()}\n".encode().ljust(USER_BLOCK, b"\0")


class SteadyFile:
    """The file that HDF5 writes through: it keeps the first failure for `raise_failure` instead of raising it.

    HDF5 writes late, also while objects are freed, where an error such as that of a full disk cannot be
    raised: it would be printed and forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("w+b", buffering=0)
        self._failure: OSError | None = None

    def raise_failure(self) -> None:
        """Raise the first `OSError`, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: bytes) -> int:
        """Write all of `data`, or keep the failure."""
        rest = memoryview(data)
        try:
            while rest and self._failure is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self._failure = error
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size in bytes, or keep the failure."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size

    def read(self, size: int = -1) -> bytes:
        """Read; by this name h5py knows that it is given a file."""
        return self._raw.read(size) or b""

    def readinto(self, target: bytearray) -> int:
        """Fill `target` and return how many bytes were read."""
        return self._raw.readinto(target) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it, in bytes."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the place, in bytes."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing more: nothing is buffered."""
        self._raw.flush()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
