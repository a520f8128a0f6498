"""Which tensors of a network a family generates, holds as they are, measures per size or knows beforehand."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.building import tied_names
from neumeta_hf.errors import TargetError
from neumeta_hf.space import SizeSpace


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a family does with each tensor of its target, and which axes that leaves free.

    Attributes:
        generated: Parameters that the hypernetwork makes, in the order that numbers them.
        static: Tensors that the checkpoint holds as they are.
        statistics: BatchNorm buffers that are stored per size.
        constants: Name to value, for tensors of a fused BatchNorm that the architecture cannot leave out.
        static_modules: The outermost modules without a size-dependent tensor.
        free_axes: Axes that a size may change.
        varying: Generated name to whether sizes change the number of its output and of its input channels.
    """

    generated: list[str]
    static: list[str]
    statistics: list[str]
    constants: Mapping[str, float]
    static_modules: list[str]
    free_axes: list[str]
    varying: Mapping[str, tuple[bool, bool]]


def select(
    reference: nn.Module,
    space: SizeSpace,
    *,
    generated: Sequence[str],
    width_groups: Sequence[str] | None,
    normalization: str,
) -> Selection:
    """Tell the tensors of a network apart.

    Args:
        reference: The network at full size; needs no values.
        space: Its sizes.
        generated: Names, prefixes or patterns of what the hypernetwork makes.
        width_groups: Names or patterns of the axes that a size may change. None: all that change no static tensor.
        normalization: "fuse": BatchNorm modules that are left only add a bias. "keep": they normalise.

    Returns:
        The selection.

    Raises:
        TargetError: A pattern matches nothing, no axis is left free, or a static tensor would change with an axis that
            `width_groups` names.
    """
    names, tied = list(space.tensors), tied_names(reference)
    for pattern in generated:
        if not any(_matches(name, pattern) for name in names):
            if same := next((same for name, same in tied.items() if _matches(name, pattern)), None):
                raise TargetError(
                    f"generated={pattern!r} matches a tensor that is tied to {same}: name {same} instead."
                )
            raise TargetError(
                f"generated={pattern!r} matches no parameter of {space.name}: "
                f"give names, prefixes or patterns of {', '.join(names[:3])}, ..."
            )
    constants: dict[str, float] = {}
    statistics: list[str] = []
    for prefix, module in reference.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        buffers = [f"{prefix}.{name}" for name, _ in module.named_buffers()]
        if normalization == "fuse":
            # An architecture that keeps its BatchNorm modules has them as "add a bias"; only the bias is free.
            values = {
                "weight": (1 + module.eps) ** 0.5,
                "running_mean": 0,
                "running_var": 1,
                "num_batches_tracked": 0,
            }
            constants |= {name: value for key, value in values.items() if (name := f"{prefix}.{key}") in names}
        elif any(_matches(name, pattern) for name in buffers for pattern in generated):
            statistics += buffers
    made = [
        name
        for name, _ in reference.named_parameters()
        if name not in constants and name not in tied and any(_matches(name, pattern) for pattern in generated)
    ]
    may_change = {*made, *constants, *statistics}
    free_axes = _find_free_axes(space, may_change, width_groups, generated)
    free = set(free_axes)
    varying = {name: [not axes.isdisjoint(free) for axes in space.axes_of(name)[:2]] for name in made}
    return Selection(
        generated=made,
        static=[name for name in names if name not in may_change],
        statistics=statistics,
        constants=constants,
        static_modules=_find_static_modules(
            reference, {*made, *statistics, *(name for name, same in tied.items() if same in made)}
        ),
        free_axes=free_axes,
        varying={name: (axes[0], axes[1] if len(axes) > 1 else False) for name, axes in varying.items()},
    )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def _find_static_modules(reference: nn.Module, may_change: set[str]) -> list[str]:
    """The outermost modules without a size-dependent tensor. Constants change along with a generated bias."""
    found: list[str] = []
    for prefix, module in reference.named_modules():
        held = [f"{prefix}.{name}" for name in module.state_dict()]
        is_called = prefix and not isinstance(module, nn.ModuleList | nn.ModuleDict)
        is_inside = any(prefix.startswith(f"{outer}.") for outer in found)
        if is_called and not is_inside and may_change.isdisjoint(held):
            found.append(prefix)
    return found


def _find_free_axes(
    space: SizeSpace, may_change: set[str], width_groups: Sequence[str] | None, generated: Sequence[str]
) -> list[str]:
    """The axes that a size may change; also guards that static tensors never change."""
    patterns = ("*",) if width_groups is None else tuple(width_groups)
    matched = {pattern: fnmatch.filter(space.axes, pattern) for pattern in patterns}
    if unknown := [pattern for pattern, axes in matched.items() if not axes]:
        raise TargetError(f"width_groups names {unknown}, which is unknown: {space.name} has {', '.join(space.axes)}.")
    wanted = [axis for axis in space.axes if any(axis in axes for axes in matched.values())]
    changed: dict[str, set[str]] = {axis: set() for axis in space.axes}
    for name in space.tensors:
        for axis in set().union(*space.axes_of(name)):
            changed[axis].add(name)
    for axis in wanted:
        if width_groups is not None and (static := changed[axis] - may_change):
            raise TargetError(
                f"width group {axis!r} changes the shape of {', '.join(sorted(static))}, which "
                f"generated={list(generated)} leaves static: generate these too, or drop the group."
            )
    found = [axis for axis in wanted if changed[axis] <= may_change]
    if not found:
        raise TargetError(
            f"generated={list(generated)} leaves no width group free: each of "
            f"{', '.join(space.axes)} also changes a static tensor. Generate whole blocks, or everything ('*')."
        )
    return found
