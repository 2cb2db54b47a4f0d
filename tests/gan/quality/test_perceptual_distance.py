import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchmetrics.functional.image.lpips import _LPIPS, _lpips_update

from common.errors import InputError
from gan.quality.fidelity import perceptual_distance


@pytest.fixture(params=["alexnet", "vgg16"])
def backbone(request):
    return request.param


@pytest.fixture
def features(backbone):
    torch.manual_seed(0)
    weights = getattr(torchvision.models, backbone)(weights=None).features.state_dict()
    return {name: 1.5 * tensor for name, tensor in weights.items()}


@pytest.fixture
def weights(features, backbone, tmp_path):
    path = tmp_path / f"{backbone}.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in features.items()}, path)
    return path


def pictures(count=3, size=64):
    return np.random.default_rng(0).random((2, count, size, size), dtype=np.float32)


def test_equals_torchmetrics_with_the_same_weights(weights, features, backbone, compute, monkeypatch):
    build = getattr(torchvision.models, backbone)

    def with_features(**_):
        network = build(weights=None)
        network.features.load_state_dict(features)
        return network

    monkeypatch.setattr(torchvision.models, backbone, with_features)
    theirs = _LPIPS(net={"alexnet": "alex", "vgg16": "vgg"}[backbone], pnet_rand=True)
    first, second = pictures()
    rgb = [torch.from_numpy(part)[:, None].repeat(1, 3, 1, 1) for part in (first, second)]
    expected = _lpips_update(*rgb, net=theirs, normalize=True).numpy()
    monkeypatch.setattr(torchvision.models, backbone, build)
    found = perceptual_distance(weights, backbone, compute)(first, second)
    assert expected.max() > 1e-3
    assert np.abs(found - expected).max() < 1e-5


def test_equal_slices_are_at_distance_zero_and_order_does_not_matter(weights, backbone, compute):
    distance = perceptual_distance(weights, backbone, compute)
    first, second = pictures(2)
    assert distance(first, first) == pytest.approx(0, abs=1e-7)
    assert distance(first, second) == pytest.approx(distance(second, first), rel=1e-4)
    assert distance(first[:0], second[:0]).shape == (0,)


def test_a_batch_equals_its_singles(weights, backbone, compute):
    distance = perceptual_distance(weights, backbone, compute)
    first, second = pictures(18, 32) if backbone == "vgg16" else pictures(18)
    singles = [distance(first[row : row + 1], second[row : row + 1])[0] for row in (0, 17)]
    assert distance(first, second)[[0, 17]] == pytest.approx(singles, rel=1e-4)


def test_weights_that_do_not_fit_are_refused(weights, features, backbone, compute, tmp_path):
    other = {"alexnet": "vgg16", "vgg16": "alexnet"}[backbone]
    with pytest.raises(InputError, match=rf"give the weights of {other}|its layers are not those of {other}"):
        perceptual_distance(weights, other, compute)
    first = next(iter(features))
    save_file({f"features.{first}": features[first]}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"part.safetensors: lacks features.* and \d+ more"):
        perceptual_distance(tmp_path / "part.safetensors", backbone, compute)
    with pytest.raises(InputError, match=rf"absent.safetensors: cannot be read as {backbone} weights"):
        perceptual_distance(tmp_path / "absent.safetensors", backbone, compute)
