"""Synthetic slices that another program has made, as an arm of their own (`synthesis.method: folder`).

They lie in one folder for all folds, or in `fold_0`, `fold_1` and so on, as pairs of files
(`imaging.sources.slice_pairs`), or as a slice store, whose rows tell the donors.

`donors.csv` beside pairs tells which patients each slice was made from: no outside generator can be asked. One line a
slice: `slice,donors` and perhaps `recipient`. Donors are joined by `;` or are `unknown`; the recipient is the patient
in whose heart a lesion was painted. `*` stands for all slices without a line, such as those of a network that was
trained on some patients.

What does not live here: how slices are judged; that is done as with drawn ones.
"""

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import known_digest
from common.progress import track
from common.seeds import random_generator
from gan.training.config import SynthesisConfig
from imaging.labels import LabelSet, patient_group
from imaging.slices.balance import slice_categories
from imaging.slices.regions import RegionConfig, study_regions
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes
from imaging.sources.files import composed, nifti_stem, read_text
from imaging.sources.slice_pairs import HOLDS, ReadSlices, find_slices, read_slices
from imaging.studies.leakage import ALLOWED_UNKNOWN, UNKNOWN, donors_unknown
from imaging.studies.preparation import crop_region, reference_box, resample_image, resample_mask
from imaging.studies.split import FoldSplit

_STORE = "slices.h5"
_FOLD = re.compile(r"fold_(\d+)")
_BLOCK_SLICES = 256
_HOLE = "hole"
_DIM = 0.5  # of the scale, below which the brightest pixel of all slices tells that they have another one

Region = tuple[NDArray[np.floating], NDArray[np.uint8], NDArray[np.uint8] | None]


def folder_of(root: Path, fold: int) -> Path:
    """Return where the slices of a fold lie: a slice store, or the folder of pairs.

    Raises:
        InputError: There is no such place, or it is another fold's, or it is not clear which is meant.
    """
    if not root.exists():
        raise InputError(f"synthesis.root {root}: does not exist; give the folder that holds {HOLDS}, or a slice store")
    if root.is_file():
        return root
    folds = sorted(path.name for path in root.iterdir() if _FOLD.fullmatch(path.name) and path.is_dir())
    own = _FOLD.fullmatch(root.resolve().name)
    if not folds:
        if own is not None and int(own[1]) != fold:
            raise InputError(
                f"synthesis.root {root}: is the folder of fold {own[1]}, but fold {fold} is run; give the folder "
                f"above, with a fold_{fold} of its own"
            )
        return _store_or_pairs(root)
    if (root / "images").is_dir() or list(root.glob("*.h5")):
        raise InputError(f"synthesis.root {root}: holds slices beside {some_of(folds)}; keep those or these")
    if f"fold_{fold}" not in folds:
        raise InputError(f"synthesis.root {root}: holds {some_of(folds)}, no fold_{fold}; add it, or run another fold")
    return _store_or_pairs(root / f"fold_{fold}")


def _store_or_pairs(folder: Path) -> Path:
    stores = sorted(folder.glob("*.h5"))
    if not stores:
        return folder
    if (folder / "images").is_dir():
        raise InputError(f"{folder}: holds {stores[0].name} and images; keep the store or the pairs")
    if len(stores) > 1 and not (folder / _STORE).is_file():
        raise InputError(
            f"{folder}: holds {some_of(path.name for path in stores)}; call the one that is meant {_STORE}"
        )
    if (folder / DONORS).is_file():
        raise InputError(f"{folder / DONORS}: a slice store tells the donors in its own rows; remove this file")
    return folder / _STORE if (folder / _STORE).is_file() else stores[0]


