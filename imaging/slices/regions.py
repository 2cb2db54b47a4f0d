"""Cuts prepared studies into square regions around the left ventricle, windowed to [0, 1].

Training patients are cut around their reference box with jitter, so that a network also sees ventricles off
centre; every other patient around the box that the localiser predicted, as a new study would be.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.config import FrozenConfig
from common.errors import InputError, some_of
from common.files import of_the_disk, written_aside
from common.progress import track
from common.seeds import random_generator
from common.tables import read_csv, write_csv
from imaging.slices.store import ROW_COLUMNS, SliceStoreWriter, StoreAttributes
from imaging.studies.archive import StudyArchive
from imaging.studies.preparation import (
    Box,
    PreparedStudy,
    apply_window,
    boxes_digest,
    crop_region,
    intensity_window,
    reference_box,
)
from imaging.studies.split import FoldSplit, split_digest

REGION_COLUMNS = ("case_id", "frame", "part", "centre_row", "centre_col", "window_low", "window_high")


class RegionConfig(FrozenConfig):
    """How regions are cut and windowed.

    Attributes:
        size_px: Height and width of a region in 1 mm pixels.
        jitter_mm: A training region's centre moves by up to this much along rows and columns.
        percentiles: The intensities of a study's regions that become 0 and 1.
    """

    size_px: int = Field(128, ge=16)
    jitter_mm: float = Field(4.0, ge=0)
    percentiles: tuple[float, float] = (2.0, 98.0)

    @model_validator(mode="after")
    def _ordered(self) -> "RegionConfig":
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low:g} and {high:g} must ascend within 0 to 100")
        return self

    @property
    def intensity_rule(self) -> str:
        """The rule in words, as a store records it."""
        low, high = self.percentiles
        return f"percentiles {low:g} to {high:g} of a study's regions to [0, 1], clipped; outside the image 0"


def write_real_slices(
    path: Path,
    archive: StudyArchive,
    split: FoldSplit,
    predicted: Mapping[tuple[str, str], Box],
    config: RegionConfig,
    seed: int,
    code_version: str,
) -> pd.DataFrame:
    """Write every study's regions as a slice store and return the table of regions.

    Args:
        path: The slice store.
        archive: The studies.
        split: The fold's parts; every patient of the archive is in one, or left out.
        predicted: Boxes by (case_id, frame) for the studies of validation and test patients.
        config: How regions are cut.
        seed: Seed of the jitter.
        code_version: Version of the code, for the store's attributes.

    Returns:
        One row a study with `REGION_COLUMNS`; centres in 1 mm pixels, windows in scanner units.

    Raises:
        InputError: A patient is in no part, a box is missing, or a region has no contrast.
    """
    table = []
    with SliceStoreWriter(path, _attributes(archive, split, predicted, config, seed, code_version)) as store:
        for case_id, frame in track(archive.keys(), "cutting regions"):
            if case_id in split.left_out:
                continue
            part = split.part_of(case_id)
            study = archive.load(case_id, frame)
            centre = _centre(study, part, predicted, config, seed)
            images, window = study_regions(study.image, centre, config, source=f"{case_id} {frame}".strip())
            store.append(images, crop_region(study.mask, centre, config.size_px), _rows(study, part))
            table.append((case_id, frame, part, *centre, *window))
    return pd.DataFrame(table, columns=list(REGION_COLUMNS))


def study_regions(
    image: NDArray[np.float32], centre: tuple[float, float], config: RegionConfig, source: str
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return a study's regions in [0, 1] and the window that was mapped there.

    Pixels outside the image are 0 and take no part in the percentiles. New studies are cut the same way.

    Args:
        image: (S, H1, W1) on the 1 mm grid, scanner units.
        centre: (row, column) of the regions, 1 mm pixels.
        config: How regions are cut.
        source: Name of the study, for messages.

    Returns:
        (S, size, size) in [0, 1], and (low, high) in scanner units.
    """
    inside = crop_region(np.ones((1, *image.shape[1:]), dtype=np.bool_), centre, config.size_px)[0]
    regions = crop_region(image, centre, config.size_px)
    try:
        window = intensity_window(regions[:, inside], config.percentiles)
    except InputError as error:
        raise InputError(f"study {source}, region around {_pixel(centre)}: {error}") from error
    return apply_window(regions, window) * inside, window


def write_regions(path: Path, table: pd.DataFrame) -> None:
    """Write the table of regions as CSV, written aside and renamed."""
    with written_aside(path) as partial:
        write_csv(table, partial)


def read_regions(path: Path) -> pd.DataFrame:
    """Read the table of regions that `write_regions` wrote, value for value.

    Raises:
        InputError: The file is missing or holds other columns.
    """
    try:
        table = read_csv(path, dtype=str, keep_default_na=False)
        # Python's own conversion gives back every written bit.
        numbers = {name: table[name].map(float) for name in set(REGION_COLUMNS[3:]) & set(table.columns)}
    except (OSError, ValueError, TypeError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: not a readable table of regions; rematerialise `real_slices`"
        ) from error
    if tuple(table.columns) != REGION_COLUMNS:
        held = some_of(map(repr, table.columns))
        raise InputError(f"{path}: has columns [{held}], not {list(REGION_COLUMNS)}; rematerialise `real_slices`")
    return table.assign(**numbers)


def _centre(
    study: PreparedStudy,
    part: str,
    predicted: Mapping[tuple[str, str], Box],
    config: RegionConfig,
    seed: int,
) -> tuple[float, float]:
    if part == "train":
        row, column = reference_box(study.mask).centre
        generator = random_generator(seed, f"region jitter {study.case_id} {study.frame}")
        down, right = generator.uniform(-config.jitter_mm, config.jitter_mm, size=2)
        return row + float(down), column + float(right)
    box = predicted.get((study.case_id, study.frame))
    if box is None or not np.isfinite(box).all():
        raise InputError(
            f"patient {study.case_id!r}, frame {study.frame!r} ({part}) has the predicted box {box}; "
            "rematerialise `lv_localiser`"
        )
    return box.centre


def _rows(study: PreparedStudy, part: str) -> pd.DataFrame:
    count = len(study.mask)
    rows = pd.DataFrame({"slice_index": np.arange(count), "replica": np.zeros(count, dtype=np.int32)})
    rows = rows.assign(case_id=study.case_id, frame=study.frame, group=study.group, part=part)
    rows = rows.assign(donor_ids="", origin="real")
    return rows[list(ROW_COLUMNS)]


def _attributes(
    archive: StudyArchive,
    split: FoldSplit,
    predicted: Mapping[tuple[str, str], Box],
    config: RegionConfig,
    seed: int,
    code_version: str,
) -> StoreAttributes:
    return StoreAttributes(
        label_set=archive.label_set.name,
        region_px=config.size_px,
        spacing_mm=1.0,
        intensity_rule=config.intensity_rule,
        source_digest=archive.digest,
        parent_digests={
            "studies": archive.digest,
            "patient_split": split_digest(split),
            "lv_localiser": boxes_digest(predicted),
        },
        seed=seed,
        code_version=code_version,
        parameters=config.model_dump(mode="json") | {"fold": split.fold},
    )


def _pixel(centre: tuple[float, float]) -> str:
    return f"row {centre[0]:.0f}, column {centre[1]:.0f}"
