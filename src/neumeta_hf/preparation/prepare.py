"""From a trained network to a reference whose channels stand in a good order."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from neumeta_hf.batches import Inputs, move_batch
from neumeta_hf.building import own_tensors, tied_names
from neumeta_hf.checkpoints import forget_origin
from neumeta_hf.errors import PreparationError
from neumeta_hf.kinds import AMOUNT, COUNT, MAPPING, NAME, SEED, Kind, list_of, text, whole_number
from neumeta_hf.preparation.activations import measure_reading
from neumeta_hf.preparation.cliques import apply_order, find_cliques
from neumeta_hf.preparation.comparison import MAX_RELATIVE_ERROR, relative_error, run
from neumeta_hf.preparation.fusion import fuse_batch_norm, fuse_modules
from neumeta_hf.preparation.order import OrderMethod, check_method, find_order
from neumeta_hf.preparation.variation import total_variation
from neumeta_hf.targets import config_of, family_of, find_target

Normalization = Literal["fuse", "keep"]
Model = TypeVar("Model", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class CliqueReport:
    """What was done to one clique.

    Attributes:
        num_channels: How many channels it has.
        members: Names of the tensors that it runs through; a tensor that it runs through along two axes stands twice.
        order: For each place the number of the channel that now stands there.
        tv_before: Total variation before it was ordered, running statistics left out.
        tv_after: Total variation after.
    """

    num_channels: int
    members: list[str]
    order: list[int]
    tv_before: float
    tv_after: float


@dataclasses.dataclass(frozen=True)
class PreparationReport:
    """What `prepare` did.

    Attributes:
        normalization: `fuse` or `keep`.
        method: How the channels were ordered.
        seed: Seed of the order.
        tv_before: Total variation over all cliques before they were ordered (and after BatchNorm was fused).
        tv_after: Total variation after.
        max_relative_error: Largest difference of an output on the example inputs, over the largest output.
        cliques: One report for each clique, in the order in which they were treated.
    """

    normalization: str
    method: str
    seed: int
    tv_before: float
    tv_after: float
    max_relative_error: float
    cliques: list[CliqueReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PreparationReport":
        """Read a report back: the inverse of `to_dict`.

        Raises:
            PreparationError: A key is missing or unknown, or a value is not of its kind.
        """
        fields = _fields(cls, values, _REPORT)
        fields["cliques"] = [CliqueReport(**_fields(CliqueReport, clique, _CLIQUE)) for clique in fields["cliques"]]
        return cls(**fields)


_CLIQUE: dict[str, Kind] = {
    "num_channels": whole_number(1),
    "members": list_of(text(1000)),
    "order": list_of(COUNT),
    "tv_before": AMOUNT,
    "tv_after": AMOUNT,
}
_REPORT: dict[str, Kind] = {
    "normalization": Kind("fuse or keep", lambda value: value in ("fuse", "keep")),
    "method": NAME,
    "seed": SEED,
    "tv_before": AMOUNT,
    "tv_after": AMOUNT,
    "max_relative_error": AMOUNT,
    "cliques": list_of(MAPPING),
}


def prepare(
    model: Model,
    *,
    normalization: Normalization = "fuse",
    order: OrderMethod = "path",
    seed: int = 0,
    example_inputs: Inputs | None = None,
    batch: Inputs | None = None,
) -> tuple[Model, PreparationReport]:
    """Make a trained network ready to be the reference: same function, smoother weights.

    Fuses BatchNorm (or keeps it), finds the cliques, and puts the channels of each into an order. Cliques are ordered
    one after another. The order of one does not disturb that of another: it only permutes the features of the other's
    slices, and an L1 distance does not depend on the order of the features.

    Args:
        model: The trained network, in float32 or float64; not modified.
        normalization: `fuse` makes BatchNorm part of the convolutions, as the paper does; `keep` leaves it, with its
            running statistics permuted along.
        order: How to order the channels, see `find_order`.
        seed: Seed of the order.
        example_inputs: What to trace and compare with, by name; or a tensor, the first input. None: the family's own.
        batch: For `order="activations"`: data as in training, a few hundred samples, likewise by name or a tensor.

    Returns:
        A new model in evaluation mode, on the same device, and what was done.

    Raises:
        PreparationError: An option is unknown; the weights are not finite or in low precision; BatchNorm cannot be
            fused; the outputs on the example inputs changed; there is a batch that no order needs, or none to measure.
        TargetError: The model belongs to no registered family, and that is needed: to fuse, or for example inputs.
    """
    if normalization not in get_args(Normalization):
        raise PreparationError(
            f"normalization={normalization!r} is unknown: choose one of {', '.join(get_args(Normalization))}."
        )
    check_method(order)
    if (order == "activations") != (batch is not None):
        raise PreparationError(
            'order="activations" measures a batch of data: pass `batch`, a few hundred samples as in training.'
            if batch is None
            else f'order={order!r} looks at weights alone: leave `batch` out, or say order="activations".'
        )
    _check_weights(model)
    if example_inputs is None:
        if getattr(model, "config", None) is None:
            raise PreparationError(
                f"a {type(model).__name__} has no config to make example inputs from: pass example_inputs."
            )
        config = config_of(model)
        example_inputs = find_target(config).example_batch(config)

    parameter = next(model.parameters())
    # On the CPU: a GPU's default precision in convolutions is far coarser than the errors looked for here.
    original = copy.deepcopy(model).cpu().eval()
    example_inputs = move_batch(example_inputs, "cpu", parameter.dtype)
    prepared = copy.deepcopy(original) if normalization == "keep" else _fused(original, example_inputs)

    cliques = find_cliques(prepared, example_inputs)
    weights = {name: tensor.detach() for name, tensor in own_tensors(prepared).items()}
    reading = None if batch is None else measure_reading(prepared, move_batch(batch, "cpu", parameter.dtype))
    reports = []
    for clique in cliques:
        tv_before = total_variation(weights, [clique])
        channels = find_order(clique, weights, method=order, seed=seed, reading=reading)
        weights = apply_order(weights, clique, channels)
        members = [member.name for member in clique.members]
        reports.append(
            CliqueReport(clique.num_channels, members, channels, tv_before, total_variation(weights, [clique]))
        )
    prepared.load_state_dict(weights | {name: weights[same] for name, same in tied_names(prepared).items()})
    forget_origin(prepared)

    error = _difference(original, prepared, example_inputs)
    if error > MAX_RELATIVE_ERROR:
        # A deep network without normalisation may round as coarsely; in float64 only what is not understood is left.
        exact_inputs = move_batch(example_inputs, "cpu", torch.float64)
        error = _difference(copy.deepcopy(original).double(), copy.deepcopy(prepared).double(), exact_inputs)
    if error > MAX_RELATIVE_ERROR:
        problem = (
            f"preparation changed the outputs on the example inputs by {error:.1e} of the largest, more than "
            f"{MAX_RELATIVE_ERROR:.0e}: the network has a connection that is not understood. Prepare it with "
        )
        raise PreparationError(
            f'{problem}order="identity", and with normalization="keep" if that is not enough.',
            command=f"{problem}--order identity, and with --normalization keep if that is not enough (in a recipe: "
            "preparation.order, preparation.normalization).",
        )
    report = PreparationReport(
        normalization=normalization,
        method=order,
        seed=seed,
        tv_before=sum(clique.tv_before for clique in reports),
        tv_after=sum(clique.tv_after for clique in reports),
        max_relative_error=error,
        cliques=reports,
    )
    return cast(Model, prepared.to(parameter.device)), report


def _difference(original: nn.Module, prepared: nn.Module, example_inputs: Inputs) -> float:
    with torch.no_grad():
        return relative_error(run(original, example_inputs), run(prepared, example_inputs))


def _fused(model: nn.Module, example_inputs: Inputs) -> nn.Module:
    # Only registered target families can update their config when BatchNorm disappears: others are refused.
    if isinstance(model, PreTrainedModel) or family_of(model) is not None:
        return fuse_batch_norm(model, example_inputs)
    return fuse_modules(model, example_inputs)


def _check_weights(model: nn.Module) -> None:
    if next(model.parameters(), None) is None:
        raise PreparationError(f"a {type(model).__name__} has no parameters, so there is nothing to prepare.")
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in (torch.float32, torch.float64):
            problem = f"{name!r} is in {tensor.dtype}, too coarse to see whether preparation changes the outputs: "
            raise PreparationError(
                f"{problem}prepare model.float(), and cast the result.",
                command=f"{problem}save it in float32, and prepare that.",
            )
        if not tensor.isfinite().all():
            raise PreparationError(
                f"{name!r} holds NaN or infinite values: take the weights of a training that did not diverge."
            )


def _fields(cls: type, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    if not isinstance(values, Mapping) or (wrong := sorted(map(str, set(kinds) ^ set(values)))):
        found = "missing or unknown: " + ", ".join(wrong) if isinstance(values, Mapping) else f"this is {values!r:.80}"
        raise PreparationError(
            f"a {cls.__name__} has the keys {', '.join(kinds)}; {found}. Take the dict that `to_dict` made."
        )
    for key, kind in kinds.items():
        if not kind.holds(values[key]):
            raise PreparationError(f"a {cls.__name__} with {key}={values[key]!r:.80}: it must be {kind.rule}.")
    return dict(values)
