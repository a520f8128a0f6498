"""What the static modules of a network put out, computed once for all the sizes that give them the same inputs.

Once a step (`StaticOutputs`), or once for a whole training (`KnownOutputs`).
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))


class StaticOutputs:
    """Outputs of modules whose weights no size changes, for the other sizes that run on the same images.

    The networks of a family's block have all that lies before the block in common, and those of a decoder the encoder:
    a step of training that runs several sizes needs it once. An output is taken again where a module gets the very
    tensors that it got before, with the same settings. Neither these tensors nor the output may have been changed in
    place since. Gradients through it add up. Whatever a module draws at random is drawn once.

    An instance keeps what it is given: make one for each batch and training mode.
    """

    def __init__(self):
        self._calls: dict[str, _Call] = {}

    @contextlib.contextmanager
    def taken_by(self, network: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """While active, modules of a network take their outputs from here where they can.

        Args:
            network: A network of some size.
            names: Names of modules that are the same for all sizes, none inside of another.
        """
        with _wrapped(network, names, self._reusing):
            yield

    def _reusing(self, name: str, forward: Callable) -> Callable:
        @functools.wraps(forward)
        def reuse_or_run(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(enumerate(args)), **kwargs}
            inputs = {key: (value, _version(value)) for key, value in given.items()}
            call = self._calls.get(name)
            if call is None or not call.is_same(inputs):
                self._calls[name] = call = _Call(inputs, forward(*args, **kwargs))
            return call.output

        return reuse_or_run


class KnownOutputs:
    """Outputs of static modules that are known beforehand, call by call.

    Args:
        outputs: Module name and number of the call to what it gives, whatever it is given.
    """

    def __init__(self, outputs: Mapping[tuple[str, int], Tensor]):
        self._outputs = outputs

    @contextlib.contextmanager
    def taken_by(self, network: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """While active, modules of a network give what is known instead of running; all others run.

        Args:
            network: A network of some size, or the reference.
            names: Names of modules that are the same for all sizes; others are left alone.
        """
        known = {name for name, _ in self._outputs}
        with _wrapped(network, [name for name in names if name in known], self._known):
            yield

    def _known(self, name: str, forward: Callable) -> Callable:
        calls = itertools.count()

        @functools.wraps(forward)
        def known_or_run(*args: Any, **kwargs: Any) -> Any:
            output = self._outputs.get((name, next(calls)))
            return forward(*args, **kwargs) if output is None else output

        return known_or_run


@contextlib.contextmanager
def _wrapped(network: nn.Module, names: Iterable[str], wrap: Callable[[str, Callable], Callable]) -> Iterator[None]:
    """While active, what `wrap` makes of a module's name and forward pass stands for the forward pass."""
    modules = {name: network.get_submodule(name) for name in names}
    for name, module in modules.items():
        module.forward = wrap(name, module.forward)
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward  # the instance's; the class has its own


class _Call:
    """One call of a module, with how often each tensor had been changed in place by then."""

    def __init__(self, inputs: Mapping[Any, tuple[Any, Any]], output: Any):
        self.inputs = inputs
        self.output, self.output_version = output, _version(output)
        self.has_gradients = torch.is_grad_enabled()

    def is_same(self, inputs: Mapping[Any, tuple[Any, Any]]) -> bool:
        """Whether a call with these inputs would give the output that is here."""
        if self.has_gradients != torch.is_grad_enabled() or _version(self.output) != self.output_version:
            return False
        return inputs.keys() == self.inputs.keys() and all(
            version == self.inputs[key][1] and (value is self.inputs[key][0] or _is_equal(value, self.inputs[key][0]))
            for key, (value, version) in inputs.items()
        )


def _version(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    return object() if value.is_inference() else value._version  # such tensors do not count: never the same again


def _is_equal(value: Any, other: Any) -> bool:
    return isinstance(value, _PLAIN) and type(value) is type(other) and value == other
