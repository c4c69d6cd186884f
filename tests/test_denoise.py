"""The denoising autoencoder and iterative inference, by hand and on networks cut at a module."""

import copy
import math

import pytest
import torch
from torch import nn

from gpcore import denoise
from gpcore.denoise import DAE, iterative_inference
from gpcore.networks.fcn import fcn_small

SIZES = (8, 12, 16, 12)


def small(**options):
    torch.manual_seed(0)
    return DAE(3, 5, widths=SIZES, join=2, **options).eval()


def pair(count=2, size=(24, 20), seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(count, 3, *size, generator=generator).softmax(1)
    return y, torch.randn(count, 5, -(-size[0] // 4), -(-size[1] // 4), generator=generator)


def test_published_architecture():
    """Channels of section 4.3: 64 ... 2048 down, with h behind the fourth pool, and 1024 ... 64, 11 up."""
    dae = DAE(11, 512)
    assert [conv.out_channels for conv in dae.down] == [64, 128, 256, 512, 1024, 2048]
    assert [conv.in_channels for conv in dae.down] == [11, 64, 128, 256, 512 + 512, 1024]
    assert [conv.out_channels for conv in reversed(dae.up)] == [1024, 512, 256, 128, 64, 11]
    assert {conv.kernel_size for conv in (*dae.down, *dae.up)} == {(3, 3)}
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in dae.modules())


def test_unpooling_puts_each_maximum_back_where_it_was():
    """The lecture's 4 x 4 example: with convolutions that do nothing, only the maximum of every 2 x 2 block is left."""
    block = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])
    dae = DAE(1, 1, widths=(1, 1), join=1)
    kept = torch.zeros(1, 2, 3, 3)
    kept[0, 0, 1, 1] = 1  # of the second level's convolution over y and h: y alone
    with torch.no_grad():
        dae.down[1].weight.copy_(kept)
        for conv in (dae.down[0], *dae.up):
            conv.weight.copy_(kept[:, :1])
        for conv in (*dae.down, *dae.up):
            conv.bias.zero_()
        out = dae(block.view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))[0, 0]
    # after the second pool only the largest value is left: 8, at the bottom right
    assert out.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 8]]
    with torch.no_grad():
        dae.skips = True
        out = dae(block.view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))[0, 0]
    # the second level unpools [[0, 0], [0, 8]] and adds [[5, 6], [7, 8]], the first puts that back and adds the block
    assert (out - block).tolist() == [[0, 0, 6, 0], [0, 5, 0, 0], [0, 0, 0, 0], [7, 0, 0, 16]]


def test_without_switches_values_are_spread_bilinearly():
    """The second level leaves 8, everywhere: between the rows 5 6 / 7 8 of the first one's pool lie quarters."""
    block = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])
    dae = DAE(1, 1, widths=(1, 1), join=1, switches=False, skips=True)
    with torch.no_grad():
        for conv in (*dae.down, *dae.up):
            conv.weight.zero_()[0, 0, 1, 1] = 1
            conv.bias.zero_()
        out = dae(block.view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))[0, 0] - block
    assert out.tolist() == [
        [13, 13.25, 13.75, 14],
        [13.5, 13.75, 14.25, 14.5],
        [14.5, 14.75, 15.25, 15.5],
        [15, 15.25, 15.75, 16],
    ]


@pytest.mark.parametrize(
    ("options", "factors"),
    [({}, [2, 2, 2]), ({"switches": False}, [1, 1, 1]), ({"skips": True, "identity": 1.0}, [0.2, 0.2, 2])],
)
def test_weights_keep_the_variance_at_first(options, factors):
    """Standard deviations sqrt(2 / inputs) down, and up 2 / sqrt(inputs), as most of what is unpooled are zeros."""
    torch.manual_seed(0)
    dae = DAE(40, 30, widths=(60, 50, 40), join=1, **options)
    for down, up, inputs, width, factor in zip(dae.down, dae.up, (40, 90, 50), (60, 50, 40), factors, strict=True):
        random = down.weight[40:] if factor < 1 and width == 60 else down.weight  # the first ones carry y
        assert random.std().item() == pytest.approx(math.sqrt(2 / (9 * inputs)), rel=0.05)
        assert up.weight[:, :, 0].std().item() == pytest.approx(factor / math.sqrt(9 * width), rel=0.05)


