"""Whether the trainings run on a GPU as they should, and how fast, in a few minutes: one table, one JSON.

Without Dagster and MLflow, on 312 slices of the phantom, or of a source that is given. Measurements come in order of
importance and take 10 s each at most, beside what is built and compiled for them; those for which `--minutes` leave no
time are named. One that fails is a line, and the others go on.

* no waiting: ten steps of each training while PyTorch makes an error of every wait for the GPU;
* curves: losses of the same 50 steps on the CPU in fp32, on the GPU in fp32 and in bf16;
* resume: a training that is stopped half way against one that is not, with and without deterministic kernels;
* rates: images a second, peak memory, and operations as a share of what a 3 x 3 convolution of 64 channels at 128 x 128
  reaches in bf16, forward and backward; the part of a step in which no kernel runs; the price of deterministic kernels;
* what that makes of 10,000 slices x 60 epochs, and of 150,000 images of Pix2Pix;
* MONAI's AttentionUnet in its documented loop, where MONAI is installed.

    python -m benchmarks.gpu_acceptance --output acceptance.json              # on a GPU
    python -m benchmarks.gpu_acceptance --small --output acceptance.json      # anywhere: a rehearsal of all parts
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import training as own
from benchmarks.acceptance_bench import Bench
from benchmarks.networks import count_flops_as_written, peer_speed
from benchmarks.step_on_paper import operations_of, pix2pix_step, segmenter_step
from common.errors import InputError
from engine.settings import load_settings
from runtime.compute import Compute, choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import read_weights
from segmentation.localiser import training as localiser
from segmentation.networks.table import NETWORKS, build_network
from segmentation.training import loop
from segmentation.training.config import TrainConfig

Figures = dict[str, Any]
Step = Callable[[int], object]

_IMAGES = {"segmenter": 10_000 * 60, "pix2pix": 150_000}
_SHARES_WANTED = {"attention_res_unet": 0.40, "pix2pix published": 0.35, "pix2pix repaint": 0.35}
_MOST_WAITING = 0.03
_RATIO_WANTED = 2.0


# No waiting


def segmenter_waits_for_nothing(bench: Bench, name: str) -> Figures:
    """Take ten steps of a segmenter that may not wait."""
    run = bench.training(bench.segmenter(name, batch=bench.options.batches[0]), bench.compute)
    return _without_waiting(lambda _: _take(run))


def pix2pix_waits_for_nothing(bench: Bench, preset: str) -> Figures:
    """Take ten steps of Pix2Pix that may not wait; losses are looked at in the 25th."""
    players = bench.players(bench.pix2pix(preset, batch=bench.options.batches[0]), bench.compute)
    return _without_waiting(lambda step: players.take_step(step + 1))


def localiser_waits_for_nothing(bench: Bench) -> Figures:
    """Take ten steps of the localiser that may not wait."""
    config = load_settings("paper").localiser.model_copy(update={"fov_mm": 250})
    if bench.options.small:
        config = config.model_copy(update={"input_px": 32, "batch": 2})
    data = localiser.gather(bench.archive, bench.split.train, config).to(bench.compute.device)
    state = localiser._start(config, data, bench.compute, 0)
    return _without_waiting(lambda step: localiser._training_step(state, data, config, bench.compute, step, step))


def _without_waiting(step: Step) -> Figures:
    for number in range(2):  # optimisers make their state, cuDNN tries its algorithms
        step(number)
    with _waiting_is_an_error():
        for number in range(2, 12):
            step(number)
    return {"steps without waiting": 10}


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Curves and resuming


def curves(bench: Bench, name: str) -> Figures:
    """Return the losses of the same steps on the CPU and in both precisions of the device."""
    device = bench.compute.device.type
    places = {"cpu fp32": ("cpu", "fp32"), "fp32": (device, "fp32"), "bf16": (device, "bf16")}
    found = {label: _losses(bench, name, choose_compute(*place)) for label, place in places.items()}  # type: ignore[arg-type] # a device's type
    count = min(map(len, found.values()))
    known, plain, half = (np.array(found[label][:count]) for label in places)
    apart = {"fp32, first step": plain[:1] / known[:1], "fp32": plain / known, "bf16": half / known}
    return {
        "steps": count,
        **{f"largest relative difference, {what}": float(np.abs(ratio - 1).max()) for what, ratio in apart.items()},
        "losses": {label: [round(loss, 5) for loss in losses] for label, losses in found.items()},
    }


def _losses(bench: Bench, name: str, compute: Compute) -> list[float]:
    """Return the losses of up to 50 steps without what a GPU draws by itself: noise and dropout."""
    steps, losses = bench.options.curve_steps, []
    if name in NETWORKS:
        augmentation = load_settings("paper").network(name).augmentation
        quiet = None if augmentation is None else augmentation.model_copy(update={"noise": 0.0})
        config = bench.narrow_segmenter(name, batch=bench.options.curve_batch, augmentation=quiet)
        run = bench.training(TrainConfig.model_validate(config.model_dump()), compute)
        taken: Step = lambda _: _take(run)["loss"]  # noqa: E731 # the other branch has its own
    else:
        config = bench.pix2pix(name.removeprefix("pix2pix "), batch=bench.options.curve_batch, dropout=0.0)
        players = bench.players(config, compute)
        taken = lambda step: players.take_step(step + 1)["generator_loss"]  # noqa: E731
    start = time.perf_counter()
    for step in range(steps):
        losses.append(taken(step))
        if step and compute.device.type == "cpu" and time.perf_counter() - start > bench.options.seconds:
            break
    return torch.stack([loss for loss in losses if isinstance(loss, Tensor)]).float().cpu().tolist()


def resumed(bench: Bench, deterministic: bool) -> Figures:
    """Return how far weights are apart after a training that was stopped half way and one that was not."""
    every = 2 if bench.options.small else 10
    changes = {"steps": 2 * every, "validate_every": every, "batch": bench.options.curve_batch}
    config = TrainConfig.model_validate(bench.narrow_segmenter("attention_res_unet", **changes).model_dump())
    kind = "deterministic" if deterministic else "as usual"
    compute = choose_compute(bench.options.device, deterministic=deterministic)
    whole, stopped = (bench.folder / f"{part} {kind}" for part in ("whole", "stopped"))
    try:
        _train(bench, config, compute, whole, stop_after=None)
        _train(bench, config, compute, stopped, stop_after=every)
        _train(bench, config, compute, stopped, stop_after=None)
    finally:
        choose_compute(bench.options.device)  # kernels as usual
    first, second = read_weights(whole), read_weights(stopped)
    apart = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    return {"largest difference of a weight": apart}


class _Stopped(Exception):  # noqa: N818 # no error
    """A training ends where it is told to."""


def _train(bench: Bench, config: TrainConfig, compute: Compute, folder: Path, stop_after: int | None) -> None:
    def report(step: int, _: Mapping[str, float]) -> None:
        if step == stop_after:
            raise _Stopped

    try:
        loop.train_segmenter(bench.store, bench.validation, config, compute, folder, 0, report, ModelCard())
    except _Stopped:
        return


# Rates


def segmenter_rate(bench: Bench, name: str, batch: int, compiled: bool = False) -> Figures:
    """Return how fast a network of published widths trains."""
    config = bench.segmenter(name, batch=batch, compiled=compiled)
    run = bench.training(config, bench.compute)
    side = bench.store.attributes.region_px
    operations = batch * operations_of(segmenter_step(config.model_copy(update={"batch": 1}), side))
    figures = _rate(bench, lambda _: _take(run), batch, operations)
    return figures | {"minutes for 10,000 slices x 60": _minutes(_IMAGES["segmenter"], figures)}


def pix2pix_rate(bench: Bench, preset: str, batch: int) -> Figures:
    """Return how fast a preset of Pix2Pix trains."""
    config = bench.pix2pix(preset, batch=batch)
    players = bench.players(config, bench.compute)
    side = bench.store.attributes.region_px
    operations = batch * operations_of(pix2pix_step(config.model_copy(update={"batch": 1}), side))
    figures = _rate(bench, lambda step: players.take_step(step + 1), batch, operations)
    return figures | {"minutes for 150,000 images": _minutes(_IMAGES["pix2pix"], figures)}


def price_of_determinism(bench: Bench, name: str) -> Figures:
    """Return how much longer a step takes with deterministic kernels."""
    batch, found = bench.options.batches[0], {}
    try:
        for deterministic in (False, True):
            compute = choose_compute(bench.options.device, deterministic=deterministic)
            run = bench.training(bench.segmenter(name, batch=batch), compute)
            found[deterministic] = _speed(lambda _, run=run: _take(run), bench)[0]
    finally:
        choose_compute(bench.options.device)
    return {"times as long": round(found[False] / found[True], 3)}


def monai_rate(bench: Bench) -> Figures:
    """Return how many times as many slices a second ours trains as MONAI's AttentionUnet of as many operations."""
    if find_spec("monai") is None:
        raise InputError("MONAI is not installed; pip install -c constraints.txt -e '.[bench]'")
    side, batch = bench.store.attributes.region_px, bench.options.batches[0]
    config = bench.segmenter("attention_res_unet", batch=batch)
    flops = count_flops_as_written(partial(build_network, config.network, bench.store.label_set.num_classes), side)
    rows = bench.store.rows_of("train")
    files = own._write_files(bench.folder / "files", np.float32(bench.store.images(rows)), bench.store.masks(rows))
    steps = 2 if bench.options.small else 10
    theirs = peer_speed("monai", flops, files, argparse.Namespace(batch=batch, size=side, workers=0, steps=steps))
    run = bench.training(config, bench.compute)
    ours = batch * _speed(lambda _: _take(run), bench)[0]
    return {"ours, images/s": round(ours, 1), "MONAI, images/s": round(theirs, 1), "ratio": round(ours / theirs, 2)}


