"""Many studies in a row, and in several processes: memory stays flat, and each result is what it is alone.

    python -m tests.faults.soak --studies 2000 --processes 4 --each 200

A few phantom patients under many names are segmented by the shipped pack, as `scarforge predict` does in one command.
Then several processes segment at once. Every label map is compared with that of its patient predicted alone.
"""

import argparse
import hashlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import psutil

from imaging.phantom import PhantomConfig, read_phantom
from pipeline.commands.predict import predict as command
from pipeline.commands.predict.predict import PredictOptions, predict

PATIENTS, FLAT = 5, 1.05
WARM = 0.1  # share of the studies after which memory is first looked at


def write_patients(folder: Path, slices: int) -> list[Path]:
    """Write phantom patients of a few slices."""
    folder.mkdir(parents=True)
    for number, study in enumerate(islice(read_phantom(PhantomConfig(patients=PATIENTS)), PATIENTS)):
        middle = len(study.image) // 2
        image = study.image[middle : middle + slices]
        between, row, column = study.spacing_mm
        file = nibabel.Nifti1Image(image.transpose(2, 1, 0), np.diag([column, row, between, 1.0]))
        nibabel.save(file, folder / f"patient{number}.nii.gz")
    return sorted(folder.iterdir())


def under_many_names(patients: list[Path], folder: Path, count: int) -> list[Path]:
    """Link the patients' files under so many names; patient 0 is `00000_0`, `00005_0` and so on."""
    folder.mkdir(parents=True)
    for number in range(count):
        of = number % len(patients)
        (folder / f"{number:05d}_{of}.nii.gz").symlink_to(patients[of])
    return sorted(folder.iterdir())


class Watch:
    """Notes the memory and the open files of this process after each study."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []
        self.files: list[int] = []
        self._process, study = psutil.Process(), command.PredictionRun.study

        def noted(run, found):
            study(run, found)
            self.megabytes.append(self._process.memory_info().rss / 1e6)
            self.files.append(self._process.num_fds())

        command.PredictionRun.study = noted


def segment(model: str, studies: list[Path], output: Path) -> tuple[Watch, float, dict[str, str]]:
    """Predict in this process; return what was noted, the seconds, and each label map's digest."""
    watch, began = Watch(), time.monotonic()
    predict(output.parent, studies, PredictOptions(model=model, output=output, flips=False))
    return watch, time.monotonic() - began, digests(output)


def digests(output: Path) -> dict[str, str]:
    """Return the digest of the values of each label map by its study's name."""
    return {
        path.name.removesuffix(".nii.gz"): hashlib.sha256(np.asarray(nibabel.load(path).dataobj).tobytes()).hexdigest()
        for path in output.rglob("*.nii.gz")
    }


def _in_process(arguments):
    return segment(*arguments)[1:]


def main() -> None:
    """Measure, print, and end with 1 where memory grew or a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cine_attention")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--each", type=int, default=200, help="studies of all processes together")
    parser.add_argument("--slices", type=int, default=2)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="scarforge_soak_"))
    patients = write_patients(work / "patients", options.slices)
    alone = [
        next(iter(segment(options.model, [path], work / f"alone_{number}" / "out")[2].values()))
        for number, path in enumerate(patients)
    ]
    wrong = []
    studies = under_many_names(patients, work / "row", options.studies)
    watch, seconds, found = segment(options.model, studies, work / "row_out")
    warm = int(WARM * len(watch.megabytes))
    first, last = (float(np.median(part)) for part in (watch.megabytes[warm : 2 * warm], watch.megabytes[-warm:]))
    print(
        f"{len(found)} studies in a row: {len(found) / seconds:.1f} a second, memory {first:.0f} MB at a tenth, ",
        end="",
    )
    print(f"{last:.0f} MB at the end ({last / first - 1:+.1%}), open files {watch.files[warm]} and {watch.files[-1]}")
    wrong += [] if last < FLAT * first else ["memory grew"]
    wrong += [] if watch.files[-1] <= watch.files[warm] else ["open files grew"]
    wrong += _others(found, alone, options.studies)
    share = options.each // options.processes
    parts = [under_many_names(patients, work / f"part_{n}", share) for n in range(options.processes)]
    tasks = [(options.model, part, work / f"out_{n}" / "out") for n, part in enumerate(parts)]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for _, found in pool.map(_in_process, tasks):
            wrong += _others(found, alone, share)
    rate = options.each / (time.monotonic() - began)
    print(f"{options.each} studies in {options.processes} processes: {rate:.1f} a second, with starting them")
    print(f"results: {wrong or 'those of each study alone'}")
    shutil.rmtree(work)
    sys.exit(bool(wrong))


def _others(found, alone, count):
    wrong = [f"{name} differs" for name, digest in found.items() if digest != alone[int(name.rsplit("_", 1)[1])]]
    return wrong + ([] if len(found) == count else [f"{len(found)} of {count} were segmented"])


if __name__ == "__main__":
    main()