@pytest.mark.parametrize("size", [(24, 20), (23, 21), (17, 33)])
@pytest.mark.parametrize("options", [{}, {"skips": True}, {"switches": False}])
def test_dae_keeps_any_size(size, options):
    y, h = pair(size=size)
    assert small(**options)(y, h).shape == y.shape


def test_dae_conditions_on_features():
    y, h = pair()
    assert (small()(y, h) - small()(y, h + 1)).abs().max() > 1e-3


def test_dae_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"h: got size \[24, 20\], expected \[6, 5\], that of pool number 2"):
        small()(pair()[0], torch.zeros(2, 5, 24, 20))
    for join in (0, 6):
        with pytest.raises(ValueError, match=f"join: got {join}, expected a level from 1 to 5"):
            DAE(3, 5, join=join)
    for skips, width in ((True, 2), (False, 4)):
        with pytest.raises(
            ValueError, match=f"identity: got skips {skips} and width {width}, expected skips and 3 chan"
        ):
            DAE(3, 5, widths=(width, 4, 4), join=1, skips=skips, identity=8)


def test_dae_that_starts_as_the_identity():
    """Where h is silent r(y) is the softmax of 8 y, but for what comes from below at a tenth of its usual size."""
    torch.manual_seed(0)
    y, h = (9 * torch.rand(2, 3, 24, 20)).softmax(1), torch.zeros(2, 5, 6, 5)
    options = {"widths": (8, 8, 8, 8), "join": 2, "skips": True}
    started, plain = DAE(3, 5, **options, identity=8.0)(y, h), DAE(3, 5, **options)(y, h)
    assert (started - 8 * y).abs().mean() < 0.1 * (plain - 8 * y).abs().mean()
    assert torch.corrcoef(torch.stack([started.flatten(), y.flatten()]))[0, 1] > 0.95


def test_dae_divides_the_features_by_their_scale():
    torch.manual_seed(0)
    y, h = pair()
    dae = small()
    before = dae(y, h)
    dae.scale = 4.0
    assert torch.equal(dae(y, 4 * h), before)


def test_loss_by_hand():
    """Eq. 5 over the two pixels that are not void."""
    y = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.2, 0.4, 0.4]]).T.view(1, 3, 1, 3)
    labels = torch.tensor([[[0, 255, 1]]])
    entropy = -(torch.tensor(0.5).log() + torch.tensor(0.4).log()) / 2
    squares = ((0.5**2 + 0.25**2 + 0.25**2) + (0.2**2 + 0.6**2 + 0.4**2)) / 2
    assert denoise.reconstruction_loss(y.log(), labels, 255).item() == pytest.approx(entropy.item() + squares)
    entropy = -(torch.tensor(0.5).log() + 3 * torch.tensor(0.4).log()) / 4
    squares = ((0.5**2 + 0.25**2 + 0.25**2) + 3 * (0.2**2 + 0.6**2 + 0.4**2)) / 4
    weighted = denoise.reconstruction_loss(y.log(), labels, 255, torch.tensor([1.0, 3.0, 9.0]))
    assert weighted.item() == pytest.approx(entropy.item() + squares)
    assert denoise.one_hot(labels, 3, 255)[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def shift(y):
    """Towards the first class: a reconstruction whose fixed point is (1, 0)."""
    return torch.stack([torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 1])], 1)


