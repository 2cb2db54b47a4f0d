import numpy as np
import pytest

from gan.inception_features import inception_score, load_inception
from imaging.errors import InputError


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


def test_without_the_package_or_with_a_broken_file_the_remedy_is_named(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"pip install torch-fidelity|broken.pth: cannot be read as Inception weights"):
        load_inception(tmp_path / "broken.pth")
