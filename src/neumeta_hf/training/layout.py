"""The memory layout of training, and convolutions that CPUs compute slowly or wrongly in it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LONGEST_VECTOR = 16  # float32 values, of AVX-512


def to_channels_last(images: Tensor) -> Tensor:
    """Lay images out as convolutions are fastest on; the weights follow their input's layout.

    Args:
        images: `[batch, channels, height, width]`.

    Returns:
        The same values.
    """
    return images.contiguous(memory_format=torch.channels_last)


def suited_to(device: torch.device) -> AbstractContextManager[Any]:
    """Make what a forward pass on a device is to run in.

    Args:
        device: Where the network is.

    Returns:
        `CpuConvolutions` on CPUs, else a context of nothing: a mode costs every call of torch time, and breaks the
        graphs of `torch.compile`.
    """
    return CpuConvolutions() if device.type == "cpu" else contextlib.nullcontext()


class CpuConvolutions(TorchFunctionMode):
    """While active, convolutions on a CPU avoid what it is slow at or fails at in channels-last layout.

    In float32, an input goes on in contiguous layout from the first convolution whose output channels fill no whole
    vectors: normalisation over such channels takes several times as long in channels-last layout, which is more than
    its convolutions save. Values are the same but for rounding.

    A strided 1x1 convolution of few channels is a slice, convolved without a stride. oneDNN's gradient of the weights
    of the strided one, in channels-last layout and with fewer input channels than a vector has values, writes past a
    buffer: training hangs, crashes or goes on with wrong gradients, by the CPU
    (https://github.com/uxlfoundation/oneDNN/issues/6035). The shortcuts of a narrow ResNet are such convolutions.

    To be active in the forward pass, which decides what the backward pass runs.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`; if it is a convolution on a CPU, in the layout and with the stride that suit it."""
        kwargs = dict(kwargs or {})
        if func is not torch.conv2d:
            return func(*args, **kwargs)
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        images, weight = given["input"], given["weight"]
        if weight.device.type == "cpu":
            if weight.shape[0] % _LONGEST_VECTOR and not torch.is_autocast_enabled("cpu"):
                given["input"] = images.contiguous()
            stride = given.get("stride", 1)
            rows, columns = (stride, stride) if isinstance(stride, int) else stride
            is_pointwise = tuple(weight.shape[2:]) == (1, 1) and given.get("padding", 0) in (0, (0, 0))
            if weight.shape[1] < _LONGEST_VECTOR and is_pointwise and max(rows, columns) > 1:
                given |= {"input": given["input"][..., ::rows, ::columns], "stride": 1}
        return func(**given)
