"""Test-time augmentation and Tent against loops and averages written by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.testing import assert_close

from gpcore.adapt import VIEWS, Tent, View, augmented


class By(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


def pictures(batch: int = 2, height: int = 12, width: int = 15, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()


def pointwise(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv2d(3, 4, 1).double().requires_grad_(False)


def normed(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5), nn.Conv2d(6, classes, 1))
    model[1].weight.data.uniform_(0.5, 2)
    model[1].running_mean.uniform_()
    return model.double().eval()


def state(model: nn.Module) -> Any:
    return copy.deepcopy(
        (
            [(n, t.tolist()) for n, t in model.state_dict().items()],
            [(p.requires_grad, str(p.grad)) for p in model.parameters()],
            [(m.training, sorted(vars(m))) for m in model.modules()],
            torch.get_rng_state().tolist(),
        )
    )


def close(ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    assert_close(ours, theirs, atol=tolerance, rtol=0)


def entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(1)).sum(1).mean()


def test_a_model_that_turns_with_the_image_gains_nothing_by_a_flip() -> None:
    model, images = pointwise(), pictures()
    close(augmented(model, images, "flip"), model(images).log_softmax(1))


def test_flip_is_the_average_by_hand() -> None:
    # two pixels, whose log-odds are (a, 2 b) as seen from the left
    model = By(lambda x: torch.cat([x * torch.tensor([1.0, 2]), torch.zeros_like(x)], 1))
    out = augmented(model, torch.tensor([[[[math.log(3), math.log(2)]]]]), "flip")
    first = (3 / 4 + 9 / 10) / 2  # log-odds log 3 once, 2 log 3 where it stands on the right
    second = (4 / 5 + 2 / 3) / 2
    close(out[0, :, 0].exp(), torch.tensor([[first, second], [1 - first, 1 - second]]))
    classify = By(lambda x: torch.cat([x[..., 0, 0], torch.zeros(1, 1)], 1))
    left = (3 / 4 + 1 / 2) / 2  # logits (log 3, 0), then (0, 0)
    out = augmented(classify, torch.tensor([[[[math.log(3), 0]]]]), "flip")
    close(out.exp(), torch.tensor([[left, 1 - left]]))


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("flip", [(12, 15, 6, 5), (12, 15, 6, 9)]),
        ("scale", [(12, 15, 6, 5), (10, 12, 5, 4), (15, 19, 8, 6)]),
        ("shift", [(12, 15, 6, 5), (12, 15, 10, 9), (12, 15, 2, 1)]),
    ],
)
def test_what_the_named_views_show(views: str, expected: list[tuple[int, ...]]) -> None:
    seen: list[tuple[int, ...]] = []  # size, and where a bright pixel went

    def look(x: Tensor) -> Tensor:
        seen.append((*x.shape[2:], *divmod(int(x.argmax()), x.shape[-1])))
        return x.expand(-1, 2, -1, -1)

    image = torch.zeros(1, 1, 12, 15)
    image[..., 6, 5] = 1
    augmented(By(look), image, views)
    assert seen == expected


@pytest.mark.parametrize("views", VIEWS)
def test_a_constant_image_stays(views: str) -> None:
    model, images = pointwise(), torch.rand(2, 3, 1, 1).double().expand(2, 3, 12, 15)
    close(augmented(model, images, views), model(images).log_softmax(1))


def test_scale_is_the_average_by_hand() -> None:
    model, images = nn.Conv2d(3, 4, 3, padding=1).double().requires_grad_(False), pictures(height=10, width=20)
    seen = [model(images).softmax(1)]
    for size in ((8, 16), (12, 25)):  # 12.5 rounds to the even 12
        logits = model(interpolate(images, size, mode="bilinear", align_corners=False))
        seen.append(interpolate(logits, (10, 20), mode="bilinear", align_corners=False).softmax(1))
    close(augmented(model, images, "scale"), (sum(seen) / 3).log())
    strided = nn.Sequential(model, nn.MaxPool2d(2))  # half-sized logits
    assert augmented(strided, images, "scale").shape == (2, 4, 5, 10)
    assert augmented(strided, images, "flip").shape == (2, 4, 5, 10)


def test_shift_moves_right_and_down_and_back() -> None:
    ramp = torch.arange(30.0).view(1, 1, 5, 6)
    moved = View(shift=2).apply(ramp)
    assert torch.equal(moved[..., 2:, 2:], ramp[..., :3, :4])
    assert moved[0, 0, 2].tolist() == [2, 1, 0, 1, 2, 3]  # reflected
    assert torch.equal(View(shift=-2).apply(ramp)[..., :3, :4], ramp[..., 2:, 2:])
    model, images = pointwise(), pictures()
    # where a view does not see a pixel it is left out, so borders agree as well
    for views in ("shift", (View(), View(shift=3, flip=True), View(shift=-5))):
        close(augmented(model, images, views), model(images).log_softmax(1))
    # reads its row: a pixel of row r reads r, and r + 1 in the moved view that sees rows 0 to 3
    rows = By(lambda x: torch.cat([torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 6), torch.zeros(1, 1, 5, 6)], 1))
    y = torch.arange(6.0).sigmoid()
    expected = torch.tensor([*((y[:4] + y[1:5]) / 2), y[4]])
    out = augmented(rows, ramp, (View(), View(shift=1)))[0, 0].exp()
    close(out[:, :5], expected[:, None].expand(5, 5))
    close(out[:, 5], y[:5])  # the last column moved out
    classify = By(lambda x: torch.cat([x[..., 2, 2], torch.zeros(1, 1)], 1))  # reads 14, then 7
    out = augmented(classify, ramp / 10, (View(), View(shift=1)))
    close(out[0, 0].exp(), (torch.tensor(1.4).sigmoid() + torch.tensor(0.7).sigmoid()) / 2)


def test_views_combine_and_may_be_far_apart() -> None:
    model, images = pointwise(), torch.rand(2, 3, 1, 1).double().expand(2, 3, 12, 15)
    views = (View(), View(shift=2, flip=True, scale=1.5), View(scale=0.01))
    close(augmented(model, images, views), model(images).log_softmax(1))
    far = By(lambda x: torch.cat([500 * x, -500 * x], 1))
    out = augmented(far, torch.tensor([[[[1.0, 1.0]]]]), "flip")
    close(out[0, :, 0], torch.tensor([[0.0, 0], [-1000, -1000]]))


@pytest.mark.parametrize("training", [True, False])
def test_augmented_leaves_the_model_and_takes_what_guide_takes(training: bool) -> None:
    model, images = normed().train(training), pictures()
    found = state(model)
    out = augmented(model, images, "flip")
    assert state(model) == found
    assert not out.requires_grad
    named = By(lambda x: {"out": x.add_(1), "aux": x})  # in place
    close(augmented(named, images, "flip"), (images + 1).log_softmax(1))
    assert torch.equal(images, pictures())


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ("mirror", "views.*mirror.*flip"),
        ((), "views.*first"),
        ((View(flip=True),), "views.*flip=True.*first"),
        ((View(), View(scale=0)), "views.*scale=0.*scale finite and > 0"),
        ((View(), View(scale=math.inf)), "views.*scale=inf"),
        ((View(), View(shift=-12)), r"views.*12.*12\D+15"),
    ],
)
def test_mistaken_views_are_named(views: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmented(pointwise(), pictures(), views)


def test_a_shift_needs_logits_of_the_images_size() -> None:
    with pytest.raises(ValueError, match=r"views.*shift.*6\D+7"):
        augmented(nn.Sequential(pointwise(), nn.MaxPool2d(2)), pictures(), "shift")


@pytest.mark.parametrize("head", ["segment", "classify"])
def test_tent_is_the_loop_by_hand(head: str) -> None:
    model = normed(3)
    rest: Any = model[4] if head == "segment" else nn.Sequential(model[4], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tent = Tent(nn.Sequential(*model[:4], rest).eval(), rate=0.05)
    scale, shift = (p.detach().clone().requires_grad_() for p in (model[1].weight, model[1].bias))
    adam = torch.optim.Adam([scale, shift], 0.05)
    for seed in range(3):
        images = pictures(3, seed=seed)
        x = model[0](images)
        centred = x - x.mean((0, 2, 3), keepdim=True)
        unit = centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        logits = rest((unit * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).tanh())
        answer = tent(images)
        close(answer, logits.detach())
        assert not answer.requires_grad
        adam.zero_grad()
        entropy(logits).backward()
        adam.step()
    close(tent.affine, [scale, shift])
    assert not torch.allclose(scale, model[1].weight, atol=0.05)
    assert {n for n, p in tent.named_parameters() if p.requires_grad} == {"model.1.weight", "model.1.bias"}


def test_entropy_of_a_repeated_batch_falls() -> None:
    tent, images = Tent(normed(), rate=0.05), pictures()
    with torch.no_grad():  # as in an evaluation
        falling = [entropy(tent(images)).item() for _ in range(8)]
    with torch.inference_mode():
        falling.append(entropy(tent(images)).item())
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < falling[0] - 0.01


def test_rate_zero_is_normalisation_by_the_test_batch() -> None:
    model, images = normed(), pictures()
    tent = Tent(model, rate=0)
    expected = copy.deepcopy(model)
    expected[1].train()
    tent.model.register_forward_hook(lambda *_: pytest.fail("keeps a graph") if torch.is_grad_enabled() else None)
    for seed in (0, 1, 0):
        images = pictures(seed=seed)
        close(tent(images), expected(images).detach(), 1e-12)
    assert not torch.allclose(tent(images), model(images))
    assert Tent(model).optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_model_is_untouched_and_reset_forgets(training: bool) -> None:
    model, images = normed().train(training), pictures()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    found = state(model)
    tent = Tent(model, rate=0.1)
    start = state(tent.model)
    answers = [tent(images) for _ in range(3)]
    assert state(model) == found
    assert not torch.equal(answers[0], answers[1])
    tent.reset()
    assert [n for n, _ in state(tent.model)[0]] == [n for n, _ in start[0]]
    assert state(tent.model)[0] == start[0]
    close([tent(images) for _ in range(3)], answers, 1e-12)  # Adam's moments are forgotten, too


def test_tent_reads_the_named_output_and_skips_layers_it_does_not_reach() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = normed(0), normed(1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.main(x), "aux": self.aux(x)}

    model, images = Two(), pictures()
    model.eval()
    tent, single = Tent(model, rate=0.1), Tent(model.main, rate=0.1)
    answers = [single(images) for _ in range(2)]
    close([tent(images) for _ in range(2)], answers, 1e-12)
    assert torch.equal(tent.model.aux[1].weight, model.aux[1].weight)
    in_place = Tent(nn.Sequential(By(lambda x: x.sub_(1)), model.main), rate=0.1)
    close([in_place(images + 1) for _ in range(2)], answers)
    in_place(images.requires_grad_())
    assert torch.equal(images, pictures())
    assert images.grad is None


@pytest.mark.parametrize(
    ("model", "rate", "message"),
    [
        (pointwise(), 0.1, "model.*no batch-norm layer with scale and shift"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), 0.1, "model.*scale and shift"),
        (normed(), -0.1, r"rate.*-0\.1"),
        (normed(), math.nan, "rate: got nan"),
        (normed(), math.inf, "rate.*inf"),
    ],
)
def test_what_tent_cannot_adapt(model: nn.Module, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tent(model, rate=rate)


def test_a_turn_is_against_the_clock_and_its_inverse_exact() -> None:
    """A bright pixel right of the middle goes up; a slope, where bilinear sampling is exact, comes back as it was."""
    spot = torch.zeros(1, 1, 41, 61)
    spot[..., 20, 50] = 1
    assert divmod(int(View(turn=30).apply(spot).argmax()), 61) == (10, 47)  # 20 sin 30, 20 cos 30 from (20, 30)
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    slope = (0.3 * rows - 0.2 * columns).double().expand(1, 1, 40, 60)
    for degrees in (10.0, -25.0, 90.0):
        view = View(turn=degrees)
        back = view.undo(torch.cat([view.apply(slope), torch.zeros_like(slope)], 1), (40, 60))
        log_odds, seen = back[:, :1] - back[:, 1:], back[:, :1].isfinite()
        inside = seen.clone()
        inside[..., [0, 1, -2, -1], :] = inside[..., [0, 1, -2, -1]] = False  # neighbours there came from outside
        close(log_odds[inside], slope[inside])
        middle = torch.hypot(rows - 19.5, columns - 29.5) < 19
        assert seen[0, 0][middle].all() and not seen.all()


def test_a_turn_of_the_logits_alone_is_left_out_where_it_saw_nothing() -> None:
    model, images = pointwise(), torch.rand(2, 3, 1, 1).double().expand(2, 3, 12, 15)
    views = (View(), View(turn=20, flip=True), View(turn=-45, scale=1.3))
    close(augmented(model, images, views), model(images).log_softmax(1))


def test_views_are_undone_in_the_reverse_of_the_order_in_which_they_apply() -> None:
    """Moved, mirrored, turned and rescaled, a slope comes back in place."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    slope = (0.3 * rows - 0.2 * columns).double().expand(1, 1, 40, 60)
    view = View(shift=3, flip=True, turn=15, scale=2)
    seen = view.apply(slope)
    back = view.undo(torch.cat([seen, torch.zeros_like(seen)], 1), (40, 60))
    log_odds, inside = back[:, :1] - back[:, 1:], torch.hypot(rows - 19.5, columns - 29.5) < 14
    close(log_odds[0, 0][inside], slope[0, 0][inside], 1e-3)


def test_scales_have_exact_inverses() -> None:
    """Of a slope, but for the pixels whose neighbours are the image's border."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    slope = (0.3 * rows - 0.2 * columns).double().expand(1, 1, 40, 60)
    for scale in (0.8, 1.25, 2):
        view = View(scale=scale)
        seen = view.apply(slope)
        back = view.undo(torch.cat([seen, torch.zeros_like(seen)], 1), (40, 60))
        close((back[:, :1] - back[:, 1:])[..., 2:-2, 2:-2], slope[..., 2:-2, 2:-2])
