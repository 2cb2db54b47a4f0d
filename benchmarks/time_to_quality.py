"""Minutes of training until the validation Dice reaches a goal, and the Dice after ten minutes: ours beside two peers.

All train on fold 0 of one source, with one seed, in one process on the same threads, in turns: the one that has trained
least is next. Seconds are of training alone; validation stands still for nobody. The Dice is the mean over tissues of
the positive rule on the validation patients, without flips, and the best so far, as each loop keeps its best weights.

* `ours`: the profile's network and loop on its augmented slices, whose making counts as training, too.
* `ours_started`: the same from the weights of `--start-from`, such as a network of cine.
* `monai`: MONAI's AttentionUnet in the loop of its UNETR tutorial: `CacheDataset`, random flips, quarter turns and
  shifts of intensity, DiceCELoss, AdamW at 1e-4 with weight decay 1e-5.
* `smp`: segmentation_models_pytorch's Unet in the loop of its multi-class example: albumentations, DiceLoss, a cosine
  schedule from 2e-4, AdamW; without ImageNet weights, which ours lacks, too.

The peers have about as many floating point operations as ours as written (`benchmarks.networks`), and the real slices
of the training patients. Regions are cut around reference boxes, for all alike. At last, which operators take a step of
ours. Peers come with `pip install -c constraints.txt -e '.[bench]'`. `--clock processor` counts the process's own
seconds, over its threads: where others use the same cores.

    python -m benchmarks.time_to_quality --source emidec --root DIR [--start-from MODEL] [--minutes 30] [--output FILE]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import training as own
from benchmarks.acceptance_bench import reference_slices
from benchmarks.measuring import operator_shares, told
from benchmarks.networks import PEERS, count_flops_as_written
from engine.settings import Settings, load_settings
from imaging.augmentation.varied import write_augmented_slices
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from imaging.sources.table import read_source, source_labels
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.split import split_patients
from runtime.compute import choose_compute, keep_freed_memory
from segmentation.networks.blocks import count_parameters
from segmentation.networks.table import build_network
from segmentation.scoring.overlap import mean_dice, positive_dice
from segmentation.training import loop
from segmentation.training.config import TrainConfig

_SHARE_WANTED = 1 / 3  # of the better peer's time

Clock = Callable[[], float]


def clock_of(name: str) -> Clock:
    """Return the seconds of the wall, or those of this process for each of its threads."""
    threads = torch.get_num_threads()
    return time.perf_counter if name == "wall" else lambda: time.process_time() / threads


@dataclass(frozen=True)
class Material:
    """What is trained and validated on.

    Attributes:
        real: Real slices of all patients of the fold.
        augmented: Augmented slices of its training patients.
        augmenting_s: How long these took.
    """

    real: SliceStore
    augmented: SliceStore
    augmenting_s: float

    @property
    def validation(self) -> PartSlices:
        """The slices of validation patients."""
        return PartSlices.of_part(self.real, "validation")

    def score(self, labels: NDArray[np.uint8]) -> float:
        """Return the mean Dice of label maps drawn on the validation slices."""
        known = self.validation
        return mean_dice(positive_dice(known.masks, labels, known.studies, self.real.label_set))


class Contestant(Protocol):
    """One training."""

    def advance(self) -> float:
        """Train on for a turn; return the seconds."""

    def dice(self) -> float:
        """Return the validation Dice reached."""

    @property
    def steps(self) -> int:
        """Steps so far."""

    @property
    def is_done(self) -> bool:
        """Whether all steps are run."""


class Ours:
    """The project's loop."""

    def __init__(self, material: Material, config: TrainConfig, folder: Path, seed: int, clock: Clock) -> None:
        self._clock = clock
        self._run = loop._Training(material.augmented, material.validation, config, choose_compute(), folder, seed)

    def advance(self) -> float:
        """Train a round and write its checkpoint."""
        start = self._clock()
        metrics = self._run.train_round()
        seconds = self._clock() - start
        metrics |= self._run.validate()
        start = self._clock()
        self._run.save(metrics)
        return seconds + self._clock() - start

    @property
    def is_done(self) -> bool:
        """Whether all steps are run, so that nothing changes any more."""
        return not self._run.rounds_left

    def dice(self) -> float:
        """Return that of the averaged weights."""
        return self._run.history[-1]["dice/mean"]

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._run.step

    def shares(self, times: int) -> dict[str, float]:
        """Return the operators' shares of a step."""
        self._run.network.train()
        self._run.train_step()
        return operator_shares(self._run.train_step, times)