def _rate(bench: Bench, step: Step, batch: int, operations: int) -> Figures:
    steps_a_second, taken = _speed(step, bench)
    figures = {
        "images/s": round(steps_a_second * batch, 1),
        "ms a step": round(1e3 / steps_a_second, 2),
        "share of the convolution": round(operations * steps_a_second / bench.rate, 4),
        "TFLOP a step": round(operations / 1e12, 4),
    }
    if bench.compute.device.type == "cuda":
        figures["peak memory, MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
        figures["waiting"] = round(idle_share(kernel_intervals(step, taken, 5)), 4)
    return figures


def _speed(step: Step, bench: Bench) -> tuple[float, int]:
    """Return steps a second, and how many were taken; three steps warm up."""
    for number in range(3):
        step(number)
    own._wait(bench.compute.device)
    if bench.compute.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    number, start, at_once = 3, time.perf_counter(), 1 if bench.options.small else 5
    while (spent := time.perf_counter() - start) < bench.options.seconds / 2 and number < 1000:
        for _ in range(at_once):
            step(number)
            number += 1
        own._wait(bench.compute.device)
    spent = time.perf_counter() - start
    return (number - 3) / spent, number


def kernel_intervals(step: Step, first: int, times: int) -> list[tuple[float, float]]:
    """Return when the GPU's kernels and copies of some steps began and ended."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for number in range(first, first + times):
            step(number)
        torch.cuda.synchronize()
    on_gpu = [event.time_range for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [(float(one.start), float(one.end)) for one in on_gpu]


def idle_share(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the share of the time between the first begin and the last end that no interval covers."""
    ordered = sorted(intervals)
    if not ordered:
        return 1.0
    idle, end = 0.0, ordered[0][1]
    for begin, ends in ordered[1:]:
        idle += max(begin - end, 0.0)
        end = max(end, ends)
    return idle / (end - ordered[0][0])


def _take(run: Any) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = run.train_step()
    run.step += 1
    return parts


def _minutes(images: int, figures: Figures) -> float:
    return round(images / figures["images/s"] / 60, 1)


# The whole


def measurements(bench: Bench) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Yield all measurements by name, the most important first."""
    presets, (small, large) = ("published", "repaint"), bench.options.batches
    for name in NETWORKS:
        yield f"no waiting: {name}", partial(segmenter_waits_for_nothing, bench, name)
    for preset in presets:
        yield f"no waiting: pix2pix {preset}", partial(pix2pix_waits_for_nothing, bench, preset)
    yield "no waiting: localiser", partial(localiser_waits_for_nothing, bench)
    for name in (*NETWORKS, "pix2pix repaint"):
        yield f"curves: {name}", partial(curves, bench, name)
    for kind in (False, True):
        yield f"resume: {'deterministic' if kind else 'as usual'}", partial(resumed, bench, kind)
    for batch in (small, large):
        for name in NETWORKS:
            yield f"rate: {name}, batch {batch}", partial(segmenter_rate, bench, name, batch)
        for preset in presets:
            yield f"rate: pix2pix {preset}, batch {batch}", partial(pix2pix_rate, bench, preset, batch)
        if batch == small:
            yield "MONAI's AttentionUnet", partial(monai_rate, bench)
    yield "price of deterministic kernels", partial(price_of_determinism, bench, "attention_res_unet")
    for batch in (
        () if bench.options.small else (small, large)
    ):  # compiling alone takes longer than all else that is small
        for name in NETWORKS:
            yield f"rate: {name}, batch {batch}, compiled", partial(segmenter_rate, bench, name, batch, True)


def measure(name: str, call: Callable[[], Figures], deadline: float) -> Figures:
    """Return a measurement's figures, or why there are none."""
    start = time.perf_counter()
    if start > deadline:
        return {"measurement": name, "failed": "left out: no time was left"}
    try:
        figures = call()
    except (RuntimeError, InputError) as error:  # a wait, memory that does not suffice, a compiler that fails
        figures = {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    return {"measurement": name, **figures, "seconds": round(time.perf_counter() - start, 1)}


def goals(rows: Sequence[Figures]) -> list[dict[str, object]]:
    """Return each goal with what was found, over the rows that have a figure."""
    found = []
    for row in rows:
        training = row["measurement"].removeprefix("rate: ").partition(", batch")[0]
        if "share of the convolution" in row and training in _SHARES_WANTED:
            wanted, share = _SHARES_WANTED[training], row["share of the convolution"]
            found.append(_goal(row, f"share >= {wanted:.0%}", f"{share:.1%}", share >= wanted))
        if "waiting" in row:
            waiting = row["waiting"]
            found.append(_goal(row, f"waiting <= {_MOST_WAITING:.0%}", f"{waiting:.1%}", waiting <= _MOST_WAITING))
        if "ratio" in row:
            found.append(
                _goal(row, f">= {_RATIO_WANTED:g} x MONAI", f"{row['ratio']:g}", row["ratio"] >= _RATIO_WANTED)
            )
    return found


def _goal(row: Figures, wanted: str, value: str, is_met: bool) -> dict[str, object]:
    return {"measurement": row["measurement"], "wanted": wanted, "found": value, "met": is_met}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _parse(arguments)
    deadline = time.perf_counter() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(options, Path(folder))
        about = {
            "compute": bench.compute.description,
            "torch": torch.__version__,
            "slices": len(bench.store),
            "convolution, TFLOP/s": round(bench.rate / 1e12, 4),
        }
        print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
        rows: list[Figures] = []
        for name, call in measurements(bench):
            rows.append(measure(name, call, deadline))
            print(_line(rows[-1]), flush=True)
            _write(options.output, about, rows)
    print(
        pd.DataFrame([{"measurement": row["measurement"], "found": _figures(row)} for row in rows]).to_string(
            index=False
        )
    )
    print(pd.DataFrame(goals(rows)).to_string(index=False))


def _line(row: Figures) -> str:
    return f"{row['measurement']}: {_figures(row)}"


def _figures(row: Figures) -> str:
    shown = {name: value for name, value in row.items() if name not in ("measurement", "losses")}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write(path: Path | None, about: Figures, rows: Sequence[Figures]) -> None:
    if path is not None:
        path.write_text(json.dumps({**about, "measurements": rows, "goals": goals(rows)}, indent=1), encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", default="phantom")
    parser.add_argument("--root", type=Path, help="folder that holds the source's studies")
    parser.add_argument("--patients", type=int, default=0, help="of the phantom; so many that 312 slices come of them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--minutes", type=float, default=8, help="after which nothing new is begun")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement, at most")
    parser.add_argument(
        "--small", action="store_true", help="everything tiny, nothing compiled: whether it runs, not how fast"
    )
    parser.add_argument("--output", type=Path, help="write everything as JSON")
    options = parser.parse_args(arguments)
    options.patients = options.patients or (6 if options.small else 42)
    options.batches = (2, 4) if options.small else (32, 256)
    options.curve_steps, options.curve_batch = (2, 2) if options.small else (50, 8)
    options.seconds = min(options.seconds, 0.1) if options.small else options.seconds
    return options


if __name__ == "__main__":
    main()
