import pytest
import torch

from training.compute import choose_compute


@pytest.mark.parametrize(("count", "told"), [(1, "CPU, 1 thread, fp32"), (2, "CPU, 2 threads, fp32")])
def test_one_line_says_what_is_computed_on(count, told):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        assert choose_compute("cpu", "fp32").description == told
    finally:
        torch.set_num_threads(before)