class Peer:
    """Another project's network in its documented loop, in turns of `turn_s` seconds."""

    def __init__(self, material: Material, made: "Loop", turn_s: float, clock: Clock) -> None:
        self._material, self._made, self._turn_s, self._clock = material, made, turn_s, clock
        self.steps, self.is_done = 0, False
        self._batches = own._endless(made.loader)
        self._device = choose_compute().device
        made.network.to(self._device)

    def advance(self) -> float:
        """Train for a turn."""
        self._made.network.train()
        start = self._clock()
        while (seconds := self._clock() - start) < self._turn_s:
            self._step()
        return seconds

    def dice(self) -> float:
        """Return that of the weights as they are."""
        network, images = self._made.network.eval(), self._material.validation.images
        with torch.inference_mode():
            batches = torch.split(torch.from_numpy(np.asarray(images, np.float32)).unsqueeze(1), 32)
            drawn = [network(batch.to(self._device)).argmax(dim=1).to(torch.uint8).cpu().numpy() for batch in batches]
        return self._material.score(np.concatenate(drawn))

    def _step(self) -> None:
        images, masks = next(self._batches)
        self._made.optimiser.zero_grad()
        loss = self._made.loss(self._made.network(images.to(self._device)), masks.to(self._device))
        loss.backward()
        self._made.optimiser.step()
        loss.item()
        self.steps += 1
        if self._made.schedule is not None:
            self._made.schedule.step()


@dataclass(frozen=True)
class Loop:
    """What a documented loop is made of."""

    network: nn.Module
    loader: Any
    loss: Callable[[Tensor, Tensor], Tensor]
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None


def monai_loop(network: nn.Module, material: Material, options: argparse.Namespace) -> Loop:
    """Return the loop of MONAI's UNETR tutorial, in two dimensions."""
    from monai import transforms
    from monai.data import CacheDataset
    from monai.data import DataLoader as MonaiLoader
    from monai.losses import DiceCELoss
    from monai.utils import set_determinism

    set_determinism(options.seed)
    images, masks = _real_training_slices(material)
    both = ["image", "label"]
    change = transforms.Compose(
        [
            transforms.ToTensord(both),
            transforms.RandFlipd(both, prob=0.1, spatial_axis=0),
            transforms.RandFlipd(both, prob=0.1, spatial_axis=1),
            transforms.RandRotate90d(both, prob=0.1, max_k=3),
            transforms.RandShiftIntensityd(["image"], offsets=0.1, prob=0.5),
        ]
    )
    items = [{"image": one[None], "label": mask[None]} for one, mask in zip(images, masks, strict=True)]
    cached = MonaiLoader(CacheDataset(items, change, progress=False), batch_size=options.batch, shuffle=True)
    rate = options.peer_rate or 1e-4
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-5)
    return Loop(network, Pairs(cached), DiceCELoss(to_onehot_y=True, softmax=True), optimiser)


@dataclass(frozen=True)
class Pairs:
    """Batches of MONAI's dictionaries as plain pairs of tensors."""

    loader: Any

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            yield batch["image"].as_tensor(), batch["label"].as_tensor()


def smp_loop(network: nn.Module, material: Material, options: argparse.Namespace) -> Loop:
    """Return the loop of segmentation_models_pytorch's multi-class example, as far as it fits grey slices."""
    import albumentations as A
    from segmentation_models_pytorch.losses import DiceLoss

    change = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.5, 1.5), translate_percent=0.1, rotate=0, p=1),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf([A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9),
        ],
        seed=options.seed,
    )
    slices = ChangedSlices(*_real_training_slices(material), change)
    loader = DataLoader(slices, options.batch, shuffle=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.peer_rate or 2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.peer_steps, eta_min=1e-5)
    return Loop(network, loader, DiceLoss("multiclass", from_logits=True), optimiser, schedule)


