import pickle

import numpy as np
import pytest
import torch

from common.errors import InputError
from gan.networks.features import inception_score, load_inception


def test_the_score_of_images_alike_is_one_and_of_sure_and_various_ones_the_number_of_classes():
    assert inception_score(np.full((6, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.tile([0.7, 0.2, 0.1], (5, 1))) == pytest.approx(1)
    assert inception_score(np.eye(4)) == pytest.approx(4)


def test_two_images_by_hand():
    # p = (3/4, 1/4) and (1/4, 3/4), mean (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 each.
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert inception_score(np.array([[0.75, 0.25], [0.25, 0.75]])) == pytest.approx(expected)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.pth: there is no such file"):
        load_inception(tmp_path / "absent.pth")


class Code:
    """Pickled, it is a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_a_file_that_holds_code_is_refused_and_its_code_does_not_run(tmp_path, save):
    save({"weight": Code(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"weights.pth: cannot be read as Inception weights \("):
        load_inception(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_without_the_package_or_with_a_broken_file_the_remedy_is_named(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"pip install torch-fidelity|broken.pth: cannot be read as Inception weights"):
        load_inception(tmp_path / "broken.pth")
