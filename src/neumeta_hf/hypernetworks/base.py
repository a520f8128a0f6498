"""What every hypernetwork is: a map from coordinates to weights, behind one interface and one registry."""

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from neumeta_hf.coordinates import TensorCoordinates
from neumeta_hf.errors import HypernetworkError


class Hypernetwork(nn.Module, abc.ABC):
    """Maps the coordinates of a network's tensors to their values.

    A subclass is registered with `register_hypernetwork`. Its constructor takes `full_size` (the coordinates of the
    reference, whose order numbers the tensors) and keyword-only options, which are what a checkpoint's config stores.
    It knows where weights lie, never what they are called.

    Attributes:
        positions: Which channels of two sizes belong together: those at the same portion of the axis ("relative"), or
            the first of both ("absolute").
    """

    positions: Literal["relative", "absolute"] = "relative"

    @abc.abstractmethod
    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        """Generate tensors; differentiable in the parameters, and changes none of its arguments.

        Args:
            coordinates: Coordinates of the tensors wanted, any subset in any order.

        Returns:
            Values of the shape that each of `coordinates` names.
        """

    def start_at(self, values: Sequence[Tensor]) -> bool:
        """Take over the reference's values, where the hypernetwork can hold them exactly.

        Args:
            values: Values of the reference's generated tensors, in order.

        Returns:
            Whether full size now generates them; if not, they have to be fitted.
        """
        return False

    def hidden_matrices(self) -> list[nn.Parameter]:
        """List the matrices between hidden layers, which Muon may move; by default there are none."""
        return []

    @abc.abstractmethod
    def initialize(self, module: nn.Module) -> None:
        """Give one of this hypernetwork's submodules its first values.

        Must use `transformers.initialization`, which leaves alone what was loaded from a checkpoint.
        """


def check_counts(**options: Any) -> None:
    """Refuse options that are no counts.

    Args:
        **options: As they were given.

    Raises:
        HypernetworkError: One is not a whole number of at least 1.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise HypernetworkError(f"{name}={value!r}: give a whole number of at least 1.")


_Class = TypeVar("_Class", bound=Hypernetwork)

_REGISTRY: dict[str, Callable[..., Hypernetwork]] = {}


def register_hypernetwork(name: str) -> Callable[[type[_Class]], type[_Class]]:
    """Class decorator: makes a hypernetwork known to configs as `{"type": name, ...}`.

    Args:
        name: The word that configs use.

    Returns:
        The decorator, which returns the class unchanged.

    Raises:
        HypernetworkError: Another class holds the name.
    """

    def register(cls: type[_Class]) -> type[_Class]:
        if _REGISTRY.setdefault(name, cls) is not cls:
            raise HypernetworkError(
                f"hypernetwork {name!r} is taken by {_REGISTRY[name].__name__}: choose another name."
            )
        return cls

    return register


def list_hypernetworks() -> list[str]:
    """List the names of the registered hypernetworks."""
    return sorted(_REGISTRY)


def complete_options(options: Mapping) -> dict:
    """Name every option of a hypernetwork, so that a checkpoint does not depend on what the defaults are.

    Args:
        options: `{"type": name, ...}`; an unknown type is left to `build_hypernetwork`.

    Returns:
        The same with the defaults of all options that were not named, bounds on memory excepted.
    """
    name = options.get("type")
    constructor = _REGISTRY.get(name) if isinstance(name, str) else None
    if constructor is None:
        return dict(options)
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    free = ("chunk_size", "recompute_above")
    defaults = {option.name: option.default for option in parameters if option.name not in free}
    return {"type": name, **defaults, **options}


def build_hypernetwork(options: Mapping, full_size: Sequence[TensorCoordinates]) -> Hypernetwork:
    """Build a hypernetwork from what a config stores.

    Args:
        options: `{"type": name, ...}` with the options of that hypernetwork.
        full_size: Coordinates of the reference's generated tensors, in order.

    Returns:
        The module, with fresh weights.

    Raises:
        HypernetworkError: The type is unknown, or an option is not one of its options.
    """
    options = dict(options)
    name = options.pop("type", None)
    if name not in _REGISTRY:
        raise HypernetworkError(
            f"hypernetwork type {name!r} is unknown: choose one of {', '.join(list_hypernetworks())}."
        )
    known = list(inspect.signature(_REGISTRY[name]).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        raise HypernetworkError(
            f"hypernetwork {name!r} has no option {', '.join(unknown)}: it takes {', '.join(known)}."
        )
    return _REGISTRY[name](full_size, **options)
