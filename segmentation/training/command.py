"""Training of one segmenter from files, without Dagster and MLflow, by one process or by several.

    python -m segmentation.training.command --training-set SET/slices.h5 --real-slices REAL/slices.h5
        --split patient_split.json --fold 0 --config train.json --output MODEL
    torchrun --standalone --nproc-per-node 2 -m segmentation.training.command …  # the same on two GPUs
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr HOST --master-port PORT -m …  # and on two nodes

`batch` is that of all processes together, as are its statistics on GPUs; on CPUs each normalises its own part of it.
The same command again continues a training that was killed, and finds one that is over. The first process alone reads
and writes the model folder; the slices lie on every node.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from common.errors import InputError
from common.processes import end_with_starter
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from imaging.studies.leakage import assert_no_leak, assert_parts
from imaging.studies.split import read_split, split_digest
from runtime.checkpoint import delete_checkpoint
from runtime.compute import Ranks, choose_compute, keep_freed_memory, launched_nodes, launched_ranks
from runtime.model_card import ModelCard
from runtime.pack import SHIPPED, start_place
from segmentation.training.config import TrainConfig
from segmentation.training.loop import TrainResult, train_segmenter
from segmentation.training.start_weights import refuse_tested


def main(arguments: Sequence[str] | None = None) -> TrainResult:
    """Train as the command line says.

    Raises:
        InputError: A file is missing or wrong, or the training set holds patients of another part of the fold.
    """
    options = _parser().parse_args(arguments)
    if launched_ranks() > 1:
        end_with_starter()  # a rank would go on when torchrun is killed
    compute = choose_compute(
        options.device,
        options.precision,
        launched_ranks(),
        deterministic=options.deterministic,
        nodes=launched_nodes(),
    )
    is_first = Ranks(compute.fabric).is_first
    if is_first:
        print(compute.description, file=sys.stderr, flush=True)
    split = read_split(options.split, options.fold)
    training = SliceStore.open(options.training_set)
    assert_no_leak(training.rows, split, str(options.training_set))
    real = SliceStore.open(options.real_slices)
    assert_parts(real.rows, split, str(options.real_slices))
    validation = PartSlices.of_part(real, "validation")
    config = read_train_config(options.config)
    start = start_place(config.start_from, SHIPPED)
    if start is not None:
        refuse_tested(start, options.source, split.test)
    card = ModelCard(
        **({"source": options.source} if options.source else {}),
        fold=options.fold,
        seed=options.seed,
        patients=list(split.trained_on),
        split_digest=split_digest(split),
        digest=training.digest,
    )
    result = train_segmenter(
        training, validation, config, compute, options.output, options.seed, _print_round, card, start
    )
    if is_first:
        delete_checkpoint(options.output)
    return result


def read_train_config(path: Path | None) -> TrainConfig:
    """Read a `TrainConfig` from a JSON file, such as the `config.json` of a model folder; None gives the defaults.

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    try:
        return TrainConfig() if path is None else TrainConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: is no training configuration ({error}); see segmentation/training/config.py"
        ) from error


def _print_round(step: int, metrics: Mapping[str, float]) -> None:
    print(f"step {step}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training-set", type=Path, required=True, help="slices.h5 of a training set")
    parser.add_argument("--real-slices", type=Path, required=True, help="slices.h5 with the validation patients")
    parser.add_argument("--split", type=Path, required=True, help="what the asset patient_split wrote")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the model folder")
    parser.add_argument("--source", help="where the patients are from; those of two sources are different people")
    parser.add_argument("--config", type=Path, help="JSON of a TrainConfig; the defaults where it is left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--deterministic", action="store_true", help="only kernels that give the same bits each time")
    return parser


if __name__ == "__main__":
    keep_freed_memory()
    try:
        main()
    except InputError as error:
        sys.exit(f"scarforge: {error}")
