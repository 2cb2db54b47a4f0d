import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.files import write_json
from imaging.studies.split import FoldSplit, write_splits
from runtime.compute import Ranks, choose_compute, launched_nodes, launched_ranks
from runtime.model_folder import read_weights
from segmentation.networks.table import build_network
from segmentation.training.command import main, read_train_config
from segmentation.training.config import NetworkConfig
from tests.segmentation.toy_slices import draw_slices, write_store, write_toy_store
from tests.segmentation.training.distributed_training import train_into

REPOSITORY = Path(__file__).parents[3]
CONFIG = {
    "network": {"name": "halsr_net", "widths": (4, 8), "bottleneck": 8, "module_width": 4, "dropout": (0, 0, 0)},
    "loss": "generalised_dice_boundary",  # pools over the batch, and so does its auxiliary output
    "steps": 4,
    "batch": 4,
    "crop_px": 24,
    "validate_every": 1,
    "schedule": "plateau",
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_toy_store(folder / "training.h5")
    images, masks = draw_slices(4, 32, seed=9)
    write_store(folder / "real.h5", images, masks, first_patient=4, part="validation")
    train, validation = [f"Case_P{n:03}" for n in range(4)], [f"Case_P{n:03}" for n in range(4, 8)]
    write_splits(folder / "splits.json", [FoldSplit(0, tuple(train), tuple(validation), ("Case_T",))])
    (folder / "config.json").write_text(json.dumps(CONFIG))
    values = {"training-set": "training.h5", "real-slices": "real.h5", "split": "splits.json", "config": "config.json"}
    named = [part for name, value in values.items() for part in (f"--{name}", str(folder / value))]
    return [*named, "--fold", "0", "--device", "cpu", "--precision", "fp32"]


def losses_of(output):
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith("loss")]
    return {(name, int(step)): float(loss) for name, step, loss in lines}


def two_processes(arguments, *folders):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launcher,
        "-m",
        "tests.segmentation.training.distributed_training",
        *arguments,
        "--",
        *map(str, folders),
    ]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_resume_bit_for_bit(arguments, tmp_path, capsys):
    train_into(str(tmp_path / "one"), arguments)
    one = losses_of(capsys.readouterr().out)
    first = two_processes(arguments, tmp_path / "two", f"{tmp_path}/killed@3")
    assert "2 processes" in first.stderr
    assert "killed" in first.stderr
    two = losses_of(first.stdout)
    assert list(two) == [("two", step) for step in range(1, 5)] + [("killed", step) for step in range(1, 4)]
    for step in range(1, 5):  # each once: only the first process reports
        assert two["two", step] == pytest.approx(one["one", step], rel=1e-4)
    second = two_processes(arguments, tmp_path / "killed")
    assert second.returncode == 0, second.stderr
    assert losses_of(second.stdout) == {("killed", 4): two["two", 4]}  # what it told it had saved
    whole, resumed = read_weights(tmp_path / "two"), read_weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "killed" / "checkpoint").exists()


def node(arguments, number, port, *folders):
    """Start the process of one of two machines, each with a disk of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number)]
    launcher += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    module = "tests.segmentation.training.distributed_training"
    command = [*launcher, "-m", module, *arguments, "--", *map(str, folders)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_nodes_without_a_common_disk_resume_as_one_machine_does(arguments, tmp_path, capsys):
    train_into(str(tmp_path / "one"), arguments)
    one = losses_of(capsys.readouterr().out)
    for kill_at, steps in (("@2", (1, 2)), ("", (3, 4))):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        nodes = [node(arguments, number, port, f"{tmp_path}/disk_{number}/model{kill_at}") for number in range(2)]
        first, second = (each.communicate(timeout=300) for each in nodes)
        found = losses_of(first[0])
        assert list(found) == [("model", step) for step in steps], first[1]
        assert [found["model", step] for step in steps] == pytest.approx([one["one", n] for n in steps], rel=1e-4)
        assert losses_of(second[0]) == {}  # the first one reports
    assert read_weights(tmp_path / "disk_0" / "model")
    assert not (tmp_path / "disk_1" / "model" / "weights.safetensors").exists()


def test_nodes_with_different_numbers_of_processes_are_refused(monkeypatch):
    told = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="3 processes on 2 nodes and 2 of them here; give every node the same"):
        launched_nodes()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (launched_ranks(), launched_nodes()) == (4, 2)


def test_ranks_on_gpus_normalise_the_whole_batch_together_and_keep_the_names_of_weights(monkeypatch):
    network, ranks = build_network(NetworkConfig.model_validate(CONFIG["network"])), Ranks(TwoRanks(0))
    names = list(network.state_dict())
    assert ranks.join_norms(network) is network
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    monkeypatch.setattr(TwoRanks, "device", torch.device("cuda", 0))
    kinds = {type(module) for module in ranks.join_norms(network).modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {nn.SyncBatchNorm}
    assert list(network.state_dict()) == names


class TwoRanks:
    """As much of Fabric as cutting a batch asks for."""

    world_size = 2
    device = torch.device("cpu")

    def __init__(self, rank):
        self.global_rank = rank


def test_ranks_share_a_batch_in_equal_disjoint_parts():
    parts = [list(range(6))[Ranks(TwoRanks(rank)).part_of(6)] for rank in range(2)]
    assert parts == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="a batch of 5 cannot be shared by 2 processes; set batch to a multiple of 2"):
        Ranks(TwoRanks(0)).part_of(5)


def test_one_process_is_alone_and_passes_values_on_as_they_are():
    ranks = Ranks(choose_compute("cpu", "fp32").fabric)
    own = torch.ones(2)
    assert (launched_ranks(), ranks.count, ranks.is_first) == (1, 1, True)
    assert ranks.gather(own) is own
    assert ranks.of_first(own) is own


def test_the_command_refuses_test_patients_and_wrong_configurations(arguments, tmp_path):
    swapped = [part.replace("training.h5", "real.h5") for part in arguments]
    with pytest.raises(InputError, match="leakage in fold 0"):
        main([*swapped, "--output", str(tmp_path)])
    write_json(tmp_path / "start" / "model_card.json", {"source": "emidec", "patients": ["Case_T"]})
    (tmp_path / "start" / "weights.safetensors").write_bytes(b"")
    (tmp_path / "starting.json").write_text(json.dumps(CONFIG | {"start_from": str(tmp_path / "start")}))
    starting = [*arguments, "--config", str(tmp_path / "starting.json"), "--output", str(tmp_path / "model")]
    with pytest.raises(InputError, match="was trained on Case_T, whom this fold tests"):
        main([*starting, "--source", "emidec"])
    (tmp_path / "config.json").write_text('{"stepps": 3}')
    with pytest.raises(InputError, match=r"config.json: is no training configuration .*\n?stepps"):
        read_train_config(tmp_path / "config.json")
    assert read_train_config(None).steps == 20_000
