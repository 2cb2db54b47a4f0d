import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from segmentation.networks.attention_res_unet import AttentionResUNet
from segmentation.networks.blocks import AttentionGate, ConvolutionPair, JoiningResidualBlock, ResidualBlock, upsample
from segmentation.networks.halsr_net import (
    AtrousPyramid,
    ChannelAttention,
    GatedDecoderStage,
    HybridAttentionPooling,
    LatentReconstruction,
    PoolingPyramid,
    SpatialAttention,
)
from segmentation.networks.table import NETWORKS, build_network
from segmentation.training.config import NetworkConfig

SMALL = {
    "attention_res_unet": NetworkConfig.model_validate({"widths": (4, 4, 8, 8, 8), "bottleneck": 8}),
    "halsr_net": NetworkConfig.model_validate(
        {"name": "halsr_net", "widths": (4, 4, 8, 8), "bottleneck": 8, "module_width": 4}
    ),
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(SMALL[request.param], num_classes=5)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_logits_have_the_size_of_the_image(network):
    output = network.eval()(noise(2, 1, 64, 32))
    assert output.logits.shape == (2, 5, 64, 32)
    assert output.auxiliary is None


def test_features_are_one_vector_an_image(network):
    assert network.eval().encode(noise(3, 1, 32, 32)).shape == (3, 8)


def test_a_batch_equals_its_singles(network):
    network.eval()
    images = noise(3, 1, 32, 32)
    singles = torch.cat([network(image[None]).logits for image in images])
    torch.testing.assert_close(network(images).logits, singles, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(network):
    output = network.train()(noise(2, 1, 32, 32))
    loss = output.logits.square().mean()
    if output.auxiliary is not None:
        loss = loss + output.auxiliary.square().mean()
    loss.backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert missing == []


def test_odd_sizes_are_refused_with_the_sizes_that_work():
    network = build_network(SMALL["attention_res_unet"])
    with pytest.raises(InputError, match=r"100 × 128 .* multiples of 32: .* work are 96, 128"):
        network(noise(1, 1, 100, 128))
    with pytest.raises(InputError, match=r"multiples of 16: .* work are 32, 48"):
        build_network(SMALL["halsr_net"])(noise(1, 1, 40, 40))


def test_a_missing_channel_axis_is_refused():
    with pytest.raises(InputError, match=r"takes images of shape \(N, 1, H, W\)"):
        build_network(SMALL["halsr_net"])(noise(1, 32, 32))


def test_only_halsr_net_returns_an_auxiliary_output_and_only_while_training():
    halsr = build_network(SMALL["halsr_net"]).train()
    assert halsr(noise(2, 1, 32, 32)).auxiliary.shape == (2, 5, 32, 32)
    assert halsr.eval()(noise(2, 1, 32, 32)).auxiliary is None
    assert build_network(SMALL["attention_res_unet"]).train()(noise(2, 1, 32, 32)).auxiliary is None


def test_the_reconstruction_reaches_the_main_logits_as_well():
    halsr = build_network(SMALL["halsr_net"]).eval()
    image = noise(1, 1, 32, 32)
    before = halsr(image).logits
    with torch.no_grad():
        halsr.reconstruction.features.bias.add_(1.0)
    assert not torch.allclose(before, halsr(image).logits)


def test_attention_maps_lie_between_0_and_1():
    skip, gate, extreme = noise(2, 6, 8, 8) * 100, noise(2, 4, 4, 4) * 100, noise(2, 6, 8, 8) * 100
    maps = [
        AttentionGate(6, 4, 3, stride=2).attention(skip, gate),
        ChannelAttention(6).attention(extreme),
        SpatialAttention().attention(extreme),
        LatentReconstruction(6, 3, 4, 2).attention(extreme),
    ]
    assert [tuple(m.shape) for m in maps] == [(2, 1, 8, 8), (2, 6, 1, 1), (2, 1, 8, 8), (2, 1, 8, 8)]
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps)


def test_every_attention_map_of_a_whole_network_lies_between_0_and_1(network, monkeypatch):
    maps = []
    for module in [module for module in network.modules() if hasattr(module, "attention")]:
        found = module.attention
        monkeypatch.setattr(module, "attention", lambda *x, found=found: maps.append(found(*x)) or maps[-1])
    network.eval()(noise(2, 1, 32, 32) * 10)
    gates = sum(isinstance(module, AttentionGate) for module in network.modules())
    assert len(maps) >= gates > 0
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps)


def test_spatial_attention_tells_pixels_apart():
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, :4, :4] = 5.0
    attention = SpatialAttention().attention(x)[0, 0].detach()
    assert abs(attention[1, 1] - attention[14, 14]) > 1e-4


def test_spatial_attention_moves_with_its_input():
    attention = SpatialAttention()
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 10:14, 10:14] = noise(1, 3, 4, 4)
    moved = torch.roll(x, (5, 3), dims=(2, 3))
    expected = torch.roll(attention.attention(x), (5, 3), dims=(2, 3))
    torch.testing.assert_close(attention.attention(moved), expected)


