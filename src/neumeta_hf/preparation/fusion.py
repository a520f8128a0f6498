"""Fusing BatchNorm into the convolutions that feed it: in evaluation both are one affine map per channel."""

import copy
import dataclasses
from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from neumeta_hf.batches import Inputs, move_batch
from neumeta_hf.building import fill, own_tensors
from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation.comparison import run
from neumeta_hf.targets import config_of, find_target

_KEEP = 'Keep its BatchNorm with normalization="keep".'


def fuse_conv_bn(conv: _ConvNd, bn: _BatchNorm) -> _ConvNd:
    """Fuse a convolution and the BatchNorm behind it into one convolution with the same outputs in evaluation.

    The running statistics are used whatever mode `bn` is in. Computed in float64, so that fusing adds no rounding of
    its own to that of storing the result.

    Args:
        conv: Any convolution or transposed convolution, with or without a bias; not modified.
        bn: A BatchNorm over its output channels, with or without affine parameters; not modified.

    Returns:
        A convolution like `conv` (stride, padding, dilation, groups, dtype, device, training mode), with a bias.

    Raises:
        PreparationError: One is no convolution or the other no BatchNorm, their channels differ, or the BatchNorm has
            no running statistics.
    """
    _check_pair(conv, bn, "")
    scale, shift = _scale_and_shift(conv, bn)
    fused = copy.deepcopy(conv)
    trainable = conv.weight.requires_grad
    fused.weight = nn.Parameter(_scaled_weight(conv, scale), requires_grad=trainable)
    fused.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=trainable)
    return fused


def fuse_modules(model: nn.Module, example_inputs: Inputs) -> nn.Module:
    """Fuse every BatchNorm of any network.

    Which convolution feeds which BatchNorm is seen in a run on the example inputs, not guessed from names.

    Args:
        model: The network; not modified.
        example_inputs: What the network takes, by name; or a tensor, its first input.

    Returns:
        A copy in evaluation mode: convolutions with a bias, and `nn.Identity` where a BatchNorm was.

    Raises:
        PreparationError: A BatchNorm has no running statistics, is not fed by a convolution alone, or did not run; the
            convolution feeds something else as well; one of the two runs more than once.
    """
    fused = copy.deepcopy(model).eval()
    for pair in _find_pairs(model, example_inputs):
        fused.set_submodule(pair.conv_name, fuse_conv_bn(pair.conv, pair.bn).eval())
        fused.set_submodule(pair.bn_name, nn.Identity().eval())
    return fused


def fuse_batch_norm(model: nn.Module, example_inputs: Inputs) -> nn.Module:
    """Fuse every BatchNorm of a network of a registered family; the result is a network of that family too.

    Where the family has an architecture without BatchNorm, the convolutions get a bias. Where the architecture keeps
    its BatchNorm modules (stock ResNet), each is left with a shift only: the scale goes into the convolution, the shift
    into `bn.bias`, and `running_mean=0`, `running_var=1`, `weight=sqrt(1 + eps)` make the rest of it the identity.

    Args:
        model: The network; not modified.
        example_inputs: What the network takes, by name; or a tensor, its first input.

    Returns:
        A new model in evaluation mode, of the same dtype and on the same device.

    Raises:
        PreparationError: As for `fuse_modules`; or what is fused does not fit the architecture of the family.
        TargetError: The model belongs to no registered family.
    """
    config = config_of(model)
    family = find_target(config)
    with torch.random.fork_rng(devices=[]):
        fused = family.build(family.fused_config(config))
    wanted = own_tensors(fused)
    state = {name: tensor.clone() for name, tensor in own_tensors(model).items()}
    for pair in _find_pairs(model, example_inputs):
        conv = fuse_conv_bn(pair.conv, pair.bn)
        state[f"{pair.conv_name}.weight"], shift = conv.weight.detach(), cast(Tensor, conv.bias).detach()
        if f"{pair.bn_name}.running_var" in wanted:
            state |= _shift_only(pair, shift)
            shift = torch.zeros_like(shift)
        else:
            state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] != pair.bn_name}
        if f"{pair.conv_name}.bias" in wanted:
            state[f"{pair.conv_name}.bias"] = shift
        else:
            state.pop(f"{pair.conv_name}.bias", None)
    _check_fits(state, wanted, family.name)
    return fill(fused, state).eval()


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A convolution and the BatchNorm that it feeds."""

    conv_name: str
    conv: _ConvNd
    bn_name: str
    bn: _BatchNorm


def _find_pairs(model: nn.Module, example_inputs: Inputs) -> list[_Pair]:
    """Each convolution and the BatchNorm that it feeds, in the order in which they run."""
    trial = copy.deepcopy(model).eval().requires_grad_(True)
    names = {module: name for name, module in trial.named_modules()}
    # For each call the functions in autograd's graph that made what the module took, and what it returned.
    calls: dict[nn.Module, list[tuple[object, object]]] = defaultdict(list)

    def record(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        taken = args[0] if args else kwargs["input"]
        calls[module].append((taken.grad_fn, output.grad_fn))

    for module in names:
        if isinstance(module, (_ConvNd, _BatchNorm)):
            module.register_forward_hook(record, with_kwargs=True)
    parameter = next(trial.parameters(), None)
    if parameter is not None:
        example_inputs = move_batch(example_inputs, parameter.device, parameter.dtype)
    with torch.enable_grad():
        outputs = run(trial, example_inputs)
    readers = _readers([output.grad_fn for output in outputs])
    convs = {made: module for module, runs in calls.items() if isinstance(module, _ConvNd) for _, made in runs}

    for module, name in names.items():
        if isinstance(module, _BatchNorm) and module not in calls:
            raise PreparationError(
                f"{name!r} did not run on the example inputs, so nothing shows what feeds it. {_KEEP}"
            )
    original: dict[str, Any] = dict(model.named_modules())
    pairs = []
    for norm in (module for module in calls if isinstance(module, _BatchNorm)):
        name = names[norm]
        taken, made = calls[norm][0]
        conv = convs.get(taken)
        if conv is None:
            raise PreparationError(
                f"{name!r} is not fed by a convolution, so there is nothing to fuse it into. {_KEEP}"
            )
        _check_pair(conv, norm, f" ({names[conv]!r} and {name!r})")
        for module in (conv, norm):
            if len(calls[module]) > 1:
                raise PreparationError(
                    f"{names[module]!r} runs {len(calls[module])} times, so a single fused convolution cannot replace "
                    f"it. {_KEEP}"
                )
        if readers.get(taken, set()) - {made}:
            raise PreparationError(
                f"{names[conv]!r} feeds something besides {name!r}, which would see the fused values. {_KEEP}"
            )
        pairs.append(_Pair(names[conv], original[names[conv]], name, original[name]))
    return pairs


def _readers(functions: list) -> dict:
    """For each autograd function the set of those that read its result; None stands for the network's output."""
    readers: dict = {function: {None} for function in functions}
    waiting = list(readers)
    while waiting:
        function = waiting.pop()
        for source, _ in function.next_functions if function is not None else ():
            if source is not None:
                if source not in readers:
                    waiting.append(source)
                readers.setdefault(source, set()).add(function)
    return readers


