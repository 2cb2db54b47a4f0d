"""Packs: a trained model in one `.safetensors` file: networks, localisers, and all else as JSON in its metadata.

Nothing in it is unpacked or unpickled. A path into a pack, `lge.safetensors/network_0`, stands for a model folder:
whatever reads configuration, card and weights of a model folder reads them there, too. Weights but for small filters
are kept in half precision and given as float32.

A pack is somebody else's file: it is read whole, within limits, and taken only where its own SHA-256 fits each bit.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import UNFIT, InputError, some_of
from common.files import write_atomically

SCHEMA = 1
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parents[1] / "models"  # beside the packages, in a clone as in an installed wheel
MOST_BYTES = 1_000_000_000
_MOST_HEADER_BYTES = 16_000_000
_MOST_PIXELS = 4096  # side of a region, of a localiser's input or, in mm, of its field of view
_MOST_CHANNELS = 16_384
_CHANNELS = ("widths", "map_widths", "bottleneck", "module_width", "hidden")
_SMALL = 10_000  # numbers of a tensor that is kept in full precision
_KEY = "scarforge_pack"
UNSEALED = "unsealed" * 8  # stands in a pack for its own SHA-256 while that is counted; no other text is like it
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TENSOR = re.compile(r"(?:network|localiser)_\d{1,3}\.(?:weights|familiarity)(?:\.\w+)+")
_BYTES = {"F16": 2, "F32": 4, "I64": 8}

Arrays = Mapping[str, NDArray[Any]]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Part(_Said):
    """A model folder within a pack: a network, or a localiser."""

    source: str
    profile: str
    fold: int = Field(ge=0, le=99)
    seed: int = Field(default=0, ge=0)
    config: dict[str, Any]  # config.json
    card: dict[str, Any]  # model_card.json; patients stand in it as salted hashes


class KnownPatients(_Said):
    """Whom the networks or the localisers of a pack have seen, as salted hashes.

    Attributes:
        what: `model` or `localiser`.
        source: Where they are from.
        identified: Whether names of the source stand for patients.
        seen: Names of training and validation patients by fold.
        images: Digests of their images by fold; None where there were none.
        unseen: Names of test patients by fold.
    """

    what: Literal["model", "localiser"]
    source: str
    identified: bool = True
    seen: dict[int, list[str]]
    images: dict[int, list[str]] | None = None
    unseen: dict[int, list[str]] = {}


class StepSaid(_Said):
    """Whether a step of post-processing is applied when it is asked for, and why."""

    step: str
    applied: bool
    why: str


class Bin(_Said):
    """Pixels whose most probable class is about as probable: how probable on average, and how often right."""

    confidence: float = Field(ge=0, le=1)
    accuracy: float = Field(ge=0, le=1)
    pixels: int = Field(ge=0)


class Calibration(_Said):
    """The temperature of the probabilities, and the expected calibration error of the test patients of all folds."""

    temperature: float = Field(gt=0.01, lt=100)
    error_before: float | None = Field(default=None, ge=0, le=1)
    error_after: float | None = Field(default=None, ge=0, le=1)
    before: list[Bin] = []
    after: list[Bin] = []


class VolumeInterval(_Said):
    """Half the width in mL of the interval that nine of ten volumes lie in, and how many test patients' did."""

    half_width_ml: float = Field(ge=0, allow_inf_nan=False)
    coverage: float | None = Field(default=None, ge=0, le=1)
    volumes: int = Field(ge=1)


class DataLicence(_Said):
    """What data a pack was trained on, and on which terms its weights may be used."""

    name: str
    licence: str
    attribution: str