def folder_digest(config: SynthesisConfig, fold: int) -> str:
    """Return a hash over names and bytes of the files that a fold's slices are read from, wherever they lie.

    Raises:
        InputError: See `folder_of` and `imaging.sources.slice_pairs.find_slices`.
    """
    assert config.root is not None
    place = folder_of(config.root, fold)
    if place.is_file():
        return known_digest(place)
    digest = hashlib.sha256()
    files = [path for each in find_slices(place, config.spacing_mm) for path in each.all]
    for path in sorted([*files, *filter(Path.is_file, [place / DONORS])]):
        digest.update(f"{path.relative_to(place).as_posix()}\0{known_digest(path)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def check_folder(config: SynthesisConfig, folds: Iterable[int]) -> None:
    """Refuse what can be told of a folder from its names and `donors.csv` alone, before anything runs.

    Args:
        config: Whose folder it is.
        folds: That will be run; without any, only whether there is a folder is checked.

    Raises:
        InputError: The message names the file and the remedy.
    """
    assert config.root is not None
    if not config.root.exists():
        folder_of(config.root, 0)
    for fold in folds:
        place = folder_of(config.root, fold)
        if place.is_file():
            SliceStore.open(place, verify=False).close()
            continue
        slices = find_slices(place, config.spacing_mm)
        donors = read_donors(place / DONORS, [each.name for each in slices])
        untold = [each.name for each in slices if not donors.of(each.name)[1]]
        if untold and config.donors == "known":
            raise InputError(
                f"{place}: which patients {some_of(untold)} were made from is unknown; write it into {place / DONORS} "
                "(slice,donors), or allow it by --set synthesis.donors=unknown, which the report then tells"
            )


def import_slices(
    path: Path,
    config: SynthesisConfig,
    real: SliceStore,
    split: FoldSplit,
    region: RegionConfig,
    seed: int,
    code_version: str,
) -> None:
    """Write the slices of a fold's folder into a store at `path`: all of them, or nothing.

    Files are brought to 1 mm and cut as training patients' slices are, around their ventricle with jitter; those that
    then have the region's size stay where they are. `case_id` is the recipient, or the first donor.

    Args:
        path: The slice store to write; the extra `hole` says where a slice was painted, if the folder does.
        config: Where the slices lie and how they are read.
        real: The fold's real slices, whose label set, size and spacing these get.
        split: The fold's parts, for the patients there are; who may be a donor, the check of leakage says.
        region: How real regions are cut.
        seed: Of the jitter.
        code_version: Recorded in the store.

    Raises:
        InputError: A file cannot be used; the message names it, the value and the remedy.
    """
    assert config.root is not None
    place, patients = folder_of(config.root, split.fold), _patients(split)
    attributes = replace(
        real.attributes,
        intensity_rule=_INTENSITIES[config.intensities](region),
        parent_digests={"real": real.digest},
        seed=seed,
        code_version=code_version,
        parameters={"folder": folder_digest(config, split.fold), **config.of_a_folder},
    )
    if place.is_file():
        return _import_store(path, place, config, attributes, patients, region)
    return _import_pairs(path, place, config, attributes, patients, region)


_INTENSITIES: Mapping[str, Callable[[RegionConfig], str]] = {
    "unit": lambda _: "as a folder's files give them: 0 to 0, the largest number of a file's type, or 1, to 1",
    "window": lambda region: f"a folder's: {region.intensity_rule.replace('study', 'file')}",
}


def _patients(split: FoldSplit) -> frozenset[str]:
    return frozenset((*split.train, *split.validation, *split.test, *split.left_out))


def _unknown(config: SynthesisConfig) -> str:
    return ALLOWED_UNKNOWN if config.donors == "unknown" else UNKNOWN


def _import_pairs(
    path: Path,
    place: Path,
    config: SynthesisConfig,
    attributes: StoreAttributes,
    patients: Collection[str],
    region: RegionConfig,
) -> None:
    files = find_slices(place, config.spacing_mm)
    donors = read_donors(place / DONORS, [each.name for each in files], patients)
    labels, brightest, count = attributes.labels(), 0.0, 0
    seen: dict[bytes, Path] = {}
    extras = (_HOLE,) if files[0].holes else ()
    with SliceStoreWriter(path, attributes, extras) as writer:
        for each in track(files, "reading slices of a folder"):
            read = read_slices(place, each, labels, config.spacing_mm)
            _refuse_twice(read, seen)
            images, masks, holes = _placed(read, config, region, attributes.seed, labels)
            brightest = max(brightest, float(read.image.max()) / (read.full_scale or np.inf))
            rows = _rows(masks, donors.of(read.name), _unknown(config), count, labels)
            writer.append(images, masks, rows, **({} if holes is None else {_HOLE: holes}))
            count += len(masks)
        if config.intensities == "unit" and brightest < _DIM:
            raise InputError(
                f"{place}: the brightest pixel of {count} slices is {brightest:.3g} of the files' scale; save them "
                "from 0 to its end, or give --set synthesis.intensities=window for intensities of a scanner"
            )


def _refuse_twice(read: ReadSlices, seen: dict[bytes, Path]) -> None:
    for image, mask in zip(read.image, read.mask, strict=True):
        content = hashlib.sha256(image.tobytes() + mask.tobytes()).digest()
        if content in seen:
            raise InputError(f"{read.path}: is the same slice as {seen[content]}, pixel by pixel; remove one of them")
        seen[content] = read.path


def _placed(read: ReadSlices, config: SynthesisConfig, region: RegionConfig, seed: int, labels: LabelSet) -> Region:
    """Return slices (S, size, size) in [0, 1], labels and holes as the region has them."""
    spacing = (1.0, *read.spacing_mm)
    if config.intensities == "unit":
        _check_unit(read)
    volume = resample_image(read.image, spacing)
    mask = resample_mask(read.mask, spacing, labels.num_classes)
    hole = None if read.hole is None else resample_mask(read.hole, spacing, 2)
    size = region.size_px
    centre = _centre(mask, region, random_generator(seed, f"slices of a folder: jitter {read.name}"))
    if config.intensities == "window":
        images = study_regions(volume, centre, region, source=str(read.path))[0]
    else:
        images = np.clip(crop_region(volume, centre, size) / np.float32(read.full_scale), 0, 1)
    return images, crop_region(mask, centre, size), None if hole is None else crop_region(hole, centre, size)


def _check_unit(read: ReadSlices) -> None:
    low, high = float(read.image.min()), float(read.image.max())
    if not read.full_scale or low < 0 or high > read.full_scale:
        scale = f"0 to {read.full_scale:g}" if read.full_scale else "the scale of a file of 32-bit whole numbers"
        raise InputError(
            f"{read.path}: holds {low:g} to {high:g} outside {scale}; save it from 0 to 1, or in 16 bits, or give "
            "--set synthesis.intensities=window for intensities of a scanner"
        )


def _centre(mask: NDArray[np.uint8], region: RegionConfig, rng: np.random.Generator) -> tuple[float, float]:
    """Return where a region is cut: as it is where it has the size, else around the ventricle as training slices."""
    height, width = mask.shape[1:]
    if (height, width) == (region.size_px, region.size_px) or not mask.any():
        return height / 2, width / 2
    row, column = reference_box(mask).centre
    down, right = rng.uniform(-region.jitter_mm, region.jitter_mm, size=2)
    return row + float(down), column + float(right)


def _rows(
    masks: NDArray[np.uint8],
    told: tuple[str, tuple[str, ...]],
    unknown: str,
    first: int,
    labels: LabelSet,
) -> pd.DataFrame:
    recipient, donors = told
    count = len(masks)
    rows = pd.DataFrame({"slice_index": np.arange(count), "replica": first + np.arange(count, dtype=np.int32)})
    return rows.assign(
        case_id=recipient or (donors[0] if donors else unknown),
        frame="",
        donor_ids=";".join(donors) or unknown,
        origin="synthetic",
        group=[patient_group(mask, labels) for mask in masks],
        part="train",
    )


def _import_store(
    path: Path,
    place: Path,
    config: SynthesisConfig,
    attributes: StoreAttributes,
    patients: Collection[str],
    region: RegionConfig,
) -> None:
    """Copy a store, row by row where it has the region's size and pixels, else brought to them."""
    with SliceStore.open(place) as store:
        rows = _checked_rows(store, attributes.labels(), patients, _unknown(config))
        own = replace(attributes, intensity_rule=store.attributes.intensity_rule)
        extras = (_HOLE,) if _HOLE in store.extras else ()
        alike = (store.attributes.region_px, store.attributes.spacing_mm) == (own.region_px, own.spacing_mm)
        with SliceStoreWriter(path, own, extras) as writer:
            for block in track(list(_blocks(len(store), _BLOCK_SLICES if alike else 1)), "reading a slice store"):
                # A slice store's further images, not Django's SQL.
                holes = store.extra(_HOLE, block) if extras else None  # noqa: S610
                part: Region = (store.images(block), store.masks(block), holes)
                if not alike:
                    part = _from_store(part, store, config, region, int(block[0]), own.seed)
                images, masks, holes = part
                writer.append(images, masks, rows.iloc[block], **({} if holes is None else {_HOLE: holes}))


def _blocks(count: int, size: int) -> Iterator[NDArray[np.intp]]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def _from_store(
    part: Region, store: SliceStore, config: SynthesisConfig, region: RegionConfig, row: int, seed: int
) -> Region:
    images, masks, holes = part
    spacing = (store.attributes.spacing_mm, store.attributes.spacing_mm)
    read = ReadSlices(f"row {row}", store.path, images.astype(np.float32), masks, holes, spacing, 1.0)
    return _placed(read, config.model_copy(update={"intensities": "unit"}), region, seed, store.label_set)


def _checked_rows(store: SliceStore, labels: LabelSet, patients: Collection[str], unknown: str) -> pd.DataFrame:
    if store.label_set.name != labels.name:
        raise InputError(
            f"{store.path}: has label set {store.label_set.name!r}, the studies {labels.name!r}; give slices of theirs"
        )
    others = sorted(set(store.rows["origin"]) - {"synthetic"})
    if others:
        raise InputError(f"{store.path}: holds {some_of(others)} slices; give a store of synthetic ones")
    marks = {UNKNOWN: unknown, ALLOWED_UNKNOWN: unknown}
    rows = store.rows.assign(part="train", case_id=[marks.get(case, case) for case in store.rows["case_id"]])
    rows["donor_ids"] = [_remarked(names, marks) for names in rows["donor_ids"]]
    named = {name for cell in (*rows["case_id"], *rows["donor_ids"]) for name in cell.split(";")}
    strangers = sorted(named - set(patients) - {unknown, ""})
    if strangers:
        raise InputError(
            f"{store.path}: names {some_of(map(repr, strangers))}, none of the source's {len(patients)} patients; give "
            "slices made from these studies, with patients as studies.csv names them"
        )
    return rows


def _remarked(names: str, marks: Mapping[str, str]) -> str:
    return ";".join(marks.get(name, name) for name in names.split(";"))


def summarise_folder(store: SliceStore) -> pd.DataFrame:
    """Return one row for each category with `category`, `slices`, `donors` (patients) and `donors_unknown` (slices)."""
    rows, unknown = store.rows, donors_unknown(store.rows)
    categories = slice_categories(store.masks(), store.label_set)
    found = []
    for name in np.unique(categories):
        own, known = categories == name, (categories == name) & ~unknown
        donors = {donor for names in rows.loc[known, "donor_ids"] for donor in names.split(";") if donor}
        found.append((name, int(own.sum()), len(donors), int((own & unknown).sum())))
    return pd.DataFrame(found, columns=["category", "slices", "donors", "donors_unknown"])


DONORS = "donors.csv"
_EVERY_SLICE = "*"
_UNTOLD = ("", "unknown")
_ENDINGS = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Donors:
    """Which patients each slice was made from.

    Attributes:
        named: Recipient and donors of each slice that is named.
        others: The same of all others.
    """

    named: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    others: tuple[str, tuple[str, ...]] = ("", ())

    def of(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return the patient whose heart a slice shows, empty where nobody says, and all donors, none if unknown."""
        return self.named.get(name, self.others)


def read_donors(path: Path, slices: Collection[str], patients: Collection[str] | None = None) -> Donors:
    """Read `donors.csv`: `slice`, `donors` (joined by `;`) and perhaps `recipient`; `*` stands for all other slices.

    Args:
        path: The file, which may be missing.
        slices: Names of the slices there are.
        patients: Of the source; None where they are not known yet.

    Raises:
        InputError: A column is missing, or a line names a slice that is not there or there twice, or an unknown
            patient.
    """
    if not path.is_file():
        return Donors()
    table = list(csv.reader(io.StringIO(read_text(path), newline="")))
    columns = [name.strip().lower() for name in table[0]] if table else []
    if "slice" not in columns or "donors" not in columns:
        raise InputError(f"{path}: has the columns {some_of(columns)}; write slice,donors and perhaps recipient")
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for number, cells in enumerate(table[1:], start=2):
        line = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if not any(line.values()):
            continue
        name = _slice_name(line["slice"])
        where = f"{path}, line {number}"
        if name in found:
            raise InputError(f"{where}: names slice {name!r} a second time; keep one line for each slice")
        if name != _EVERY_SLICE and name not in slices:
            raise InputError(f"{where}: there is no slice {name!r}{_likely(name, slices)}; correct the name")
        found[name] = _told(where, line, patients)
    others = found.pop(_EVERY_SLICE, ("", ()))
    return Donors(found, others)


def _slice_name(cell: str) -> str:
    """Return a slice's name from what people write: with or without `images/` and an ending."""
    name = composed(cell).removeprefix("images/")
    path = Path(name)
    stem = nifti_stem(path) or (path.stem if path.suffix.lower() in _ENDINGS else path.name)
    return (path.parent / stem).as_posix()


def _told(where: str, line: Mapping[str, str], patients: Collection[str] | None) -> tuple[str, tuple[str, ...]]:
    recipient = line.get("recipient", "")
    cells = [cell.strip() for cell in line.get("donors", "").split(";")]
    donors = [cell for cell in cells if cell.lower() not in _UNTOLD]
    if len(donors) < len(cells):  # one that is unknown makes all of them so
        donors = []
    elif recipient:
        donors.append(recipient)
    for patient in (*donors, *filter(None, [recipient])):
        if patients is not None and patient not in patients:
            raise InputError(
                f"{where}: {patient!r} is none of the source's {len(patients)} patients{_likely(patient, patients)}; "
                "write patients as studies.csv names them, or unknown"
            )
    return recipient, tuple(sorted(set(donors)))


def _likely(wrong: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