def _check_pair(conv: nn.Module, bn: nn.Module, names: str) -> None:
    if not isinstance(conv, _ConvNd) or not isinstance(bn, _BatchNorm):
        raise PreparationError(
            f"a {type(conv).__name__} and a {type(bn).__name__} cannot be fused{names}: it takes a convolution and a "
            "BatchNorm."
        )
    if conv.out_channels != bn.num_features:
        raise PreparationError(
            f"a convolution with {conv.out_channels} output channels and a BatchNorm of {bn.num_features} cannot be "
            f"fused{names}: the numbers must agree."
        )
    if bn.running_mean is None or bn.running_var is None:
        raise PreparationError(
            f"a BatchNorm without running statistics cannot be fused{names}: what it does depends on the batch. {_KEEP}"
        )


def _scale_and_shift(conv: _ConvNd, bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What happens to the result of the convolution without bias: `scale * x + shift`, `[out_channels]` of float64."""
    mean, variance = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
    scale = (variance.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    shift = -mean.double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.detach().double()
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    return scale, shift


def _scaled_weight(conv: _ConvNd, scale: Tensor) -> Tensor:
    weight = conv.weight.detach()
    if conv.transposed:
        # [in, out / groups, ...], where a group's output channels stand beside the group's input channels.
        by_group = weight.double().unflatten(0, (conv.groups, -1))
        by_channel = scale.reshape(conv.groups, 1, -1, *[1] * (weight.ndim - 2))
        return (by_group * by_channel).flatten(0, 1).to(weight.dtype)
    return (weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)


def _shift_only(pair: _Pair, shift: Tensor) -> dict[str, Tensor]:
    mean, variance = cast(Tensor, pair.bn.running_mean), cast(Tensor, pair.bn.running_var)
    return {
        f"{pair.bn_name}.weight": torch.full_like(shift, (1 + pair.bn.eps) ** 0.5),
        f"{pair.bn_name}.bias": shift,
        f"{pair.bn_name}.running_mean": torch.zeros_like(mean),
        f"{pair.bn_name}.running_var": torch.ones_like(variance),
    }


def _check_fits(state: dict[str, Tensor], wanted: dict[str, Tensor], family: str) -> None:
    for name in sorted(state.keys() | wanted.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (state, wanted)]
        if shapes[0] != shapes[1]:
            raise PreparationError(
                f"after fusion {name!r} has shape {shapes[0]}, where the target family {family!r} has {shapes[1]}: "
                f"`fused_config` of the family must describe the fused network. {_KEEP}"
            )