_RESEARCH = "research use; cite the source"
DATA: Mapping[str, DataLicence] = {
    "emidec": DataLicence(
        name="EMIDEC",
        licence="CC BY-NC-SA 4.0",
        attribution="Lalande et al., Emidec: a database usable for the automatic evaluation of myocardial infarction "
        "from delayed-enhancement cardiac MRI, Data 2020, 5(4):89, doi:10.3390/data5040089",
    ),
    "acdc": DataLicence(
        name="ACDC",
        licence=_RESEARCH,
        attribution="Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation "
        "and diagnosis: is the problem solved?, IEEE Trans. Med. Imaging 2018, 37(11):2514-2525, "
        "doi:10.1109/TMI.2018.2837502",
    ),
    "phantom": DataLicence(name="built-in phantom", licence="MIT", attribution="drawn by ScarForge, of no patient"),
}


class Flagged(_Said):
    """How many test studies were flagged, each by the network that had not seen them."""

    studies: int = Field(ge=1)
    flagged: int = Field(ge=0)


class Result(_Said):
    """A Dice over the test patients of all folds, with the ends of its interval."""

    rule: str
    tissue: str
    mean: float
    low: float | None
    high: float | None
    patients: int
    folds: int


class Manifest(_Said):
    """All of a pack that is no tensor."""

    schema_version: int = SCHEMA
    sha256: str = UNSEALED
    name: str
    scarforge: str
    source: str
    profile: str
    experiment: str = ""
    network: str
    training_set: str
    label_set: str
    networks: list[Part] = Field(min_length=1, max_length=100)
    localisers: list[Part] = Field(default=[], max_length=100)
    steps: list[StepSaid] = []
    calibration: Calibration | None = None
    intervals: dict[str, VolumeInterval] = {}
    salt: str
    patients: list[KnownPatients]
    data: list[DataLicence]
    results: list[dict[str, str | float | int | None]] = []  # each a `Result`
    flagged: Flagged | None = None
    about: str = ""  # the card, Markdown

    @field_validator("results")
    @classmethod
    def _each_whole(cls, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            Result.model_validate(row)
        return rows

    def parts(self) -> dict[str, Part]:
        """Return networks and localisers by the names of their folders."""
        networks = {f"network_{number}": part for number, part in enumerate(self.networks)}
        return networks | {f"localiser_{number}": part for number, part in enumerate(self.localisers)}


@dataclass(frozen=True, eq=False)
class Pack:
    """A pack that was read and fits its own digest."""

    path: Path
    manifest: Manifest
    _content: bytes

    @classmethod
    def open(cls, path: Path) -> "Pack":
        """Read a pack; one that lies untouched is read once.

        Raises:
            InputError: It is missing, too large, damaged, of another schema or of another kind.
        """
        try:
            status = path.stat()
        except OSError as error:
            known = "`scarforge models list` names packs"
            raise InputError(f"{path}: cannot be read ({error.strerror}); {known}") from error
        return _open(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))

    @property
    def digest(self) -> str:
        """What tells it from any other pack."""
        return self.manifest.sha256

    @cached_property
    def _tensors(self) -> dict[str, NDArray[Any]]:
        try:
            return load(self._content)
        except SafetensorError as error:
            raise _refusal(self.path, f"its tensors cannot be read ({error})") from error

    def arrays(self, part: str, kind: str) -> dict[str, NDArray[Any]]:
        """Return the `weights` or the `familiarity` of a part, floating numbers as float32."""
        prefix = f"{part}.{kind}."
        found = {name.removeprefix(prefix): one for name, one in self._tensors.items() if name.startswith(prefix)}
        return {
            name: one.astype(np.float32) if np.issubdtype(one.dtype, np.floating) else one
            for name, one in found.items()
        }

    def json(self, part: str, name: str) -> dict[str, Any] | None:
        """Return the content of `config.json` or `model_card.json` of a part; None where it has none such."""
        found = self.manifest.parts().get(part)
        return None if found is None else {"config.json": found.config, "model_card.json": found.card}.get(name)

    def folders(self, kind: str) -> list[Path]:
        """Return the paths that stand for the model folders of its `network`s or its `localiser`s."""
        return [self.path / name for name in self.manifest.parts() if name.startswith(f"{kind}_")]


