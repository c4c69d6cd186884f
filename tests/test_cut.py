"""Cutting a model and leaving it alone: what symbolic tracing gets wrong, other threads, random numbers, interrupts."""

import math
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_perturb import Wired, close, pictures, skips, state, untouched, uphill
from torch import Tensor, nn
from torch.nn.functional import dropout
from torchvision.transforms import v2

from gpcore import guide, sweep
from gpcore.checks import logits_of
from gpcore.cut import Cut


@pytest.fixture(autouse=True)
def _seeded_and_on_one_core(one_core: None) -> None:
    torch.manual_seed(0)


def layers() -> dict[str, nn.Module]:
    last = nn.Conv2d(5, 4, 3, padding=1)
    return {"stem": nn.Conv2d(3, 5, 3, padding=1), "mid": nn.Sequential(nn.Conv2d(5, 5, 1), nn.Tanh()), "last": last}


def chain(m: Any, x: Tensor) -> Tensor:
    return m.last(m.mid(m.stem(x)))


def refuses_numbers(x: Tensor) -> Tensor:
    if x.isnan().any():
        raise ArithmeticError
    return x


def tries(m: Any, x: Tensor) -> Tensor:
    try:
        return chain(m, refuses_numbers(x * torch.tensor([float("nan")])))
    except ArithmeticError:
        return chain(m, 2 * x)


def in_bfloat16(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        h = m.stem(x)
    return m.last(m.mid(h.to(x)))


def half_without_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.stem(x)
    return m.last(m.mid(h))


def unrolled(m: Any, x: Tensor) -> Tensor:
    first, second = m.stem(x).split([2, 3], 1)
    return m.last(m.mid(torch.cat([torch.stack([*first]), second], 1)))


def pops(m: Any, x: Tensor) -> Tensor:
    numbers = x.mean((0, 2, 3)).tolist()
    return chain(m, x * numbers.pop())


WIRINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "isinstance": lambda m, x: chain(m, 3 * x if isinstance(x, Tensor) else x),
    "is_tensor": lambda m, x: chain(m, 3 * x if torch.is_tensor(x) else x),
    "type": lambda m, x: chain(m, 3 * x if type(x) is Tensor else x),
    "hasattr": lambda m, x: chain(m, 3 * x if hasattr(x, "device") else x),
    "values": lambda m, x: chain(m, 3 * x if x.sum() > 1 else x),
    "try": tries,
    "autocast": in_bfloat16,
    "no_grad": half_without_gradients,
    "unrolled": unrolled,
    "pops": pops,
}


def networks() -> Iterator[tuple[str, nn.Module, str]]:
    for name, wiring in WIRINGS.items():
        yield name, Wired(wiring, **layers()), "mid"
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    for transform in (v2.Normalize(mean, std), v2.Resize([8, 10]), v2.GaussianBlur(3, 1.0)):
        yield type(transform).__name__, nn.Sequential(transform, *layers().values()), "2"
    model = Wired(chain, **layers())
    model.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0] - 1,))
    model.register_forward_hook(lambda *args: 3 * args[2])
    yield "hooks on the root", model, "mid"


