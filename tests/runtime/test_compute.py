import os
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from runtime import compute
from runtime.compute import choose_compute, cpu_has_fast_bf16, send_together


@pytest.mark.parametrize(("count", "told"), [(1, "CPU, 1 thread, fp32"), (2, "CPU, 2 threads, fp32")])
def test_one_line_says_what_is_computed_on(count, told):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        assert choose_compute("cpu", "fp32").description == told
    finally:
        torch.set_num_threads(before)


def test_a_1x1_convolution_of_one_channel_answers_channels_last():
    chosen = choose_compute("cpu", "bf16")
    images = chosen.lay_out(torch.rand(2, 1, 4, 6))
    layer = torch.nn.Conv2d(1, 8, 1).to(memory_format=torch.channels_last)
    assert layer(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_laying_out_changes_no_value(precision, channels):
    images = torch.rand(2, channels, 4, 6)
    assert torch.equal(choose_compute("cpu", precision).lay_out(images), images)


@pytest.mark.parametrize(
    ("described", "fast"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512_bf16", False),
        ("vendor_id : AuthenticAMD\nflags : avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
    ],
)
def test_bf16_is_chosen_where_it_is_faster(tmp_path, described, fast):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(described)
    assert cpu_has_fast_bf16(cpuinfo) is fast


def test_a_machine_that_does_not_describe_its_processor_computes_in_fp32(tmp_path):
    assert cpu_has_fast_bf16(tmp_path / "absent") is False


def test_a_gpu_that_is_not_there_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda: PyTorch finds no GPU here; choose device cpu or auto"):
        choose_compute("cuda")


def test_more_processes_than_gpus_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes want a GPU each and 1 are visible here"):
        choose_compute("auto", ranks=2)


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_chosen_on_gpus_that_have_it_themselves(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert compute._has_fast_bf16("cuda") is native


@pytest.fixture
def settings_of_cuda():
    """Put back what PyTorch keeps for the whole process."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = backends[0].allow_tf32, backends[1].allow_tf32, backends[1].benchmark
    yield
    backends[0].allow_tf32, backends[1].allow_tf32, backends[1].benchmark = before
    choose_compute("cpu", "fp32")


def test_fp32_on_a_gpu_is_fp32_and_the_chosen_gpu_is_taken(monkeypatch, settings_of_cuda):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(compute, "Fabric", lambda **given: asked.update(given) or SimpleNamespace(device="cuda:2"))
    chosen = choose_compute("auto", "fp32", gpu=2)
    assert (chosen.device, chosen.precision, asked["devices"]) == ("cuda:2", "fp32", [2])
    assert not torch.backends.cudnn.allow_tf32  # PyTorch's own default is True
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.benchmark


def test_deterministic_kernels_are_chosen_told_and_left_again(monkeypatch, settings_of_cuda):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    chosen = choose_compute("cpu", "fp32", deterministic=True)
    assert chosen.description.endswith("fp32, deterministic kernels")
    assert chosen.said() == {"precision": "fp32", "deterministic": True}
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    usual = choose_compute("cpu", "fp32")
    assert usual.said() == {"precision": "fp32"}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


def test_each_node_gives_its_own_share_of_the_processes(monkeypatch, settings_of_cuda):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    fabric = SimpleNamespace(device="cuda:1", launch=lambda: None)
    monkeypatch.setattr(compute, "Fabric", lambda **given: asked.update(given) or fabric)
    choose_compute("auto", "fp32", ranks=4, nodes=2)
    assert (asked["devices"], asked["num_nodes"], asked["strategy"]) == (2, 2, "ddp")
    with pytest.raises(InputError, match="3 processes want a GPU each and 2 are visible here"):
        choose_compute("auto", "fp32", ranks=6, nodes=2)


def test_tensors_are_sent_as_they_are():
    sent = send_together([torch.arange(3.0), torch.ones(()).expand(2, 2)], torch.device("cpu"))
    assert [part.tolist() for part in sent] == [[0.0, 1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]]]