def packed(folder: Path) -> Pack | None:
    """Return the pack that a path such as `lge.safetensors/network_0` leads into; None for a folder on disk."""
    return Pack.open(folder.parent) if folder.parent.suffix == SUFFIX and folder.parent.is_file() else None


def is_pack_name(text: str) -> bool:
    """Tell whether a text can be the name of a pack: small letters, digits, `_` and `-`."""
    return _NAME.fullmatch(text) is not None


def named_packs(added: Path) -> dict[str, Path]:
    """Return the packs that come with ScarForge and those in the folder of added ones, by name, the former first."""
    found = (path for folder in (added, SHIPPED) for path in sorted(folder.glob(f"*{SUFFIX}")))
    return {path.stem: path for path in found if is_pack_name(path.stem)}


def start_place(start_from: Path | None, added: Path) -> Path | None:
    """Return the model folder that `start_from` names: itself, or the first network of the pack of this name or place.

    Args:
        start_from: A model folder, a pack, or a pack's name.
        added: The folder of added packs.
    """
    if start_from is None or start_from.is_dir():
        return start_from
    if is_pack_name(str(start_from)):
        start_from = named_packs(added).get(str(start_from), start_from)
    return Pack.open(start_from).folders("network")[0] if start_from.suffix == SUFFIX else start_from


def salted(salt: str, text: str) -> str:
    """Return a hash that stands for a patient's name or for an image's digest."""
    return hashlib.sha256(f"{salt}\n{text}".encode()).hexdigest()[:32]


def stands_as(name: str, salt: str | None) -> str:
    """Return what stands for a patient in a list of patients: the name itself, or with a salt its hash."""
    return name if salt is None else salted(salt, name)