def test_first_step_by_hand():
    y = torch.tensor([[0.2, 0.8]]).view(1, 2, 1, 1)
    found = iterative_inference(shift, y, 0.25, steps=2)
    first, second = found.trajectory[1:, 0, :, 0, 0].tolist()
    assert first == pytest.approx([0.2 + 0.25 * 0.8, 0.8 - 0.25 * 0.8])
    assert second == pytest.approx([0.4 + 0.25 * 0.6, 0.6 - 0.25 * 0.6])
    assert found.residuals[:, 0].tolist() == pytest.approx([0.8 * 2**0.5, 0.6 * 2**0.5])


def test_residuals_are_means_over_pixels_of_norms_over_classes():
    y = torch.tensor([[[3.0, 0], [4, 2]]]).view(1, 2, 1, 2)
    found = iterative_inference(torch.zeros_like, y, 0.5, steps=2, bounds=None, tolerance=1.75)  # 3.5, then 1.75
    assert found.residuals.flatten().tolist() == [3.5, 1.75]
    assert found.used.tolist() == [2]
    assert iterative_inference(torch.zeros_like, y, 0.5, steps=2, bounds=None, tolerance=1.8).used.tolist() == [1]


def test_who_has_stopped_does_not_start_again():
    """Nor is a reconstruction asked for when all have: of two, one far away at 1, 3 and 4, the other at 2."""
    far, calls = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 1]]), []

    def reconstruct(y):
        calls.append(None)
        return y + far[:, len(calls) - 1].view(2, 1)

    found = iterative_inference(reconstruct, torch.zeros(2, 1), 0.5, steps=4, bounds=None)
    assert found.used.tolist() == [1, 0] and len(calls) == 2
    assert found.trajectory[..., 0].tolist() == [[0, 0], *[[0.5, 0]] * 4]


def test_full_step_is_the_reconstruction():
    dae = small()
    y, h = pair()
    with torch.no_grad():
        found = iterative_inference(denoise.given(dae, h), y, 1.0, steps=1)
        assert torch.equal(found.trajectory[1], dae(y, h).softmax(1))


def test_fixed_point_stays():
    y = pair()[0]
    found = iterative_inference(lambda y: y.clone(), y, 0.5, steps=3)
    assert all(torch.equal(at, y) for at in found.trajectory)
    assert found.used.tolist() == [0, 0]


def test_an_example_stops_and_holds_its_value_while_others_go_on():
    """Residuals halve: one from .1 falls below .001 after seven steps, one from 6.4 after thirteen."""
    y = torch.tensor([0.1, 6.4]).view(2, 1, 1, 1)
    found = iterative_inference(torch.zeros_like, y, 0.5, steps=15, bounds=None)
    assert found.used.tolist() == [7, 13]
    paths = found.trajectory[:, :, 0, 0, 0].T
    assert paths[0, 7:].tolist() == [paths[0, 7]] * 9
    assert paths[0, 7].item() == pytest.approx(0.1 / 2**7)
    assert paths[1, 13].item() == pytest.approx(6.4 / 2**13)
    assert found.trajectory.shape == (16, 2, 1, 1, 1)
    assert found.residuals.shape == (15, 2)


def test_values_stay_within_bounds():
    y = pair()[0]
    inside = iterative_inference(lambda y: 3 * y - 1, y, 0.5, steps=4).trajectory
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert iterative_inference(lambda y: 3 * y - 1, y, 0.5, steps=4, bounds=None).trajectory.max() > 1


def test_trajectories_do_not_depend_on_the_batch():
    dae = small(skips=True)
    y, h = pair(3)
    with torch.no_grad():
        together = iterative_inference(denoise.given(dae, h), y, 0.5, steps=4)
        for i in range(3):
            alone = iterative_inference(denoise.given(dae, h[i : i + 1]), y[i : i + 1], 0.5, steps=4)
            assert torch.allclose(together.trajectory[:, i : i + 1], alone.trajectory, atol=1e-6)
            assert together.used[i] == alone.used[0]


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5])
def test_step_sizes_outside_their_range(epsilon):
    with pytest.raises(ValueError, match=f"epsilon: got {epsilon}, expected 0 < epsilon <= 1"):
        iterative_inference(shift, pair()[0], epsilon)