class ChangedSlices(Dataset[tuple[Tensor, Tensor]]):
    """Slices in memory, changed at random when they are asked for."""

    def __init__(self, images: NDArray[np.float32], masks: NDArray[np.uint8], change: Any) -> None:
        self._images, self._masks, self._change = images, masks, change

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        changed = self._change(image=self._images[index], mask=self._masks[index])
        return torch.from_numpy(changed["image"]).unsqueeze(0), torch.from_numpy(changed["mask"]).long()


LOOPS: Mapping[str, Callable[[nn.Module, Material, argparse.Namespace], Loop]] = {"monai": monai_loop, "smp": smp_loop}


@dataclass
class Course:
    """How one contestant fared: `points` are (seconds of training, best Dice so far)."""

    contestant: Contestant
    seconds: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)

    def advance(self) -> None:
        """Train for a turn and validate."""
        self.seconds += self.contestant.advance()
        self.points.append((self.seconds, max(self.best, self.contestant.dice())))

    @property
    def best(self) -> float:
        """The best Dice so far."""
        return self.points[-1][1] if self.points else 0.0

    def seconds_to(self, goal: float) -> float | None:
        """Return when the goal was reached, None where it was not."""
        return next((seconds for seconds, dice in self.points if dice >= goal), None)

    def dice_after(self, seconds: float) -> float | None:
        """Return the best Dice of so many seconds; None where it could still train on but has not come so far."""
        reached = [dice for spent, dice in self.points if spent <= seconds]
        is_known = self.contestant.is_done or self.seconds >= seconds
        return reached[-1] if reached and is_known else None


def main() -> None:
    """Measure and print."""
    options = _parse()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    keep_freed_memory()
    settings = load_settings(options.profile, options.set)
    with tempfile.TemporaryDirectory() as scratch:
        material = prepare(options, settings, Path(scratch))
        courses = enter(material, options, settings, Path(scratch))
        race(courses, options)
        ours = next(course.contestant for course in courses.values() if isinstance(course.contestant, Ours))
        shares = ours.shares(times=3)
    print(pd.DataFrame([_row(name, course, options) for name, course in courses.items()]).to_string(index=False))
    print("\n".join(_verdicts(courses, options)))
    print(f"a step of ours: {told(shares)}")
    _write(courses, options, shares)


def prepare(options: argparse.Namespace, settings: Settings, folder: Path) -> Material:
    """Read the source, and write fold 0's real and augmented slices."""
    items = read_source(options.source, options.root, settings.phantom, settings.source)
    write_studies(folder / "studies.h5", items, source_labels(options.source, settings.source), options.source)
    archive = StudyArchive.open(folder / "studies.h5")
    split = split_patients(archive.groups(), 5, settings.validation_share, settings.split_seed)[0]
    real = reference_slices(folder / "real.h5", archive, split, settings.region, settings.split_seed)
    clock = clock_of(options.clock)
    start, path = clock(), folder / "augmented.h5"
    rows, seed = real.rows_of("train"), settings.split_seed
    write_augmented_slices(
        path, real, rows, settings.training_slices, settings.augment, settings.balance, seed, 1, "benchmark"
    )
    seconds = clock() - start
    parts = ", ".join(f"{len(real.rows_of(part))} of {part} patients" for part in ("train", "validation"))
    print(f"{options.source}, fold 0: {parts}; {settings.training_slices} augmented slices in {seconds:.0f} s")
    return Material(real, SliceStore.open(path), seconds)


def enter(material: Material, options: argparse.Namespace, settings: Settings, folder: Path) -> dict[str, Course]:
    """Build all contestants."""
    config = settings.network(options.network).model_copy(update={"validate_every": options.round_steps})
    classes = material.real.label_set.num_classes
    flops = count_flops_as_written(partial(build_network, config.network, classes), settings.region.size_px)
    print(f"{options.network}, {flops / 1e9:.2f} GFLOPs a slice; {choose_compute().description}")
    starts: dict[str, Path | None] = {"ours": None}
    starts |= {"ours_started": options.start_from} if options.start_from else {}
    clock, courses = clock_of(options.clock), {}
    for name, start in starts.items():
        own = config.model_copy(update={"start_from": start})
        courses[name] = Course(Ours(material, own, folder / name, options.seed, clock), material.augmenting_s)
    for name in filter(None, options.peers.split(",")):
        torch.manual_seed(options.seed)
        network = PEERS[name](flops, settings.region.size_px)()
        print(f"{name}: {type(network).__name__}, {count_parameters(network) / 1e6:.2f} M parameters")
        courses[name] = Course(Peer(material, LOOPS[name](network, material, options), options.turn, clock))
    return courses


