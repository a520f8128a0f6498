"""Which axes of a network's weights must be permuted together: its cliques.

Torch-Pruning's dependency graph says, for every channel that a layer puts out, which places of which other layers go
with it. Places that go together are one channel. Channels that run through the same tensors can change places and are
one clique; in a GroupNorm they must lie in the same group. What the graph says is then tested on the network itself: a
graph read from autograd does not see every way in which an operation mixes channels.
"""

import copy
import dataclasses
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch_pruning.dependency import DependencyGraph, Node
from torch_pruning.pruner.function import BasePruningFunc

from neumeta_hf.batches import Inputs, move_batch, run_with
from neumeta_hf.building import own_tensors
from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation.comparison import MAX_RELATIVE_ERROR, relative_error, run
from neumeta_hf.space import SizeSpace
from neumeta_hf.targets import config_of, family_of

logger = logging.getLogger(__name__)

_Axis = tuple[str, int]  # name in the state dict, axis
_Place = tuple[str, int, int]  # and the position on it


@dataclasses.dataclass(frozen=True, eq=False)
class CliqueMember:
    """One axis of one tensor, or the part of it that a clique's channels run through.

    Attributes:
        name: Key in the state dict; buffers such as `running_mean` are members too.
        axis: Which axis of the tensor.
        positions: Where on the axis each channel lies, `[num_channels, repeat]` of int64. `repeat` is above 1 where a
            channel owns several positions, as after flattening a feature map.
    """

    name: str
    axis: int
    positions: Tensor

    @property
    def is_statistic(self) -> bool:
        """Whether this is a running statistic: it moves with its channel, but is no weight and has no part in TV."""
        return self.name.rpartition(".")[2] in ("running_mean", "running_var")

    def tensor_of(self, state_dict: Mapping[str, Tensor]) -> Tensor:
        """Find the tensor that this is an axis of.

        Raises:
            PreparationError: There is none of that name, or it is too small for the positions.
        """
        tensor = state_dict.get(self.name)
        if tensor is None:
            raise PreparationError(
                f"the weights lack {self.name!r}, which a clique runs through: take the state dict of the model in "
                "which the clique was found."
            )
        needed = int(self.positions.max()) + 1
        if tensor.ndim <= self.axis or tensor.shape[self.axis] < needed:
            raise PreparationError(
                f"{self.name!r} has shape {tuple(tensor.shape)}, but a clique needs at least {needed} positions on "
                f"axis {self.axis}: take the state dict of the model in which the clique was found."
            )
        return tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Clique:
    """Axes that must be permuted together for the network to compute what it did.

    In `conv1 -> norm -> relu -> conv2` with 16 channels between the convolutions, one clique of 16 channels runs
    through `conv1.weight` (axis 0), `conv1.bias` (0), `norm.weight`, `norm.bias`, `norm.running_mean`,
    `norm.running_var` (0) and `conv2.weight` (axis 1).

    Attributes:
        num_channels: How many channels can change places.
        members: The axes, in the order of the state dict; the first one's positions ascend, and number the channels.
    """

    num_channels: int
    members: tuple[CliqueMember, ...]

    def __str__(self) -> str:
        return (
            f"{self.num_channels} channels of {', '.join(f'{member.name}[{member.axis}]' for member in self.members)}"
        )


def find_cliques(model: nn.Module, example_inputs: Inputs) -> list[Clique]:
    """Find the cliques of a network.

    Where the graph of a target family's networks cannot be read, its rules say the cliques. Left out, and logged by
    name: channels that the network puts out; axes whose sizes do not match, such as the residual stream of shortcuts
    that pad with zero channels; grouped convolutions other than depthwise ones; layers that Torch-Pruning does not
    know. Every clique is tested: two permutations that generate all others must leave the outputs alone. The test draws
    weights at random, so that no weight of zero hides anything. A clique that fails, such as one that is added to the
    network's input, is left out with a warning.

    Args:
        model: The network; neither its weights nor its state (training mode, requires_grad, hooks) change.
        example_inputs: What the network takes, by name; or a tensor, its first input.

    Returns:
        Cliques of two or more channels, in the order of the state dict. No two share a position of an axis.

    Raises:
        PreparationError: The network returns no tensor.
    """
    trial = copy.deepcopy(model).cpu().float().eval().requires_grad_(True)
    example_inputs = move_batch(example_inputs, "cpu", torch.float32)
    _randomise(trial)
    family = family_of(model)
    if family is not None and not family.has_graph:
        for name in family.output_axes:
            logger.info("left in their order: channels of %s, because they are outputs of the network", name)
        cliques = declared_cliques(family.space(config_of(model)), left_out=family.output_axes)
        return _verified(trial, example_inputs, cliques)
    return _verified(trial, example_inputs, _Places(trial, example_inputs).cliques())


