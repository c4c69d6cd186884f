"""Cut a model at a module, so that only what comes after it runs again.

While the caller's model predicts, what every torch function before the module returns is noted; later passes get that
back instead of computing it. Nothing is traced or patched, and no other thread takes part.
"""

import contextlib
import difflib
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn, overrides
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from gpcore.checks import expect, logits_of, single
from gpcore.untouched import hooked

Rest = Callable[[Tensor], Any]  # from the tensor at the cut to the model's output
R = TypeVar("R")


class Cut:
    """A model cut at its images, or at the module `at`: called with a tensor there, it returns the model's output.

    `place` is the tensor there for the images, in single precision or better; with `at`, `output` is what the caller's
    own model answers. The first call, which has to be for `place`, tells whether what follows `at`, run alone, gives
    the same logits to the bit; if not, `repeated` is True from then on, and every call runs the whole model. All passes
    draw the same random numbers, and the global generators are left as found. Lives under `untouched`.
    Raises ValueError: not one module of that name, or one that is not called once, returns no tensor, or changes the
    logits when its own answer is put in its place.
    """

    def __init__(self, model: nn.Module, images: Tensor, at: str | None = None) -> None:
        self.model, self.images, self.at = model, images.clone() if images.is_inference() else images.detach(), at
        self.place, self.dtype, self.output = single(self.images), images.dtype, None
        self.start = self.random = _random_state()  # from where passes draw, and from where what follows `at` does
        self.draws = any(module.training for module in model.modules())  # perhaps; else the first pass tells
        self.tape = _Tape()
        if at is not None:
            self.module = _find(model, at)
            self._record(at)
            self.expected: Tensor | None = logits_of(self.output)

    @property
    def repeated(self) -> bool:
        return self.at is not None and not self.tape.intact()

    def __call__(self, place: Tensor) -> Any:
        if self.at is None:  # the model may work in place
            return self._pass(lambda: self.model(place.to(self.dtype, copy=True)), self.start)
        expected, self.expected = self.expected, None
        if self.tape.intact():
            output = self._play(place)
            if self.tape.intact() and (expected is None or torch.equal(expected, logits_of(output).detach())):
                return output
            self.tape.broken = True
        output = self._pass(lambda: self._hooked(lambda _: place.to(self.dtype, copy=True)), self.start)
        if expected is not None:
            off = (logits_of(output).detach() - expected).abs().max()
            if not off <= 0.01 * expected.abs().max():
                raise ValueError(f"at: the logits change by {off:.3g} when {self.at!r} gives its own answer again")
        return output

    def _record(self, at: str) -> None:
        """Runs the caller's model as it is, and keeps its output, `place` and where the random numbers are there."""
        seen: list[Any] = []

        def see(output: Any) -> None:
            seen.append(output)
            if len(seen) == 1 and isinstance(output, Tensor):
                self.tape.stopped = True
                self.place, self.dtype, self.random = output.detach().clone(), output.dtype, _random_state()
                self.tape.keep(output, self.place)

        def run() -> Any:
            seen.clear()
            self.tape = _Tape()
            with torch.no_grad(), self.tape:
                return self._hooked(see)

        self.output = self._pass(run, self.start)
        if len(seen) != 1:
            found = f"called {len(seen)} times" if seen else "never called"
            raise ValueError(f"at: the output does not depend on one call of {at!r}, it is {found}")
        expect("at", f"{at!r}, which returns {type(seen[0]).__name__}", isinstance(seen[0], Tensor), "a tensor")
        self.place = single(self.place)

    def _play(self, place: Tensor) -> Any:
        """Runs what follows `at`. Where the model now calls something else before, the tape is not intact."""

        def reached(_: Any) -> Tensor:
            self.tape.stopped = True
            return place.to(self.dtype, copy=True)

        def run() -> Any:
            self.tape.position, self.tape.stopped = 0, False
            with self.tape:
                return self._hooked(reached)

        try:
            return self._pass(run, self.random)
        except Exception:
            if self.tape.intact():
                raise
            return None

    def _hooked(self, function: Callable[[Any], Any]) -> Any:
        with hooked(self.module, function):
            return self.model(self.images.clone())

    def _pass(self, run: Callable[[], R], state: list[Tensor]) -> R:
        """`run()`; should it draw random numbers, then from `state` on."""
        found = _random_state()
        if not self.draws:
            output = run()
            if all(map(torch.equal, found, _random_state())):
                return output
            self.draws = True  # this thread or another one drew: another pass, watched, tells
        watch = _Redraw(state)
        try:
            with watch:
                return run()
        finally:
            if watch.drew:
                _set_random_state(found)