def race(courses: Mapping[str, Course], options: argparse.Namespace) -> None:
    """Let the contestants train in turns until each has had its minutes, or has run all its steps."""
    limit_s = 60 * options.minutes
    while running := [one for one in courses if courses[one].seconds < limit_s and not courses[one].contestant.is_done]:
        name = min(running, key=lambda one: courses[one].seconds)
        course = courses[name]
        course.advance()
        print(f"{name}: {course.seconds:.0f} s, step {course.contestant.steps}, Dice {course.best:.3f}", flush=True)
        _write(courses, options, {})


def _write(courses: Mapping[str, Course], options: argparse.Namespace, shares: Mapping[str, float]) -> None:
    """Write what is known so far."""
    if options.output is None:
        return
    content = {
        "compute": choose_compute().description,
        "options": vars(options),
        "table": [_row(name, course, options) for name, course in courses.items()],
        "verdicts": list(_verdicts(courses, options)),
        "courses": {name: course.points for name, course in courses.items()},
        "shares": shares,
    }
    options.output.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def _row(name: str, course: Course, options: argparse.Namespace) -> dict[str, object]:
    reached, after = course.seconds_to(options.goal), course.dice_after(60 * options.mark)
    return {
        "training": name,
        "steps": course.contestant.steps,
        "minutes": round(course.seconds / 60, 1),
        f"minutes to {options.goal:.2f}": f"{reached / 60:.1f}" if reached else "not reached",
        f"Dice after {options.mark:g} min": f"{after:.3f}" if after else "not so long",
        "best Dice": round(course.best, 3),
    }


def _verdicts(courses: Mapping[str, Course], options: argparse.Namespace) -> Iterator[str]:
    """Say how ours compare with the better peer, in time and in Dice."""
    peers = [course for course in courses.values() if isinstance(course.contestant, Peer)]
    if not peers:
        return
    times = [seconds for peer in peers if (seconds := peer.seconds_to(options.goal))]
    theirs, bound = (min(times), "") if times else (min(peer.seconds for peer in peers), "less than ")
    for name, course in courses.items():
        if not isinstance(course.contestant, Ours):
            continue
        own = course.seconds_to(options.goal)
        share = f"{bound}{own / theirs:.2f} of" if own else "no figure against"
        yield f"{name}: {share} the better peer's time to {options.goal:.2f}; wanted at most {_SHARE_WANTED:.2f}"
        marks = [dice for peer in peers if (dice := peer.dice_after(60 * options.mark))]
        after = course.dice_after(60 * options.mark)
        if after and marks:
            yield f"{name}: {after - max(marks):+.3f} Dice after {options.mark:g} minutes; wanted 0 or more"


def _real_training_slices(material: Material) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    rows = material.real.rows_of("train")
    return np.asarray(material.real.images(rows), np.float32), material.real.masks(rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", default="phantom")
    parser.add_argument("--root", type=Path, help="folder that holds the source's studies")
    parser.add_argument("--start-from", type=Path, help="model folder, such as of cine, for another training of ours")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--network", default="attention_res_unet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--peers", default="monai,smp", help="which of them; empty for none")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each")
    parser.add_argument("--goal", type=float, default=0.6, help="validation Dice")
    parser.add_argument("--mark", type=float, default=10, help="minutes after which the Dice is compared")
    parser.add_argument("--round-steps", type=int, default=25, help="of ours, between two validations")
    parser.add_argument("--turn", type=float, default=15, help="seconds of a peer, between two validations")
    parser.add_argument("--batch", type=int, default=16, help="of the peers")
    parser.add_argument("--peer-rate", type=float, help="learning rate of both; each one's documented if absent")
    parser.add_argument("--peer-steps", type=int, default=2000, help="length of smp's cosine schedule")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's default if 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write everything as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
