"""The moving average of the weights that a loop trains."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average, whose decay rises to its final value.

    Of `n` averaged steps the next decays by `min(decay, (1 + n) / (10 + n))`, and the first not at all: the starting
    weights are forgotten. Bit for bit what `diffusers.training_utils.EMAModel` does, which is no public API and whose
    import takes a second.

    Args:
        parameters: What is averaged; their values are where it starts.
        decay: Final share of the old average in the new one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, decay: float):
        self.tensors: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average once more.

        Args:
            parameters: Those that were given first, after a step of the optimiser.
        """
        before, self.steps = self.steps, self.steps + 1
        decay = min(self.decay, (1 + before) / (10 + before)) if before else 0.0
        # All at once: on a GPU one call for each tensor would take longer than the step of the optimiser.
        differences = torch._foreach_sub(self.tensors, list(parameters))  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_sub_(  # pyright: ignore[reportPrivateImportUsage]
            self.tensors, differences, alpha=1 - decay
        )

    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the averages in the place of the weights.

        Args:
            parameters: Those that were given first.
        """
        for parameter, tensor in zip(parameters, self.tensors, strict=True):
            parameter.data.copy_(tensor)

    def numbers(self) -> dict[str, float | int]:
        """What a state holds of it beside tensors, under the names that EMAModel gave them."""
        return {"decay": self.decay, "optimization_step": self.steps}
