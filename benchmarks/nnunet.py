"""Whether nnU-Net v2 itself takes the data sets of `scarforge export-dataset`, trains on them, and can be compared.

nnU-Net stands in an environment of its own (`python -m venv NNUNET && NNUNET/bin/pip install nnunetv2`); a fold of the
workspace is finished (`scarforge run --profile tiny`). Its trainings here last a few steps: their scores mean nothing.

    python -m benchmarks.nnunet NNUNET/bin DIR [--source phantom] [--profile tiny] [--fold 0] [--steps 20] [--done 3]
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imaging.slices.nnunet import SPLITS

_TRAINER = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class FewSteps(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, {steps}, 1
"""
_IDS = (501, 502)


def main() -> None:
    """Run every step and print it with its seconds; the first that fails ends everything."""
    options = _options()
    raw = options.folder.absolute()
    chosen = ["--source", options.source, "--profile", options.profile, "--fold", str(options.fold)]
    if options.done < 1:
        _run("export", [sys.executable, "-m", "pipeline.cli", "export-dataset", *chosen, "-o", str(raw)], {})
    trainers = raw / "trainers"
    for folder in (trainers, raw / "preprocessed", raw / "results"):
        folder.mkdir(exist_ok=True)
    (trainers / "few_steps.py").write_text(_TRAINER.format(steps=options.steps), encoding="utf-8")
    places = {"raw": raw, "preprocessed": raw / "preprocessed", "results": raw / "results", "extTrainer": trainers}
    own = {f"nnUNet_{name}": str(path) for name, path in places.items()} | {"nnUNet_n_proc_DA": "1"}
    tool = {name: str(options.nnunet.absolute() / f"nnUNetv2_{name}") for name in _TOOLS}
    ids = list(map(str, _IDS))
    if options.done < 2:
        command = [tool["plan_and_preprocess"], "-d", *ids, "-c", "2d", "-np", "1", "-npfp", "1"]
        _run("plan, preprocess, verify", [*command, "--verify_dataset_integrity"], own, "verify_dataset_integrity Done")
    predictions = [_train(raw, number, tool, own, options.done) for number in ids]
    reference = str(_dataset(raw, ids[0]) / "labelsTs")
    scarforge = [sys.executable, "-m", "pipeline.cli"]
    for folder in predictions:
        command = [*scarforge, "evaluate", "--reference", reference, "--prediction", str(folder)]
        _run(
            f"evaluate {folder.name}",
            [*command, "--output", str(raw / "evaluated" / folder.name)],
            {},
            "studies were scored",
        )
    folders = map(str, predictions)
    command = [*scarforge, "compare", "--reference", reference, *folders, "--name", "RealOnly", "--name", "RealPlusGan"]
    print(_run("compare", [*command, "-o", str(raw / "comparison")], {}, "patients were compared"))


_TOOLS = ("plan_and_preprocess", "train", "predict")


def _train(raw: Path, number: str, tool: dict[str, str], own: dict[str, str], done: int) -> Path:
    """Train a few steps on the fold's own split and predict its test studies."""
    dataset, trained = _dataset(raw, number), raw / "predictions" / number
    shutil.copy(dataset / SPLITS, raw / "preprocessed" / dataset.name)
    device = ["-tr", "FewSteps", "-device", "cpu"]
    if done < 3:
        _run(f"train {number}", [tool["train"], number, "2d", "0", *device], own, "Training done")
    command = [tool["predict"], "-d", number, "-c", "2d", "-f", "0", *device, "-npp", "1", "-nps", "1", "--disable_tta"]
    _run(f"predict {number}", [*command, "-i", str(dataset / "imagesTs"), "-o", str(trained)], own)
    return trained


def _dataset(raw: Path, number: str) -> Path:
    (found,) = raw.glob(f"Dataset{number}_*")
    return found


def _run(what: str, command: Sequence[str], environment: dict[str, str], expected: str = "") -> str:
    """Run a command; its output must hold `expected` and it must end well, else its end is shown."""
    started = time.monotonic()
    ended = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)
    if ended.returncode or expected not in ended.stdout:
        raise SystemExit(f"{' '.join(command)}\n{ended.stdout[-4000:]}")
    return ended.stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nnunet", type=Path, help="folder of nnU-Net's commands")
    parser.add_argument("folder", type=Path, help="of the data sets and all that is made of them")
    parser.add_argument("--source", default="phantom")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--done", type=int, default=0, help="1 exported, 2 preprocessed, 3 trained already")
    return parser.parse_args()


if __name__ == "__main__":
    main()