def declared_cliques(space: SizeSpace, *, left_out: Collection[str] = ()) -> list[Clique]:
    """Read the cliques from a table of rules: one for each axis, with everything that its channels own.

    Args:
        space: Space of the network.
        left_out: Names of axes that stay as they are.

    Returns:
        Cliques of two or more channels, in the order of the axes; an attention head is one channel.
    """
    found = []
    for axis in space.axes.values():
        members = []
        for name, dims in space.tensors.items():
            for place, dim in enumerate(dims):
                starts = itertools.accumulate((segment.count for segment in dim), initial=0)
                owned = [
                    start + torch.arange(segment.count).reshape(axis.full, -1)
                    for start, segment in zip(starts, dim, strict=False)
                    if segment.axis == axis.name
                ]
                if owned:
                    members.append(CliqueMember(name, place, torch.cat(owned, dim=1)))
        if axis.full > 1 and axis.name not in left_out:
            found.append(Clique(axis.full, tuple(members)))
    return found


def apply_order(state_dict: Mapping[str, Tensor], clique: Clique, order: Sequence[int]) -> dict[str, Tensor]:
    """Put the channels of a clique into an order, in every tensor that they run through.

    Args:
        state_dict: Weights by name; not modified.
        clique: Axes that are permuted together.
        order: For each place the channel that should stand there: `[num_channels]`, as `find_order` returns it.

    Returns:
        New tensors for the clique's members, the given ones for all others.

    Raises:
        PreparationError: The order does not name each channel once, or the weights do not have the clique's tensors.
    """
    if sorted(order) != list(range(clique.num_channels)):
        raise PreparationError(
            f"an order of {clique.num_channels} channels must name each of 0 to {clique.num_channels - 1} once, "
            f"not {list(order)}."
        )
    permuted = dict(state_dict)
    for member in clique.members:
        tensor = member.tensor_of(permuted)
        index = torch.arange(tensor.shape[member.axis])
        index[member.positions.flatten()] = member.positions[list(order)].flatten()
        permuted[member.name] = tensor.index_select(member.axis, index.to(tensor.device))
    return permuted


