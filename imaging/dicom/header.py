"""A DICOM header whose numbers are checked; whatever pydicom raises on the way becomes one line that names the file."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError

from imaging.errors import InputError

# What pydicom raises for an element whose bytes are not what its type says.
_UNDECODABLE = (BytesLengthException, ValueError, TypeError, OverflowError)
# What it raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (
    *_UNDECODABLE,
    *(AttributeError, LookupError, RuntimeError, AssertionError, EOFError, MemoryError),
    *(struct.error, zlib.error),
)
_LONGEST = 120  # characters of a foreign text in a message


@dataclass(frozen=True)
class DicomHeader:
    """The elements of a file by keyword; to be used inside `pydicom_on`, since pydicom decodes them when asked."""

    path: Path
    dataset: Dataset

    def text(self, keyword: str) -> str:
        """Return a text, empty where it is absent."""
        return str(self._value(keyword) or "")

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the texts of an element that holds several, none where it is absent."""
        value = self._value(keyword)
        if value in (None, ""):
            return ()
        return (value,) if isinstance(value, str) else tuple(str(text) for text in value)

    def storage_class(self) -> str:
        """Return the SOP class of the object, else the one that the file announces, empty where neither is told."""
        meta = getattr(self.dataset, "file_meta", None)
        return self.text("SOPClassUID") or str(getattr(meta, "MediaStorageSOPClassUID", ""))

    def aside(self, keyword: str) -> str:
        """Return a text that only messages tell: empty also where it cannot be decoded."""
        try:
            return self.text(keyword)
        except InputError:
            return ""

    def number_aside(self, keyword: str) -> float | None:
        """Return a number that only messages tell: None also where it is not finite."""
        try:
            return self.number(keyword)
        except InputError:
            return None

    def number(self, keyword: str) -> float | None:
        """Return a finite number; None where it is absent or empty."""
        return None if self._value(keyword) in (None, "") else float(self.numbers(keyword, 1)[0])

    def whole_number(self, keyword: str) -> int | None:
        """Return a whole number; None where it is absent or empty."""
        number = self.number(keyword)
        return None if number is None else round(number)

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64]:
        """Return (count,) finite numbers.

        Raises:
            InputError: They are missing, others in number, or not finite.
        """
        value = self._value(keyword)
        if value in (None, ""):
            raise InputError(f"{self.path}: {keyword} is missing; export the series with its full header")
        try:
            numbers = np.asarray(value, dtype=np.float64).ravel()
        except _UNDECODABLE:
            numbers = np.empty(0)
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            expected = "a finite number" if count == 1 else f"{count} finite numbers"
            raise InputError(f"{self.path}: {keyword} is {one_line(value)}, not {expected}; correct the header")
        return numbers

    def _value(self, keyword: str) -> Any:
        try:
            return self.dataset.get(keyword)
        except _UNDECODABLE as error:
            raise InputError(
                f"{self.path}: {keyword} cannot be decoded ({one_line(error)}); correct the header"
            ) from error


@contextmanager
def pydicom_on(path: Path) -> Iterator[None]:
    """Let pydicom pass over invalid values that nothing here needs, and turn what it raises into `InputError`."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid UIDs and the like are common in real exports
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{path}: cannot be read ({reason}); give a readable DICOM file") from error
        except InvalidDicomError as error:
            raise InputError(
                f"{path}: not a DICOM file, which would start with 128 bytes and 'DICM'; give the original file"
            ) from error
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: not a readable DICOM file ({one_line(error)}); export or copy it again"
            ) from error


def one_line(value: object) -> str:
    """Return what a file or an error says, short enough for a message."""
    words = " ".join(str(value).split()) or type(value).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in words)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