def by_hand(model: nn.Module, at: str, images: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What a module returns, and the whole model with something else in its place."""
    module, seen = model.get_submodule(at), list[Tensor]()

    def rest(place: Tensor) -> Tensor:
        with module.register_forward_hook(lambda *_: place.clone()):
            return logits_of(model(images))

    with module.register_forward_hook(lambda *args: seen.append(args[2].detach().clone())):
        model(images)
    return seen[0], rest


@pytest.mark.parametrize(("model", "at"), [pytest.param(*rest, id=name) for name, *rest in networks()])
def test_the_caller_s_own_model_predicts(model: nn.Module, at: str) -> None:
    model, images = model.double().eval(), pictures()
    with untouched(model):
        out = guide(model, images, 0.05, at=at)
    place, rest = by_hand(model, at, images)
    assert torch.equal(out.before, model(images).detach())
    assert not out.repeated
    close(out.signal, uphill(rest, place))
    close((out.images, out.after), (place + 0.05 * out.signal.sign(), rest(out.images).detach()))
    assert out.signal.any()


def test_what_a_model_keeps_for_itself_is_its_own_activations() -> None:
    def keeping(m: Any, x: Tensor) -> Tensor:
        m.feature = m.stem(x)
        return m.last(m.mid(m.feature))

    model, images, seen = Wired(keeping, **layers()).double().eval(), pictures(), dict[str, Tensor]()
    model.stem.register_forward_hook(lambda *args: seen.update(stem=args[2]))
    model.last.register_forward_hook(lambda *args: seen.update(last=args[2]))
    out = guide(model, images, 0.05, at="mid")
    assert {type(kept) for kept in (model.feature, *seen.values())} == {Tensor}
    close((model.feature, seen["stem"], seen["last"]), (model.stem(images), model.stem(images), out.after))


CHANGES = ["another branch", "one call more", "one call fewer", "an error caught", "another error", "in place later"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("since", [2, 3])
def test_a_model_that_changes_its_mind_is_run_as_a_whole(change: str, since: int) -> None:
    """Whatever is called before the cut since a given pass, results are those of running everything."""
    calls = list[None]()

    def wiring(m: Any, x: Tensor) -> Tensor:
        calls.append(None)
        x, late = m.stem(x) + 0, len(calls) >= since
        if change == "another branch":
            x = x.sub(0) if late else x.add(0)
        elif change in CHANGES[3:5] and late:
            try:
                x.neg()
            except LookupError as error:
                if change == "another error":
                    raise RuntimeError from error
        elif change in CHANGES[1:3] and late == (change == "one call more"):
            x = x + 0
        h = m.mid(x)
        if change == "in place later" and late:
            x.add_(0)
        return m.last(h + x)

    model, images = Wired(wiring, **layers()).double().eval(), pictures()
    out = guide(model, images, 0.05, at="mid")
    assert out.repeated
    calls.clear()
    place, rest = by_hand(model, "mid", images)
    close(out.signal, uphill(rest, place))
    close((out.before, out.after), (model(images).detach(), rest(out.images).detach()))


def test_an_answer_that_is_read_behind_one_s_back_is_refused() -> None:
    def wiring(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        a = m.act(h).add_(m.much)  # in place, so that h changes as well
        return m.last(h) + m.last(a)

    model, images = Wired(wiring, act=nn.ReLU(inplace=True), **layers()).double().eval(), pictures()
    for model.much in (0.3, 1):
        with untouched(model), pytest.raises(ValueError, match=r"at: the logits change by .* when 'act' gives its own"):
            guide(model, images, 0.05, at="act")
    model.much = 1e-4  # as little as rounding may change elsewhere
    out, (place, rest) = guide(model, images, 0.05, at="act"), by_hand(model, "act", images)
    assert out.repeated
    assert torch.equal(out.before, model(images).detach())
    assert not torch.equal(out.before, rest(place))
    close(out.signal, uphill(rest, place), 1e-4)
    close((out.images, out.after), (place + 0.05 * out.signal.sign(), rest(out.images).detach()))


def test_nothing_reaches_a_layer_that_runs_without_gradients() -> None:
    def wiring(m: Any, x: Tensor) -> Tensor:
        stem = m.stem(x)
        with torch.no_grad():
            h = m.mid(stem)
        return m.last(h)

    with pytest.raises(ValueError, match="at: the output does not depend on 'mid'"):
        guide(Wired(wiring, **layers()).double().eval(), pictures(), 0.05, at="mid")


def test_tuples_cannot_be_perturbed() -> None:
    model = Wired(lambda m, x: m.last(m.two(x)[0]), two=Wired(lambda m, x: (x, x)), last=nn.Conv2d(3, 4, 1)).double()
    with untouched(model), pytest.raises(ValueError, match="at: got 'two', which returns tuple, expected a tensor"):
        guide(model, pictures(), 0.05, at="two")


@pytest.mark.parametrize("at", [None, "mid"])
def test_inference_mode(at: str | None) -> None:
    model, images = Wired(chain, **layers()).double().eval(), pictures()
    expected = guide(model, images, 0.05, at=at)
    with torch.inference_mode():
        made, inside = images.clone(), guide(model, images, 0.05, at=at)
        assert torch.is_inference_mode_enabled()
    for found in (inside, guide(model, made, 0.05, at=at)):
        assert torch.equal(found.signal, expected.signal) and torch.equal(found.after, expected.after)
        assert not found.images.is_inference()


def test_what_nobody_needs_after_the_cut_is_not_kept() -> None:
    model, kept = skips(), dict[str, Any]()
    for name in ("stem", "mid.0"):
        model.get_submodule(name).register_forward_hook(
            lambda *args, name=name: kept.update({name: weakref.ref(args[2])})
        )
    cut = Cut(model, pictures(), "mid")
    assert kept["mid.0"]() is None
    held = [tensor.untyped_storage().nbytes() for _, tensor in cut.tape.calls if isinstance(tensor, Tensor)]
    assert sorted(held)[-3:] == [960, 1600, 1600]  # the images, the stem's tanh and what mid returned
    assert sorted(held)[-4] <= 8


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "at: got 0, expected the name of a module, such as 'stem'"),
        ("0", "at: '0' may be any of mid.0, side.0"),
        ("", "at: the model has no module ''"),
        ("id", "at: the model has no module 'id'; close names: mid"),
        ("side", "depend on .*'side'"),
    ],
)
def test_names_that_do_not_fit(at: Any, message: str) -> None:
    side = nn.Sequential(nn.Tanh())
    with pytest.raises(ValueError, match=message):
        guide(Wired(chain, **layers(), side=side).double(), pictures(), 0.05, at=at)


def test_the_end_of_a_name_is_enough() -> None:
    inner, images = Wired(chain, **layers()), pictures()
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": inner})}).double().eval()
    model.forward = inner.forward  # type: ignore[method-assign]
    inner.alias = inner.mid
    expected = guide(model, images, 0.05, at="backbone.body.mid.1")
    for end in ("body.mid.1", "mid.1", "alias.1"):
        assert torch.equal(guide(model, images, 0.05, at=end).after, expected.after)
    assert torch.equal(guide(model, images, 0.05, at="mid").after, expected.after)  # not one of those that contain it


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_and_scripted_models_cannot_be_cut() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh()).eval()
    in_place = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh()).eval()
    in_place.compile(backend="eager")
    for model in (torch.jit.script(plain), torch.compile(plain, backend="eager"), in_place):
        with pytest.raises(ValueError, match=r"at: the model is compiled or scripted.*original"):
            guide(model, pictures().float(), 0.05, at="0")
    scripted = guide(torch.jit.script(plain), pictures().float(), 0.05)
    close(scripted.after, guide(plain, pictures().float(), 0.05).after, 1e-6)


def watching(model: nn.Module) -> list[bool]:
    """Whether, whenever a module runs, everything stands in the model as it stands now."""
    seen = list[bool]()

    def look() -> list[Any]:
        return [[m.training, len(m._forward_pre_hooks)] for m in model.modules()] + [
            [p.requires_grad, p.grad is None] for p in model.parameters()
        ]

    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: seen.append(look() == expected))
    expected = look()
    return seen


@pytest.mark.parametrize("at", [None, "mid"])
def test_nothing_changes_even_for_a_moment(at: str | None) -> None:
    model = skips()
    model.head.weight.requires_grad_(False)
    seen = watching(model)
    guide(model, pictures(), 0.05, at=at, steps=2)
    list(sweep(model, pictures(), [0.1, 0.2], at=at))
    assert len(seen) > 20
    assert all(seen)


@pytest.mark.parametrize("at", [None, "mid"])
def test_threads_may_share_a_model(at: str | None) -> None:
    """Eight of them, beside one that runs another model and one that trains with this one's parameters."""
    model, other, batches = skips(), skips(), [pictures(2, seed) for seed in range(40)]
    expected, alone = [guide(model, x, 0.05, at=at) for x in batches], other(batches[0])
    done, faults = threading.Event(), list[str]()

    def beside() -> None:
        while not done.is_set():
            if not torch.equal(other(batches[0]), alone):
                faults.append("another model answers something else")
            if any(g is None for g in torch.autograd.grad(model(batches[0]).sum(), [*model.parameters()])):
                faults.append("a parameter has no gradient")

    watcher = threading.Thread(target=beside)
    with untouched(model):
        watcher.start()
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda x: guide(model, x, 0.05, at=at), batches)]
        done.set()
        watcher.join()
    assert not faults
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("before", "after", "signal"))