class _Tape(overrides.TorchFunctionMode):
    """Notes what torch functions return, and returns it later in their place; in both cases until it is `stopped`.

    What nobody holds at the cut is not kept: zeros that take no memory stand for it, which only functions that are
    played themselves are given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any]] = []
        self.position: int | None = None  # of the next call, once they are noted
        self.versions: list[tuple[Tensor, int]] = []
        self.stopped = self.broken = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stopped or func is torch._C._set_grad_enabled:
            return func(*args, **(kwargs or {}))
        if self.position is None:
            result = func(*args, **(kwargs or {}))
            self.calls.append((func, tree_map_only(Tensor, _Noted, result)))
            return result
        noted, result = self.calls[self.position] if self.position < len(self.calls) else (None, None)
        if noted != func:
            self.broken = True
            raise LookupError(f"{func} was not called here the first time")
        self.position += 1
        return tree_map(lambda leaf: leaf, result)  # a list of its own

    def __exit__(self, *raised: Any) -> None:
        if overrides._get_current_function_mode() is self:  # torch loses it where Ctrl-C comes in an unlucky moment
            super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def keep(self, output: Tensor, copy: Tensor) -> None:
        """Keeps what is alive of the noted; instead of the module's own output, which may change, a copy."""

        def kept(noted: _Noted) -> Tensor:
            tensor = noted.alive()
            if tensor is None:
                return noted.zeros
            tensor = copy if tensor is output else tensor
            self.versions.append((tensor, tensor._version))
            return tensor

        self.calls = [(func, tree_map_only(_Noted, kept, result)) for func, result in self.calls]

    def intact(self) -> bool:
        """Whether the last pass came to the cut by all of the calls, and nothing that is kept has changed since."""
        complete = self.stopped and self.position in (None, len(self.calls)) and not self.broken
        return complete and all(tensor._version == version for tensor, version in self.versions)


class _Noted:
    def __init__(self, tensor: Tensor) -> None:
        self.alive = weakref.ref(tensor)
        self.zeros = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


class _Redraw(TorchDispatchMode):
    """Sets a random state just before this thread draws from a global generator for the first time."""

    def __init__(self, state: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state, self.drew = state, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.drew and torch.Tag.nondeterministic_seeded in func.tags:
            self.drew = True
            _set_random_state(self.state)
        return func(*args, **(kwargs or {}))


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


def _find(model: nn.Module, at: str) -> nn.Module:
    """The module of that name, or the only one whose name ends so."""
    for m in model.modules():
        if hasattr(m, "_orig_mod") or m._compiled_call_impl is not None or isinstance(m, torch.jit.ScriptModule):
            raise ValueError("at: the model is compiled or scripted, its modules are not called; give the original one")
    modules: dict[str, nn.Module] = {name: m for name, m in model.named_modules(remove_duplicate=False) if name}
    expect("at", at, isinstance(at, str), f"the name of a module, such as {next(iter(modules), 'conv1')!r}")
    found = {n: m for n, m in modules.items() if n == at} or {n: m for n, m in modules.items() if n.endswith(f".{at}")}
    if len({*found.values()}) > 1:
        raise ValueError(f"at: {at!r} may be any of {', '.join(found)}")
    for module in found.values():
        return module
    close = difflib.get_close_matches(at, modules, 5, 0.5) or [*modules][:20]
    raise ValueError(f"at: the model has no module {at!r}; close names: {', '.join(close)}")


class _Reached(Exception):
    """What lies beyond a module is not asked for."""


def activations(model: nn.Module, images: Tensor, at: str = "") -> Tensor:
    """What the module `at` answers to images, and nothing beyond it is run; without `at`, the logits."""
    if not at:
        return logits_of(model(images))
    kept = list[Tensor]()

    def keep(output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    with contextlib.suppress(_Reached), hooked(model.get_submodule(at), keep):
        model(images)
    expect("at", repr(at), kept, "a module that is called")
    return kept[0]
