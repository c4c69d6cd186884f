"""Cut a model at a module, so that only what comes after it runs again, and leave the model as it was found.

While the caller's model predicts, what every torch function before the module returns is noted; later passes get that
back instead of computing it. Nothing is traced or patched, and no other thread takes part.
"""

import contextlib
import difflib
import functools
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn, overrides
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

Rest = Callable[[Tensor], Any]  # from the tensor at the cut to the model's output
P = ParamSpec("P")
R = TypeVar("R")


def untouched(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function of a `model` run with gradients on and leave the model as it was, even where Ctrl-C stops it.

    Buffers of modules in training mode are put back. Parameters need no freezing: nobody asks for their gradients.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0] if args else kwargs["model"]
        modules, graded = [*model.modules()], torch.is_grad_enabled()
        training = [(m, n, b) for m in modules if m.training for n, b in m._buffers.items() if b is not None]
        buffers = [(*each, each[2].detach().clone()) for each in training]
        modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()

        def put_back() -> None:
            while torch._C._len_torch_function_stack() > modes[0]:
                torch._C._pop_torch_function_stack()
            while torch._C._len_torch_dispatch_stack() > modes[1]:
                torch._C._pop_torch_dispatch_stack(None)
            torch.set_grad_enabled(graded)
            for module in modules:
                for key, hook in [*module._forward_hooks.items()]:
                    if isinstance(hook, _Hook) and hook.thread == threading.get_ident():
                        del module._forward_hooks[key]
            for module, name, buffer, value in buffers:
                buffer.detach().copy_(value)
                module._buffers[name] = buffer

        try:
            torch.set_grad_enabled(True)
            with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
                return function(*args, **kwargs)
        except KeyboardInterrupt as interrupt:  # it comes where any function begins, an __exit__ too, and this one:
            traceback.clear_frames(interrupt.__traceback__)  # so what was missed is made up for before, not after
            raise
        finally:
            try:
                put_back()
            except BaseException:
                put_back()
                raise

    return run


class _Hook:
    """A forward hook, of the output alone, that does nothing in threads other than the one that made it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.thread = function, threading.get_ident()

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return self.function(output) if threading.get_ident() == self.thread else None


@contextlib.contextmanager
def hooked(module: nn.Module, function: Callable[[Any], Any]) -> Iterator[None]:
    """Gives a module a forward hook for a while, in this thread and under `untouched`."""
    handle = module.register_forward_hook(_Hook(function))
    try:
        yield
    finally:
        handle.remove()


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
        if not isinstance(seen[0], Tensor):
            raise ValueError(f"at: {at!r} returns {type(seen[0]).__name__}, expected a tensor")
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
    if not isinstance(at, str):
        raise ValueError(f"at: got {at!r}, expected the name of a module, such as {next(iter(modules), 'conv1')!r}")
    found = {n: m for n, m in modules.items() if n == at} or {n: m for n, m in modules.items() if n.endswith(f".{at}")}
    if len({*found.values()}) > 1:
        raise ValueError(f"at: {at!r} may be any of {', '.join(found)}")
    for module in found.values():
        return module
    close = difflib.get_close_matches(at, modules, 5, 0.5) or [*modules][:20]
    raise ValueError(f"at: the model has no module {at!r}; close names: {', '.join(close)}")


def logits_of(output: Any) -> Tensor:
    """Logits B x K or B x K x h x w, in single precision or better; one channel z becomes [0, z], which is binary.

    They are a model's output, its "out" or "logits" (key or attribute), or the first of a tuple or list.
    Raises ValueError: anything else, or logits that are not finite.
    """
    logits = getattr(output, "logits", output)
    if isinstance(output, Mapping):
        logits = output.get("out", output.get("logits"))
    elif isinstance(logits, tuple | list):
        logits = logits[0] if logits else None
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() not in (2, 4):
        found = f"shape {[*logits.shape]}, {logits.dtype}" if isinstance(logits, Tensor) else type(output).__name__
        expected = 'float logits B x K or B x K x h x w, alone, as "out" or "logits", or first in a tuple'
        raise ValueError(f"model: its output is {found}, expected {expected}")
    logits = single(logits)
    if not (logits.detach().sum().isfinite() or logits.isfinite().all()):  # a sum is soon told, but may overflow
        raise ValueError("model: its logits hold NaN or infinite values, expected finite ones")
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)


def single(tensor: Tensor) -> Tensor:
    """In single precision at least, in which perturbations far below one are still exact."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