def test_what_attention_res_unet_draws_moves_with_the_image():
    """By whole strides, away from the border. HALSR-Net, which pools over the whole image, does not promise it."""
    network = AttentionResUNet(widths=(4, 8), bottleneck=8).eval()
    stride, margin = 4, 28  # no pixel sees further
    x = noise(1, 1, 96, 96)
    moved = torch.roll(x, (3 * stride, -2 * stride), dims=(2, 3))
    inside = (..., slice(margin + 12, -margin - 12), slice(margin + 12, -margin - 12))
    expected = torch.roll(network(x).logits, (3 * stride, -2 * stride), dims=(2, 3))
    torch.testing.assert_close(network(moved).logits[inside], expected[inside])
    shifted_less = torch.roll(x, 1, dims=2)
    assert not torch.allclose(network(shifted_less).logits[inside], torch.roll(network(x).logits, 1, dims=2)[inside])


def test_a_closed_gate_lets_nothing_through():
    gate = AttentionGate(4, 4, 2)
    with torch.no_grad():
        gate.score.weight.zero_()
        gate.score.bias.fill_(-100.0)
    assert gate(noise(1, 4, 8, 8), noise(1, 4, 8, 8)).abs().max() < 1e-6


def test_pooling_pyramid_keeps_a_constant():
    out = PoolingPyramid(2)(torch.full((1, 2, 12, 12), 3.0))
    assert out.shape == (1, 6, 12, 12)
    torch.testing.assert_close(out, torch.full_like(out, 3.0))


def test_pooling_pyramid_enlarges_its_averages_bilinearly():
    x = torch.randn(2, 3, 12, 20)
    cells = [F.adaptive_avg_pool2d(x, grid) for grid in (1, 2, 4)]
    enlarged = [F.interpolate(cell, size=(12, 20), mode="bilinear", align_corners=False) for cell in cells]
    torch.testing.assert_close(PoolingPyramid(3)(x), torch.cat(enlarged, dim=1))


def test_gating_before_or_after_enlargement_is_the_same():
    stage = GatedDecoderStage(in_channels=3, skip_channels=4, width=5).eval()
    x, skip = torch.randn(2, 3, 6, 4), torch.randn(2, 4, 6, 4)
    large, large_skip = upsample(x), upsample(skip)
    plain = ConvolutionPair(7, 5).eval()
    plain.load_state_dict(stage.convolutions.state_dict())
    torch.testing.assert_close(stage(x, skip), plain(torch.cat([large, stage.gate(large_skip, large)], dim=1)))


def test_joining_two_maps_is_the_residual_block_of_the_joined_map():
    joining, plain = JoiningResidualBlock(4, 3, 3).double(), ResidualBlock(7, 3).double()
    plain.load_state_dict(joining.state_dict())
    coarse, skip = noise(2, 4, 5, 3).double().requires_grad_(), noise(2, 3, 10, 6).double().requires_grad_()
    found, expected = joining(coarse, skip), plain(torch.cat([upsample(coarse), skip], dim=1))
    torch.testing.assert_close(found, expected)
    slopes = torch.randn_like(expected)
    mine = torch.autograd.grad(found, (coarse, skip, *joining.parameters()), slopes)
    theirs = torch.autograd.grad(expected, (coarse, skip, *plain.parameters()), slopes)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_atrous_pyramid_sees_18_pixels_away():
    pyramid = AtrousPyramid(1, 32).eval()  # few channels may all be cut off by the rectifier
    far, near = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    far[..., 32 + 18, 32] = 1.0
    near[..., 32 + 17, 32] = 1.0  # no dilation reaches it, and its average is the same
    assert not torch.allclose(pyramid(far)[..., 32, 32], pyramid(near)[..., 32, 32])


def test_classes_before_or_after_enlargement_are_the_same():
    module = LatentReconstruction(8, 3, 4, factor=16).eval()
    latent = noise(2, 8, 4, 4)
    weighed = module.excite(latent * module.attention(latent))
    enlarged = nn.functional.interpolate(weighed, scale_factor=16.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(latent).logits, module.classify(enlarged), rtol=1e-4, atol=1e-5)


def test_hybrid_attention_pooling_keeps_the_size():
    assert HybridAttentionPooling(6, 4, 8)(noise(2, 6, 16, 8)).shape == (2, 8, 16, 8)


def test_left_out_sizes_are_the_published_ones():
    assert NetworkConfig.model_validate({}).widths == (64, 128, 256, 512, 512)
    halsr = NetworkConfig.model_validate({"name": "halsr_net"})
    assert halsr.widths == (64, 128, 256, 512)
    assert halsr.dropout == (0.25, 0.30, 0.35, 0.35, 0.5)


def test_dropout_that_does_not_fit_the_depth_is_refused():
    with pytest.raises(ValidationError, match="3 widths takes 4 dropout rates"):
        NetworkConfig.model_validate({"name": "halsr_net", "widths": (4, 8, 8)})