def _randomise(model: nn.Module) -> None:
    """Draw all weights and running statistics anew, at a scale that hardly fades or grows from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter.numel() / len(parameter)
                parameter.normal_(std=(2 / max(fan_in, 1)) ** 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)


def _verified(model: nn.Module, example_inputs: Tensor | dict[str, Tensor], cliques: list[Clique]) -> list[Clique]:
    """The cliques whose permutations leave the outputs alone; `model` may come to be in float64."""
    # Cliques are tested in log2(n) groups, given by the bits of their number. Some group separates any two, so cliques
    # that are valid only together, such as the halves of a gated unit, are caught.
    bits = range(len(cliques).bit_length())
    sets = [[clique for number, clique in enumerate(cliques, start=1) if number >> bit & 1] for bit in bits]
    error = _error_of_permuting(model, example_inputs)
    if all(error(some) < MAX_RELATIVE_ERROR for some in sets):
        return cliques
    # A deep network without normalisation may round as coarsely as that; in float64 only a wrong permutation is left.
    error = _error_of_permuting(model.double(), move_batch(example_inputs, "cpu", torch.float64))
    if all(error(some) < MAX_RELATIVE_ERROR for some in sets):
        return cliques
    kept = []
    for clique in cliques:
        if (found := error([clique])) < MAX_RELATIVE_ERROR:
            kept.append(clique)
        else:
            logger.warning(
                "left in their order, although the dependency graph ties them: %s; permuting them changes the outputs "
                "by %.1e of the largest",
                clique,
                found,
            )
    return kept


def _error_of_permuting(
    model: nn.Module, example_inputs: Tensor | dict[str, Tensor]
) -> Callable[[Sequence[Clique]], float]:
    """How far the outputs are from what they were after the channels of some cliques changed places."""
    state = {name: tensor.detach() for name, tensor in own_tensors(model).items()}
    with torch.no_grad():
        expected = run(model, example_inputs)

    def error(permuted: Sequence[Clique]) -> float:
        largest = 0.0
        # Turning all channels by one and swapping the first two: every permutation is a product of these.
        for turn in (True, False):
            weights = state
            for clique in permuted:
                channels = list(range(clique.num_channels))
                weights = apply_order(weights, clique, channels[1:] + channels[:1] if turn else [1, 0, *channels[2:]])
            with torch.no_grad():
                actual = run_with(model, weights, run, example_inputs)
            largest = max(largest, relative_error(expected, actual))
        return largest

    return error


def _clique(channels: list[dict[_Axis, list[int]]]) -> Clique:
    axes = list(channels[0])
    channels = sorted(channels, key=lambda positions: positions[axes[0]])
    members = (
        CliqueMember(name, axis, torch.tensor([positions[name, axis] for positions in channels])) for name, axis in axes
    )
    return Clique(len(channels), tuple(members))


class _Places:
    """Sets of places that go together, read from the dependency graph."""

    def __init__(self, model: nn.Module, example_inputs: Tensor | dict[str, Tensor]):
        self._state = model.state_dict()
        self._ranks = {name: rank for rank, name in enumerate(self._state)}
        self._names: dict[object, str] = {module: name for name, module in model.named_modules()}
        self._names.update({parameter: name for name, parameter in model.named_parameters()})
        # A forest: places of one tree go together.
        self._parents: dict[_Place, _Place] = {}
        self._refused: dict[_Place, str] = {}
        # The groups of GroupNorms that each place's channel is normalised in.
        self._norm_groups: dict[_Place, set[tuple[str, int]]] = defaultdict(set)

        outputs: list[Tensor] = []

        def forward(network: nn.Module, inputs: Any) -> Any:
            outputs.extend(run(network, inputs))
            return outputs

        self._graph = DependencyGraph()
        with torch.enable_grad():
            self._graph.build_dependency(model, example_inputs, forward_fn=forward, verbose=False)
        self._output_functions = {output.grad_fn for output in outputs}
        for module, node in self._graph.module2node.items():
            if isinstance(module, (_ConvNd, nn.Linear)):
                self._add_outputs_of(module, node)

    def cliques(self) -> list[Clique]:
        """Channels that run through the same axes, at the same number of positions, can change places.

        Within the groups of a GroupNorm, that is: a group's statistics are those of its channels in any order.
        """
        trees: dict[_Place, list[_Place]] = defaultdict(list)
        for place in self._parents:
            trees[self._root(place)].append(place)
        refused = {self._root(place): reason for place, reason in self._refused.items()}
        norm_groups: dict[_Place, set[tuple[str, int]]] = defaultdict(set)
        for place, groups in self._norm_groups.items():
            norm_groups[self._root(place)] |= groups
        alike: dict[tuple, list[dict[_Axis, list[int]]]] = defaultdict(list)
        left_out: dict[tuple, str] = {}
        for root, places in trees.items():
            channel: dict[_Axis, list[int]] = defaultdict(list)
            for name, axis, position in sorted(places, key=self._rank):
                channel[name, axis].append(position)
            signature = tuple((axis, len(positions)) for axis, positions in channel.items())
            if root in refused:
                left_out[signature] = refused[root]
            else:
                alike[signature, frozenset(norm_groups[root])].append(channel)
        for signature, reason in left_out.items():
            names = ", ".join(f"{name}[{axis}]" for (name, axis), _ in signature)
            logger.info("left in their order: channels of %s, because %s", names, reason)
        found = [_clique(channels) for channels in alike.values() if len(channels) > 1]
        return sorted(found, key=lambda clique: self._rank(_first_place(clique)))

    def _add_outputs_of(self, module: nn.Module, node: Node) -> None:
        """Join what goes with each channel that a layer puts out."""
        pruner = cast(BasePruningFunc, self._graph.get_pruner_of_module(module))
        num_channels = pruner.get_out_channels(module)
        axes = self._axes(node, is_out=True)
        channels = [[(name, axis, i) for name, axis in axes] for i in range(num_channels)]
        if all(place in self._parents for places in channels for place in places):
            return
        reasons = []
        group = self._graph.get_pruning_group(module, pruner.prune_out_channels, list(range(num_channels)))
        for item in group.items:
            target, is_out = item.dep.target, self._graph.is_out_channel_pruning_fn(item.dep.handler)
            reasons.append(self._reason_to_refuse(target, is_out=is_out))
            if isinstance(norm := target.module, nn.GroupNorm) and 1 < norm.num_groups < norm.num_channels:
                size = norm.num_channels // norm.num_groups
                for position, channel in zip(item.idxs, item.root_idxs, strict=True):
                    if channel is not None:
                        self._norm_groups[channels[channel][0]].add((self._names[norm], position // size))
            for name, axis in self._axes(target, is_out=is_out):
                size = self._state[name].shape[axis]
                if max(item.idxs) >= size:
                    reasons.append(f"{name}[{axis}] has {size} positions where {max(item.idxs) + 1} are needed")
                    continue
                if None in item.root_idxs:
                    reasons.append(f"{name}[{axis}] reads repeated heads, and it is not known which head each repeats")
                    continue
                for position, channel in zip(item.idxs, item.root_idxs, strict=True):
                    for place in channels[channel]:
                        self._join(place, (name, axis, position))
        if reason := next(filter(None, reasons), None):
            for places in channels:
                self._refused.setdefault(places[0], reason)

    def _axes(self, node: Node, *, is_out: bool) -> list[_Axis]:
        """The axes that the output channels (or else the input channels) of a node run through."""
        module = node.module
        if isinstance(module, nn.Parameter):
            return [(self._names[module], node.pruning_dim % module.ndim)]
        if isinstance(module, (_ConvNd, nn.Linear)):
            transposed = isinstance(module, _ConvNd) and module.transposed
            if _is_depthwise(module):
                axes = {"weight": 0, "bias": 0}
            elif is_out:
                axes = {"weight": 1 if transposed else 0, "bias": 0}
            else:
                axes = {"weight": 0 if transposed else 1}
        elif isinstance(module, (_NormBase, nn.GroupNorm)):
            axes = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
        elif isinstance(module, nn.LayerNorm):
            axes = dict.fromkeys(("weight", "bias"), len(module.normalized_shape) - 1)
        elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
            axes = {"weight": 0}
        elif isinstance(module, nn.Embedding):
            axes = {"weight": 1}
        else:
            # Torch-Pruning's own modules, which stand for operations such as an addition.
            axes = {}
        prefix = f"{name}." if (name := self._names.get(module)) else ""
        return [(prefix + key, axis) for key, axis in axes.items() if prefix + key in self._state]

    def _reason_to_refuse(self, node: Node, *, is_out: bool) -> str | None:
        """Why channels that run through a node cannot be permuted, if so."""
        module, name = node.module, self._names.get(node.module)
        is_reader = not is_out and isinstance(module, (_ConvNd, nn.Linear)) and not _is_depthwise(module)
        if node.grad_fn in self._output_functions and not is_reader:
            return "they are outputs of the network"
        if isinstance(module, _ConvNd) and module.groups > 1 and not _is_depthwise(module):
            return f"{name} is a grouped convolution"
        known = (_ConvNd, nn.Linear, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU, nn.Embedding)
        if name and not isinstance(module, (nn.Parameter, *known)):
            return f"{name} is a {type(module).__name__}, whose axes are not known"
        return None

    def _rank(self, place: _Place) -> tuple[int, int, int]:
        name, axis, position = place
        return self._ranks[name], axis, position

    def _root(self, place: _Place) -> _Place:
        while (parent := self._parents[place]) != place:
            self._parents[place] = self._parents[parent]
            place = parent
        return place

    def _join(self, one: _Place, other: _Place) -> None:
        self._parents.setdefault(one, one)
        self._parents.setdefault(other, other)
        self._parents[self._root(other)] = self._root(one)


def _first_place(clique: Clique) -> _Place:
    first = clique.members[0]
    return first.name, first.axis, int(first.positions[0, 0])


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels == module.out_channels
