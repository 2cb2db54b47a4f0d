"""How many studies of several kinds a model flags, counted by the code of `scarforge predict`, as a table in Markdown.

Given are another hospital's studies of the model's own sequence, another sequence, planes that are no short axis, and
noise. All networks of the model judge together (medians), with the packs of other label sets beside them that are
shipped or added; the column `alone` counts what they flag without these. Patients of the training are not counted here:
how many of them are flagged by a network that had not seen them stands in the pack, counted when it was made, beside
the packs that were there then.

    python -m benchmarks.flags --model lge --emidec DIR --mscmr DIR --acdc DIR [--most 24]
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from common.errors import InputError
from common.progress import track
from common.seeds import random_generator
from engine.workspace import packs_of
from imaging.phantom import PhantomConfig
from imaging.sources.table import read_source
from imaging.studies.study import ES, Study
from pipeline.commands.models import LoadedModel, find_model, load_model, with_others
from pipeline.options import default_home
from runtime.compute import choose_compute
from runtime.pack import Flagged, Pack, named_packs, salted
from segmentation.prediction.familiarity import check_familiarity
from segmentation.prediction.study import CheckedPrediction, predict_checked

NOISE = 24  # volumes
_SMOOTHED_PX = (0, 0, 1, 2, 4, 8)
_RESLICED, _APART_MM = 10, 8.0


class Volume(NamedTuple):
    """An image (S, H, W) in scanner units with its spacing (slice, row, column), and whose it is."""

    case_id: str
    frame: str
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


class Judged(NamedTuple):
    """Whether a volume was flagged, whether without other packs beside the model; None where it was refused."""

    case_id: str
    flagged: bool | None
    alone: bool | None


def volumes(source: str, root: Path) -> Iterator[Volume]:
    """Yield a source's volumes; those that it rejects are left out."""
    for study in read_source(source, root, PhantomConfig()):
        if isinstance(study, Study):
            yield Volume(study.case_id, study.frame, study.image, study.spacing_mm)


def resliced(volume: Volume) -> Volume:
    """Return ten planes across a short-axis stack, 8 mm apart about its middle: sagittal in the stack's own grid."""
    between, row, column = volume.spacing_mm
    step = max(1, round(_APART_MM / column))
    width = volume.image.shape[2]
    places = width // 2 + step * (np.arange(_RESLICED) - _RESLICED // 2)
    planes = volume.image[:, :, places[(places >= 0) & (places < width)]].transpose(2, 0, 1)
    return Volume(volume.case_id, volume.frame, np.ascontiguousarray(planes), (step * column, between, row))


def noise(number: int) -> Volume:
    """Return ten planes of noise, from white to smooth."""
    rng = random_generator(0, "flags", number)
    pixels = rng.normal(size=(10, 256, 256)).astype(np.float32)
    if sigma := _SMOOTHED_PX[number % len(_SMOOTHED_PX)]:
        pixels = gaussian_filter(pixels, (0, sigma, sigma))
    return Volume(f"noise {number}", "", 500 + 100 * pixels / pixels.std(), (8.0, 1.0, 1.0))


def judge(volume: Volume, model: LoadedModel) -> Judged:
    """Segment a volume as `predict` does, and tell whether it would be flagged."""
    _, _, image, spacing_mm = volume
    try:
        found = predict_checked(
            image, spacing_mm, model.segmenter, model.localisers, model.region, model.familiarity, volume.case_id
        )
    except InputError:
        return Judged(volume.case_id, None, None)
    return Judged(volume.case_id, bool(found.flags), _flagged_alone(found, model))


def _flagged_alone(found: CheckedPrediction, model: LoadedModel) -> bool:
    own = [with_others(one, {}) for one in model.familiarity]
    of = found.prediction
    check = check_familiarity(of.features, own, of.images, of.drawn)
    odd = set(found.flags) - {found.familiarity.sentence if found.familiarity else ""}
    return bool(odd or (check and check.sentence))


def unseen(judged: Iterable[Judged], source: str, packs: Mapping[str, Path]) -> list[Judged]:
    """Return the volumes of patients of a source on whom no network of these packs was trained."""
    known = [
        (said.salt, {name for names in one.seen.values() for name in names})
        for said in (Pack.open(path).manifest for path in packs.values())
        for one in said.patients
        if one.source == source
    ]
    return [one for one in judged if not any(salted(salt, one.case_id) in seen for salt, seen in known)]


def sets_of(options: argparse.Namespace) -> Iterator[tuple[str, str, Iterable[Volume]]]:
    """Yield what is given to the model: a heading, the source of whole volumes, and the volumes."""
    planes = []
    for title, source, root in (
        ("EMIDEC", "emidec", options.emidec),
        ("MS-CMRSeg LGE, another hospital and scanner", "mscmr_lge", options.mscmr),
        ("ACDC cine", "acdc", options.acdc),
    ):
        if root is None:
            continue
        if source != "emidec":
            yield title, source, islice(volumes(source, root), options.most_whole)
        planes.append(islice((one for one in volumes(source, root) if one.frame != ES), options.most))
    if planes:
        yield "sagittal reslices of these and of EMIDEC", "", (resliced(one) for some in planes for one in some)
    yield "noise, white to smooth", "", map(noise, range(min(NOISE, options.most)))


def row(title: str, judged: Iterable[Judged]) -> str:
    """Return a row of the table."""
    found = list(judged)
    flagged, alone = (sum(bool(one[place]) for one in found) for place in (1, 2))
    return f"| {title} | {len(found)} | {flagged} | {alone} | {sum(one.flagged is None for one in found)} |"


def of_pack(counted: Flagged | None) -> str:
    """Return the row of the model's own test patients."""
    figures = "not measured | |" if counted is None else f"{counted.studies} | {counted.flagged} |"
    return f"| test patients of its source, each by the network that had not seen them (from the pack) | {figures} | |"


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lge", help="a pack's name or file")
    for name in ("emidec", "mscmr", "acdc"):
        parser.add_argument(f"--{name}", type=Path, help="folder of the data")
    parser.add_argument("--most", type=int, default=24, help="reslices of a source, and volumes of noise")
    parser.add_argument("--most-whole", type=int, help="volumes of a source (all)")
    options = parser.parse_args()
    start, home = time.perf_counter(), default_home()
    name = find_model(home, options.model)
    model = load_model(home, name, None, None, choose_compute(), None)
    beside = sorted({other for one in model.familiarity if one for other in one.others})
    packs = {other: path for other, path in named_packs(packs_of(home)).items() if other in beside}
    print(f"| given to {len(model.members)} networks of {name}, beside {', '.join(beside) or 'no pack'} ", end="")
    print("| studies | flagged | alone | refused |\n|---|---|---|---|---|")
    if name.pack:
        print(of_pack(Pack.open(name.pack).manifest.flagged))
    for title, source, given in sets_of(options):
        judged = [judge(one, model) for one in track(given, title)]
        print(row(title, judged), flush=True)
        if source and 0 < len(new := unseen(judged, source, packs)) < len(judged):
            print(row("of these, patients whom no pack beside it was trained on", new), flush=True)
    print(f"\n{model.segmenter.compute.description}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