def test_steps_start_at_one():
    with pytest.raises(ValueError, match="steps: got 0, expected at least 1"):
        iterative_inference(shift, pair()[0], 0.5, steps=0)


def test_candidate_is_the_networks_softmax_and_features():
    torch.manual_seed(0)
    network, images = fcn_small(11).eval(), torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        _, pools = network.features(images)
        expected = network(images).softmax(1)
    y, h = denoise.candidate(network, images, "pool4")
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.allclose(h, pools[3], atol=1e-6)
    y, itself = denoise.candidate(network, images, None)
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.equal(itself, images)
    assert all(parameter.requires_grad for parameter in network.parameters())


class Segmenter(nn.Module):
    """Returns torchvision's dictionary; its DAE is given the module `down`, or half the images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.down, self.score = nn.Conv2d(3, 5, 4, 4), nn.Conv2d(5, 3, 1)

    def forward(self, images):
        return {"out": nn.functional.interpolate(self.score(self.down(images)), scale_factor=4)}


def test_refine_on_any_network_with_a_feature_map():
    network, images = Segmenter(), torch.rand(2, 3, 24, 20)
    found = denoise.refine(network, small(), images, 0.5, at="down", steps=2)
    assert not found.trajectory.requires_grad
    y = [network(images)["out"].softmax(1)]
    for _ in range(2):
        y.append((y[-1] + small()(y[-1], network.down(images)).softmax(1)) / 2)
    torch.testing.assert_close(found.trajectory, torch.stack(y).detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("at", ["down", None])
def test_refine_refuses_what_is_no_number(at):
    network, images = Segmenter(), torch.rand(2, 3, 24, 20)
    wrong = [
        (images.index_fill(2, torch.tensor([3]), value), "images: got NaN or inf") for value in (math.nan, math.inf)
    ]
    for each, message in (*wrong, ((255 * images).byte(), "images: got torch.uint8 .* expected floats")):
        with pytest.raises(ValueError, match=message):
            denoise.refine(network, small(), each, 0.5, at=at)
    network.score.bias.data[1] = math.nan
    with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
        denoise.refine(network, small(), images, 0.5, at=at)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_networks_in_half_precision(dtype):
    network, images, dae = Segmenter().to(dtype), torch.rand(2, 3, 24, 20).to(dtype), small(switches=False).to(dtype)
    y, h = denoise.candidate(network, images, "down")
    assert y.dtype == torch.float32 and torch.equal(y, network(images)["out"].float().softmax(1))
    assert h.dtype == dtype and torch.equal(h, network.down(images))
    assert torch.equal(denoise.candidate(network, images, None)[1], images)
    found = denoise.refine(network, dae, images, 0.02, at="down", steps=5).trajectory
    exactly = [copy.deepcopy(each).float() for each in (network, dae)]
    expected = denoise.refine(*exactly, images.float(), 0.02, at="down", steps=5).trajectory
    assert found.dtype == torch.float32
    moved, exact = (each.diff(dim=0).flatten(2) for each in (found, expected))  # by a fiftieth, in float32 each time
    assert torch.cosine_similarity(moved, exact, 2).min() > 0.95


def test_an_empty_batch_stays_empty():
    found = denoise.refine(Segmenter(), small(), torch.rand(0, 3, 24, 20), 0.5, at="down", steps=4)
    assert [each.shape for each in found] == [(5, 0, 3, 24, 20), (0,), (4, 0)]
    found = iterative_inference(shift, torch.zeros(0, 2), 0.5, steps=4)
    assert [each.shape for each in found] == [(5, 0, 2), (0,), (4, 0)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_inference_on_cuda():
    y, h = pair()
    with torch.no_grad():
        here = iterative_inference(denoise.given(small(), h), y, 0.5, steps=3)
        there = iterative_inference(denoise.given(small().cuda(), h.cuda()), y.cuda(), 0.5, steps=3)
    assert torch.allclose(here.trajectory, there.trajectory.cpu(), atol=1e-4)