def halved(array: NDArray[Any]) -> NDArray[Any]:
    """Return weights in half precision; vectors, small filters, and what half precision cannot hold stay as they are.

    Small filters are those of full resolution, next to the image and to the label map: a tenth of the file at most, and
    nearly all of what rounding changes in a label map.

    What rounding takes from one weight of a filter is given to the next: the sum of a filter stays, which decides most
    behind a ReLU. On EMIDEC that changes 40 % fewer pixels than rounding each weight by itself.
    """
    if array.ndim < 2 or array.size <= _SMALL or not np.issubdtype(array.dtype, np.floating):
        return array
    filters = array.reshape(len(array), -1).astype(np.float32)
    half, owed = np.empty(filters.shape, np.float16), np.zeros(len(filters), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for place in range(filters.shape[1]):
            wanted = filters[:, place] + owed
            half[:, place] = wanted
            owed = wanted - half[:, place]
    return half.reshape(array.shape) if np.isfinite(half).all() else array


def write_pack(path: Path, manifest: Manifest, tensors: Arrays) -> Manifest:
    """Write a pack, whole or not at all; the same content gives the same bytes. Returns the manifest with its digest.

    Args:
        path: The file.
        manifest: All that is no tensor.
        tensors: `PART.weights.NAME` and `PART.familiarity.NAME`.

    Raises:
        InputError: The file cannot be written.
    """
    unnamed = manifest.model_copy(update={"sha256": UNSEALED})
    text = json.dumps(unnamed.model_dump(mode="json"), sort_keys=True)
    unsealed = save({name: np.ascontiguousarray(one) for name, one in tensors.items()}, {_KEY: text})
    digest = hashlib.sha256(unsealed).hexdigest()
    content = unsealed.replace(UNSEALED.encode(), digest.encode(), 1)
    write_atomically(path, lambda part: _write_bytes(part, content))
    return manifest.model_copy(update={"sha256": digest})


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@lru_cache(maxsize=4)
def _open(path: Path, status: tuple[int, ...]) -> Pack:
    del status  # tells a file from the one that lay there before
    content = _read(path)
    end = 8 + int.from_bytes(content[:8], "little")
    if not 8 < end <= min(len(content), 8 + _MOST_HEADER_BYTES):
        raise _refusal(path, f"it is cut short, or no pack ({len(content)} bytes, {end - 8} announced for its header)")
    header = _json(path, content[8:end])
    said = _json(path, header.get("__metadata__", {}).get(_KEY, "null"))
    version = said.get("schema_version")
    if version != SCHEMA:
        raise InputError(
            f"{path}: is a pack of schema {version!r}, this version reads {SCHEMA}; install the ScarForge that it was "
            "made for, or have it packed anew"
        )
    _require_sealed(path, content, end, said.get("sha256"))
    _check_tensors(path, {name: one for name, one in header.items() if name != "__metadata__"})
    return Pack(path, _manifest(path, said), content)


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > MOST_BYTES:
        raise _refusal(path, f"it has {size / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are read")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from error


def _json(path: Path, text: bytes | str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise _refusal(path, f"its header is no JSON ({str(error)[:80]})") from error
    if not isinstance(content, dict):
        raise _refusal(path, "its metadata name no ScarForge model")
    return content


def _require_sealed(path: Path, content: bytes, end: int, digest: object) -> None:
    """Compare the file with the SHA-256 that it names: over all its bytes, with `UNSEALED` in its place."""
    written = str(digest).encode()
    if not re.fullmatch(rb"[0-9a-f]{64}", written) or content.count(written, 8, end) != 1:
        raise _refusal(path, "it names no SHA-256 of its own")
    unsealed = content[:end].replace(written, UNSEALED.encode(), 1)
    found = hashlib.sha256(unsealed)
    found.update(memoryview(content)[end:])
    if found.hexdigest() != digest:
        raise _refusal(path, "its SHA-256 is another one than it says: bits of it were changed")


def _check_tensors(path: Path, announced: Mapping[str, Any]) -> None:
    for name, one in announced.items():
        if not _TENSOR.fullmatch(name):
            raise _refusal(path, f"it holds a tensor called {name[:60]!r}")
        try:
            (first, last), bytes_each = one["data_offsets"], _BYTES[one["dtype"]]
            whole = last - first == bytes_each * math.prod(one["shape"])
        except UNFIT as error:
            raise _refusal(path, f"its tensor {name} is not described ({error!r})") from error
        if not whole:
            raise _refusal(path, f"its tensor {name} announces {one['shape']} numbers in {last - first} bytes")


def _manifest(path: Path, said: Mapping[str, Any]) -> Manifest:
    try:
        manifest = Manifest.model_validate(said)
    except (ValidationError, RecursionError) as error:
        named = _named(error) if isinstance(error, ValidationError) else "too deep"
        raise _refusal(path, f"its metadata do not fit ({named})") from error
    if not is_pack_name(manifest.name):
        raise _refusal(path, f"it calls itself {manifest.name[:60]!r}; names have letters, digits, _ and -")
    for name, part in manifest.parts().items():
        if too_large := sorted(_too_large({"config": part.config, "region": part.card.get("region")})):
            raise _refusal(path, f"{name} announces {some_of(too_large)}")
    return manifest


def _too_large(values: Any, key: str = "") -> Iterable[str]:
    """Yield the sizes among a configuration's values that no model of this project has."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _too_large(value, str(name))
    elif key.endswith(("_px", "_mm")) and isinstance(values, int | float) and not 0 <= values <= _MOST_PIXELS:
        yield f"{key} {values}"
    elif key in _CHANNELS:
        numbers = values if isinstance(values, list) else [values]
        if len(numbers) > 16 or any(isinstance(one, int) and not 0 < one <= _MOST_CHANNELS for one in numbers):
            yield f"{key} {values}"


def _named(error: ValidationError) -> str:
    return some_of(sorted({".".join(map(str, one["loc"])) for one in error.errors()}))


def _refusal(path: Path, fault: str) -> InputError:
    return InputError(f"{path}: is not taken: {fault}; get it again from where it comes from")