@pytest.mark.parametrize("at", [None, "mid"])
def test_numbers_that_another_thread_draws_are_left_alone(at: str | None) -> None:
    drawn = list[float]()

    def elsewhere(*_: Any) -> None:
        thread = threading.Thread(target=lambda: drawn.append(torch.rand(()).item()))
        thread.start()
        thread.join()

    model = skips()
    model.head.register_forward_hook(elsewhere)
    torch.manual_seed(7)
    guide(model, pictures(), 0.05, at=at, steps=2)
    torch.manual_seed(7)
    assert drawn == [torch.rand(()).item() for _ in drawn]
    assert len(drawn) >= 3


@pytest.mark.parametrize(("at", "repeated"), [(None, False), ("stem", False), ("mid", False), ("mid", True)])
def test_numbers_drawn_in_evaluation_mode_are_the_same_in_every_pass(at: str | None, repeated: bool) -> None:
    def noisy(m: Any, x: Tensor) -> Tensor:
        h = m.stem(dropout(x, 0.3))
        z = m.mid(h + torch.randn_like(h))
        if repeated:
            h.add_(0)
        return m.last(z + dropout(h, 0.3))

    model, images = Wired(noisy, **layers()).double().eval(), pictures()
    with untouched(model):
        out = guide(model, images, 0.0, at=at, steps=2)
        swept = [logits for _, logits in sweep(model, images, [0.0, 0.0], at=at)]
    expected = model(images).detach()
    close([*out.trajectory, *swept], [expected] * 5)
    assert out.repeated is repeated
    assert not torch.allclose(model(images), expected)


