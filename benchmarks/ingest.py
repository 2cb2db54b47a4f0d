"""Seconds to ingest a study on one core: read and check it, resample it to 1 mm, store it, cut its regions.

Without a folder, phantom patients are written as EMIDEC files first. With SimpleITK installed, its resampling of
the same volumes (cubic B-spline; labels linearly, class by class) is timed in the same run.

    python benchmarks/ingest.py [--source acdc --root DIR] [--limit 20]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pandas as pd

from imaging.labels import LABEL_SETS
from imaging.phantom import PhantomConfig, read_phantom
from imaging.slices.regions import RegionConfig, study_regions
from imaging.sources.table import read_source, source_labels
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import crop_region, prepare_study, reference_box, resample_image, resample_mask
from imaging.studies.study import Study


def write_phantom(root: Path, patients: int) -> None:
    """Write phantom patients in EMIDEC's layout."""
    for study in islice(read_phantom(PhantomConfig(patients=max(patients, 15))), patients):
        assert isinstance(study, Study)
        for part, volume in (("Images", study.image), ("Contours", study.mask)):
            name = f"Case_{study.case_id}"
            path = root / name / part / f"{name}.nii.gz"
            path.parent.mkdir(parents=True)
            image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4))
            image.header.set_zooms(study.spacing_mm[::-1])
            nibabel.save(image, path)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `action` took, and its result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def timed_studies(source: str, root: Path, limit: int) -> Iterator[tuple[float, Study]]:
    """Yield the usable studies with the seconds that reading each took."""
    items = read_source(source, root, PhantomConfig())
    for _ in range(limit):
        seconds, item = timed(lambda: next(items, None))
        if item is None:
            return
        if isinstance(item, Study):
            yield seconds, item


def ingest(study: Study, folder: Path, region: RegionConfig) -> dict[str, float]:
    """Return the seconds of each step after reading."""
    labels = LABEL_SETS[study.label_set]
    resampling, prepared = timed(lambda: prepare_study(study))
    storing, _ = timed(lambda: write_studies(folder / "studies.h5", [study], labels, "benchmark", 1))
    centre = reference_box(prepared.mask).centre

    def cut() -> None:
        study_regions(prepared.image, centre, region, study.case_id)
        crop_region(prepared.mask, centre, region.size_px)

    return {"resample": resampling, "check_and_store": storing - resampling, "crop": timed(cut)[0]}


def simpleitk() -> Callable[[Study], None]:
    """Return SimpleITK's way to the same grid, on one thread as ours."""
    import SimpleITK as sitk  # noqa: N813 # the name its own documentation uses

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def resample(study: Study) -> None:
        size = resample_image(study.image[:1], study.spacing_mm).shape[1:]
        classes = LABEL_SETS[study.label_set].num_classes
        shares = [
            _resampled(sitk, (study.mask == value).astype(np.float32), study.spacing_mm, size, sitk.sitkLinear)
            for value in range(classes)
        ]
        np.argmax(shares, axis=0)
        _resampled(sitk, study.image, study.spacing_mm, size, sitk.sitkBSpline)

    return resample


def _resampled(sitk: Any, volume: Any, spacing_mm: tuple[float, ...], size: tuple[int, int], how: Any) -> Any:
    planes = []
    for plane in volume:
        image = sitk.GetImageFromArray(plane)
        new = [old * step / out for old, step, out in zip(plane.shape, spacing_mm[1:], size, strict=True)]
        image.SetSpacing(spacing_mm[:0:-1])
        image.SetOrigin([side / 2 for side in spacing_mm[:0:-1]])
        origin = [side / 2 for side in new[::-1]]
        out = sitk.Resample(image, size[::-1], sitk.Transform(), how, origin, new[::-1], (1.0, 0.0, 0.0, 1.0))
        planes.append(sitk.GetArrayFromImage(out))
    return np.stack(planes)


def measure(source: str, root: Path, limit: int) -> pd.DataFrame:
    """Return one row a study: voxels, and the seconds of each step."""
    try:
        peer = simpleitk()
    except ImportError:
        print("SimpleITK is not installed; its column stays empty")
        peer = None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for _, study in timed_studies(source, root, 1):  # what only the first study pays: imports, first pages
            ingest(study, Path(folder), RegionConfig())
        for reading, study in timed_studies(source, root, limit):
            row = {"voxels": study.image.size, "read": reading} | ingest(study, Path(folder), RegionConfig())
            ours = timed(lambda study=study: both_resamplings(study))[0]
            theirs = timed(lambda study=study: peer(study))[0] if peer else float("nan")
            rows.append(row | {"SimpleITK : ours": theirs / ours})
    return pd.DataFrame(rows)


def both_resamplings(study: Study) -> None:
    """Bring image and mask to the 1 mm grid."""
    resample_image(study.image, study.spacing_mm)
    resample_mask(study.mask, study.spacing_mm, LABEL_SETS[study.label_set].num_classes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", default="emidec")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--limit", type=int, default=20)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if options.root is None:
            write_phantom(root, options.limit)
        table = measure(options.source, root, options.limit)
    steps = ["read", "resample", "check_and_store", "crop"]
    table["together"] = table[steps].sum(axis=1)
    print(f"{options.source} ({source_labels(options.source).name}), {len(table)} studies, one core, seconds a study")
    print(table.describe(percentiles=[0.5]).loc[["mean", "50%", "max"]].round(3).to_string())


if __name__ == "__main__":
    main()
