"""Cut a model at a module, so that only what comes after it runs again, and leave the model as it was found."""

import contextlib
import difflib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict

Rest = Callable[[Tensor], Any]  # from the tensor at the cut to the model's output


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Gradients on, none for parameters; buffers, requires_grad and random state are put back at the end."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(m, n, b, b.detach().clone()) for m in model.modules() for n, b in m._buffers.items() if b is not None]
    devices = {p.device.index for p, _ in flags if p.device.type == "cuda"}
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)


def cut(model: nn.Module, images: Tensor, at: str | None) -> tuple[Tensor, Rest, bool]:
    """Cuts the model: the tensor there, the model from there on, and whether running that repeats the start."""
    images = images.clone() if images.is_inference() else images.detach()
    if at is None:
        return images, _replay(lambda place: model(place.clone()), images), False  # it may work in place
    modules = dict(model.named_modules())
    if not at or at not in modules:
        close = difflib.get_close_matches(at, modules, 5, 0.5) or [name for name in modules if name][:20]
        raise ValueError(f"at: the model has no module {at!r}; close names: {', '.join(close)}")
    tracer = _Tracer(modules[at])
    try:
        graph = tracer.trace(model)
    except Exception:  # whatever the model's forward does that symbolic tracing cannot follow
        return _cut_by_hook(model, images, at, modules[at])
    cuts = [n for n in graph.nodes if n.op == "call_module" and model.get_submodule(n.target) is modules[at]]
    if not cuts:
        return _cut_by_hook(model, images, at, modules[at])
    return *_cut_by_graph(model, graph, cuts, images, at), False


class _Tracer(fx.Tracer):
    def __init__(self, leaf: nn.Module) -> None:
        super().__init__()
        self.leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self.leaf or super().is_leaf_module(m, module_qualified_name)


def _cut_by_graph(
    model: nn.Module, graph: fx.Graph, cuts: list[fx.Node], images: Tensor, at: str
) -> tuple[Tensor, Rest]:
    if len(cuts) > 1:
        raise ValueError(f"at: {at!r} is called {len(cuts)} times, expected a module that is called once")
    nodes, late = list(graph.nodes), set(cuts)
    for node in nodes:
        if late.intersection(node.all_input_nodes):
            late.add(node)
    if nodes[-1] not in late:
        raise ValueError(f"at: the output does not depend on {at!r}")
    late.discard(cuts[0])
    run = fx.Interpreter(fx.GraphModule(model, graph))
    run.args_iter = iter([images.clone()])
    with torch.no_grad():
        for node in nodes:
            if node not in late:
                run.env[node] = run.run_node(node)
    early = {node: run.env[node] for n in late for node in n.all_input_nodes if node not in late}
    place = early[cuts[0]]
    if not isinstance(place, Tensor):
        raise ValueError(f"at: {at!r} returns {type(place).__name__}, expected a tensor")

    def rest(perturbed: Tensor) -> Any:
        # Later modules may work in place: each pass gets copies.
        run.env = {n: v.clone() if isinstance(v, Tensor) else v for n, v in early.items()} | {
            cuts[0]: perturbed.clone()
        }
        for node in nodes:
            if node in late:
                run.env[node] = run.run_node(node)
        output = run.env.pop(nodes[-1])
        return dict(output) if isinstance(output, immutable_dict) else output

    return place.clone(), _replay(rest, images)


class _Reached(Exception):
    """Ends a forward pass once the wanted activation is known."""


def _cut_by_hook(model: nn.Module, images: Tensor, at: str, module: nn.Module) -> tuple[Tensor, Rest, bool]:
    seen: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output)
        raise _Reached

    def capture(_: Tensor) -> Any:
        with _hook(module, stop), contextlib.suppress(_Reached), torch.no_grad():
            model(images.clone())

    _replay(capture, images)(images)
    if not seen:
        raise ValueError(f"at: the output does not depend on {at!r}, which is never called")
    if not isinstance(seen[0], Tensor):
        raise ValueError(f"at: {at!r} returns {type(seen[0]).__name__}, expected a tensor")

    def rest(perturbed: Tensor) -> Any:
        calls: list[None] = []

        def replace(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            calls.append(None)
            if len(calls) > 1:
                raise ValueError(f"at: {at!r} is called more than once, expected a module that is called once")
            return perturbed.clone()

        with _hook(module, replace):
            return model(images.clone())

    return seen[0].clone(), _replay(rest, images), True


@contextlib.contextmanager
def _hook(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()


def _replay(function: Rest, like: Tensor) -> Rest:
    """Makes every call start from the random state of now, so that each pass drops out the same units."""
    devices = [like.device.index] if like.device.type == "cuda" else []
    state, cuda = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]

    def replayed(place: Tensor) -> Any:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(state)
            for device, value in zip(devices, cuda, strict=True):
                torch.cuda.set_rng_state(value, device)
            return function(place)

    return replayed