def test_running_statistics_are_put_back_in_place() -> None:
    norm = nn.BatchNorm2d(5)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), norm, nn.Conv2d(5, 4, 1)).double()
    mean, before = norm.running_mean, norm.running_mean.clone()
    guide(model, pictures(), 0.05)
    guide(model, pictures(), 0.05, at="1")
    assert norm.running_mean is mean
    assert torch.equal(mean, before)
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("at", [None, "2"])
def test_interrupts_leave_the_model_as_found(at: str | None) -> None:
    """400 at random moments of a guided step, for each place."""
    halves = [m for c in (3, 6) for m in (nn.Conv2d(c, 6, 1), nn.BatchNorm2d(6), nn.Dropout())]
    model, images = nn.Sequential(*halves, nn.Conv2d(6, 4, 1)), pictures(1).float()
    found, chance = state(model), random.Random(0)

    def run() -> None:
        guide(model, images, 0.1, at=at)

    def modes() -> tuple[int, int]:
        return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()

    run()
    start = time.perf_counter()
    run()
    longest = time.perf_counter() - start
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(400):
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, longest))
                while True:
                    run()
            assert modes() == (0, 0)
            now = state(model)
            assert now[0] == found[0] and now[2] == found[2] and now[4:] == found[4:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: {"logits": z},
        lambda z: {"loss": None, "logits": z},
        lambda z: {"out": z, "logits": None},
        lambda z: SimpleNamespace(logits=z),
        lambda z: (z, None),
        lambda z: [z],
    ],
)
@pytest.mark.parametrize("at", [None, "mid"])
def test_other_ways_to_return_logits(wrap: Callable[[Tensor], Any], at: str | None) -> None:
    model, images = Wired(chain, **layers()).double().eval(), pictures()
    expected = guide(model, images, 0.05, at=at)
    model.wiring = lambda m, x: wrap(chain(m, x))
    out = guide(model, images, 0.05, at=at)
    assert type(out.output) is type(wrap(images))
    assert torch.equal(out.after, expected.after)
    assert not torch.equal(out.after, out.before)


def test_one_channel_is_binary() -> None:
    """The signal at z is label - sigmoid(z), as of binary cross-entropy."""
    model, images = nn.Conv2d(3, 1, 1).double(), pictures()
    z = model(images).detach()
    out = guide(model, images, 0.05)
    close(out.signal, ((z > 0).double() - z.sigmoid()) * model.weight.detach().view(1, 3, 1, 1))
    close(out.before, torch.cat([0 * z, z], 1))
    assert out.output.shape == z.shape
    assert ((out.output - z) * (2 * (z > 0) - 1) > 0).all()
    labels = torch.randint(2, (2, 4, 5)).masked_fill(torch.rand(2, 4, 5) < 0.3, 255)
    wanted = (labels.unsqueeze(1) - z.sigmoid()) * (labels != 255).unsqueeze(1)
    close(guide(model, images, 0.05, labels=labels).signal, wanted * model.weight.detach().view(1, 3, 1, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    logits = torch.zeros(2, 3, 4, 5)
    logits[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="model: got logits with NaN or infinite values, expected finite ones"):
        logits_of(logits)


def test_logits_as_large_as_they_get_are_finite() -> None:
    """Such as where a model masks a class: their sum is infinite."""
    logits = torch.zeros(2, 3, 4, 5).index_fill(1, torch.tensor([1]), torch.finfo(torch.float32).min)
    assert logits_of(logits) is logits


def test_functions_are_no_models() -> None:
    with pytest.raises(ValueError, match=r"model: got a function, expected an nn\.Module"):
        guide(lambda x: x, pictures(), 0.05)  # type: ignore[arg-type]
