"""Leave a model as it was found: buffers, hooks, torch's modes and whether gradients are on, even after Ctrl-C."""

import contextlib
import functools
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from gpcore.checks import expect

P = ParamSpec("P")
R = TypeVar("R")


def untouched(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function of a `model` run with gradients on and leave the model as it was, even where Ctrl-C stops it.

    Buffers of modules in training mode are put back. Parameters need no freezing: nobody asks for their gradients.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0] if args else kwargs["model"]
        expect("model", f"a {type(model).__name__}", isinstance(model, nn.Module), "an nn.Module")
        modules, graded = [*model.modules()], torch.is_grad_enabled()
        training = [(m, n, b) for m in modules if m.training for n, b in m._buffers.items() if b is not None]
        buffers = [(*each, each[2].detach().clone()) for each in training]
        modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()

        def put_back() -> None:
            held = list[object]()  # what is taken off, which torch 2.10, say, would return when it has just freed it
            while (height := torch._C._len_torch_function_stack()) > modes[0]:
                held.append(torch._C._get_function_stack_at(height - 1))
                torch._C._pop_torch_function_stack()
            while (height := torch._C._len_torch_dispatch_stack()) > modes[1]:
                held.append(torch._C._get_dispatch_stack_at(height - 1))
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
