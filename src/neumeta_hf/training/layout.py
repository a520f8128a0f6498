"""The memory layout that training computes in, and a fault of a CPU library that comes with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LONGEST_VECTOR = 16  # float32 values, of AVX-512


def to_channels_last(images: Tensor) -> Tensor:
    """Images as convolutions are about twice as fast on; the weights follow their input's layout.

    Args:
        images: `[batch, channels, height, width]`.

    Returns:
        The same values.
    """
    return images.contiguous(memory_format=torch.channels_last)


class SlicedStrides(TorchFunctionMode):
    """While active, a strided 1x1 convolution of few channels is a slice, convolved without a stride: the same values.

    oneDNN's gradient of the weights of the strided one, in channels-last layout and with fewer input channels than a
    vector has values, writes past a buffer: training hangs, crashes or goes on with wrong gradients, by the CPU
    (https://github.com/uxlfoundation/oneDNN/issues/6035). The shortcuts of a narrow ResNet are such convolutions. To be
    active in the forward pass, which decides what the backward pass runs.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, with a sliced input where it is such a convolution."""
        kwargs = dict(kwargs or {})
        if func is torch.conv2d:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            weight, stride = given["weight"], given.get("stride", 1)
            rows, columns = (stride, stride) if isinstance(stride, int) else stride
            is_pointwise = tuple(weight.shape[2:]) == (1, 1) and given.get("padding", 0) in (0, (0, 0))
            is_affected = weight.device.type == "cpu" and weight.shape[1] < _LONGEST_VECTOR
            if is_affected and is_pointwise and max(rows, columns) > 1:
                args, kwargs = (), {**given, "input": given["input"][..., ::rows, ::columns], "stride": 1}
        return func(*args, **kwargs)
