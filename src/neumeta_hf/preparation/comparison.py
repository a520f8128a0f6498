"""Whether two networks compute the same."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from neumeta_hf.batches import Inputs, call
from neumeta_hf.errors import PreparationError
from neumeta_hf.targets import family_of

# Rounding in float32 costs some 1e-6, a wrong permutation 1e-2 and more.
MAX_RELATIVE_ERROR = 1e-5


def run(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run a network and list its outputs; a target family, where there is one, runs it as it does.

    A target family's forward pass may return more than the network's own, such as the latents of an autoencoder. These
    must not be permuted either.

    Args:
        network: The network.
        inputs: What it takes by name, or a tensor: its first input.

    Raises:
        PreparationError: It puts out no tensor.
        TargetError: It is of a family, and the inputs hold nothing that it takes.
    """
    family = family_of(network)
    return model_outputs(call(network, inputs) if family is None else family.forward(network, inputs))


def model_outputs(outputs: object) -> list[Tensor]:
    """List all tensors in what a network returned: a tensor, a `ModelOutput`, or nested sequences and mappings.

    Raises:
        PreparationError: There is no tensor in it.
    """
    tensors = _tensors(outputs)
    if not tensors:
        raise PreparationError(
            f"the network returned a {type(outputs).__name__} without any tensor: preparation compares outputs, so "
            "wrap it in a module that returns a tensor."
        )
    return tensors


def relative_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Compute the largest `max(abs(a - b)) / max(abs(a))` over pairs of tensors; infinite if a value is not finite."""
    errors = [0.0]
    for a, b in zip(expected, actual, strict=True):
        if not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        if a.numel() and (difference := (a - b).abs().max().item()):
            largest = a.abs().max().item()
            errors.append(difference / largest if largest else float("inf"))
    return max(errors)


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
