"""What lies before the first generated module, computed once per augmented image instead of once per step.

Where a block or a decoder is generated and the rest is static, most of a step is running what never changes. Its
outputs are kept for several augmentations of the training images, which the epochs take in turn.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.batches import Batch, batch_size_of
from neumeta_hf.data import ImageSplit
from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.progress import progress_bar
from neumeta_hf.static_outputs import KnownOutputs

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

Call = tuple[str, int]
"""A module's name, and which call of it in one forward pass."""


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What the generated part of a network reads of the static part before it.

    Attributes:
        needed: Calls whose outputs are read, to the shape of one image's output.
        passed: Calls before these, whose outputs nothing else reads, to the same.
    """

    needed: Mapping[Call, tuple[int, ...]]
    passed: Mapping[Call, tuple[int, ...]]

    @property
    def values_per_image(self) -> int:
        """Numbers that are kept of an image."""
        return sum(math.prod(shape) for shape in self.needed.values())

    def known(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> KnownOutputs:
        """Find what modules put out for a batch.

        Args:
            batch: As `CachedSplit` gives it.
            dtype: Data type of the network.

        Returns:
            To be taken by networks of all sizes.
        """
        first = next(iter(batch.values()))
        # Where nothing reads an output only its shape matters, and one number has every shape.
        nothing = torch.zeros((), dtype=dtype, device=first.device)
        known = {call: nothing.expand(len(first), *shape) for call, shape in self.passed.items()}
        kept = {call: batch[key_of(call)].to(dtype).view(-1, *shape) for call, shape in self.needed.items()}
        return KnownOutputs({**known, **kept})


def find_boundary(model: NeuMetaModel, reference: nn.Module, batch: Batch) -> Boundary | None:
    """Find what the generated part of a network reads of the static part before it, by trying.

    Args:
        model: The family.
        reference: Its reference; unchanged.
        batch: A few samples, as training gives them to networks.

    Returns:
        The calls of static modules that do not depend on generated weights; None where none of them has weights, one
        draws at random, or one puts out something else than a tensor per image.
    """
    names, modes = model.static_modules, {module: module.training for module in reference.modules()}

    def run(seed: int = 1) -> Any:
        return model.target_family.forward(reference, batch, seed=seed)

    def other_run() -> Any:  # of another step: what latents were drawn for is no constant
        return run(2)

    try:
        with torch.no_grad():
            # As in training, where static BatchNorm keeps its statistics: what draws at random gives itself away.
            for module in reference.modules():
                module.training = not isinstance(module, _BatchNorm)
            calls, again = _record(reference, names, run), _record(reference, names, other_run)
            others = _with_other_weights(reference, model.generated_names, lambda: _record(reference, names, other_run))
            prefix = {
                call: found.output
                for call, found in calls.items()
                if _is_same(found.inputs, others.get(call), "inputs")
            }
            is_fixed = all(_is_same([calls[call].output], again.get(call), "outputs") for call in prefix)
            heavy = {call: output for call, output in prefix.items() if _has_weights(reference, call)}
            if (
                not heavy
                or not is_fixed
                or not all(_is_per_image(value, batch_size_of(batch)) for value in prefix.values())
            ):
                return None
            needed = [call for call in heavy if _matters(call, heavy, reference, names, run)]
            # Modules without weights are run on what is known, but for those that nothing reads any more.
            light = [call for call in prefix if call not in heavy and not _matters(call, prefix, reference, names, run)]
    finally:
        for module, training in modes.items():
            module.training = training
    shapes = {call: tuple(prefix[call].shape[1:]) for call in (*heavy, *light)}
    return Boundary(
        needed={call: shapes[call] for call in needed},
        passed={call: shape for call, shape in shapes.items() if call not in needed},
    )


@dataclasses.dataclass(frozen=True)
class _Recorded:
    inputs: list[Tensor]
    output: Any


def _record(network: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> dict[Call, _Recorded]:
    """Inputs and output of every call of the named modules."""
    found: dict[Call, _Recorded] = {}
    handles = []
    for name in names:
        count = itertools.count()

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name, count: Any = count) -> None:
            inputs = [value.clone() for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            found[name, next(count)] = _Recorded(inputs, output.clone() if isinstance(output, Tensor) else output)

        handles.append(network.get_submodule(name).register_forward_hook(keep, with_kwargs=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _with_other_weights(network: nn.Module, names: Sequence[str], call: Callable[[], _Result]) -> _Result:
    """Call something while some tensors of a network have other values."""
    tensors = network.state_dict()
    before = {name: tensors[name].clone() for name in names}
    try:
        for name in names:
            tensors[name].mul_(0.5).add_(0.1)
        return call()
    finally:
        for name, tensor in before.items():
            tensors[name].copy_(tensor)


def _is_same(values: Sequence[Any], other: _Recorded | None, which: Literal["inputs", "outputs"]) -> bool:
    if other is None or not all(isinstance(value, Tensor) for value in values):
        return False
    others = other.inputs if which == "inputs" else [other.output]
    return len(values) == len(others) and all(map(torch.equal, values, others))


def _has_weights(network: nn.Module, call: Call) -> bool:
    return next(network.get_submodule(call[0]).parameters(), None) is not None


def _is_per_image(output: Any, num_images: int) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == num_images and output.is_floating_point()


def _matters(
    call: Call, outputs: Mapping[Call, Tensor], network: nn.Module, names: Sequence[str], run: Callable[[], Any]
) -> bool:
    """Whether what a network puts out depends on an output when all other known ones are fixed."""
    poisoned = {**outputs, call: torch.full_like(outputs[call], math.nan)}
    with KnownOutputs(poisoned).taken_by(network, names):
        result = run()
    values = result.values() if isinstance(result, Mapping) else [result]
    return any(isinstance(value, Tensor) and bool(value.isnan().any()) for value in values)


def key_of(call: Call) -> str:
    """Name the output of a call in a batch.

    Args:
        call: One that is needed.

    Returns:
        A key beside those of the data.
    """
    return f"static_outputs/{call[0]}#{call[1]}"


class CachedSplit(ImageSplit):
    """Training images along with what the static part of the network puts out for them.

    Args:
        split: The training images.
        boundary: What is kept.
        run: Runs the reference on a batch.
        reference: That it runs, in evaluation mode.
        num_augmentations: How many augmentations are kept; epoch `e` has number `e` modulo that.
        max_gigabytes: What is kept may take at most so much memory.

    Raises:
        RecipeError: It would take more.
    """

    def __init__(
        self,
        split: ImageSplit,
        boundary: Boundary,
        *,
        run: Callable[[Batch], Any],
        reference: nn.Module,
        num_augmentations: int,
        max_gigabytes: float,
    ):
        vars(self).update(vars(split))
        self._boundary = boundary
        self._run = run
        self._reference = reference
        self.num_augmentations = num_augmentations if self.augmented else 1
        gigabytes = 2 * self.num_augmentations * len(split) * boundary.values_per_image / 2**30
        if gigabytes > max_gigabytes:
            raise RecipeError(
                f"static_cache: {self.num_augmentations} augmentations of {len(split):,} images with "
                f"{boundary.values_per_image:,} numbers each take {gigabytes:.1f} GB, at most {max_gigabytes:g} are "
                "allowed: keep fewer augmentations (static_cache.augmentations), or allow more "
                "(static_cache.max_gigabytes)."
            )
        logger.info(
            "static cache: %s of %d images, %d augmentations in turn, %.2f GB",
            ", ".join(name for name, _ in boundary.needed),
            len(split),
            self.num_augmentations,
            gigabytes,
        )
        self._kept: dict[int, dict[str, Tensor]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of an epoch, and compute what is not known of it yet."""
        super().set_epoch(epoch % self.num_augmentations)
        if self.epoch not in self._kept:
            self._kept[self.epoch] = self._compute()

    def _compute(self, *, batch_size: int = 256) -> dict[str, Tensor]:
        needed = self._boundary.needed
        # A row an image: whatever layout training computes in, what is kept comes back as it was.
        rows = {key_of(call): (len(self), math.prod(shape)) for call, shape in needed.items()}
        kept = {key: torch.empty(shape, dtype=torch.float16) for key, shape in rows.items()}
        names = sorted({name for name, _ in needed})
        starts = range(0, len(self), batch_size)
        for start in progress_bar(
            starts, description=f"static outputs {self.epoch + 1}/{self.num_augmentations}", unit=" batches"
        ):
            positions = np.arange(start, min(start + batch_size, len(self)))
            batch = super().__getitems__(positions.tolist())
            with torch.no_grad():
                calls = _record(self._reference, names, lambda batch=batch: self._run(batch))
            for call in needed:
                kept[key_of(call)][positions] = calls[call].output.reshape(len(positions), -1).to("cpu", torch.float16)
        if not all(tensor.isfinite().all() for tensor in kept.values()):
            raise RecipeError(
                "static_cache: an output of the static part is beyond 65,504, the largest number in half precision. "
                "Set static_cache.augmentations to 0, which runs the static part at every step."
            )
        return kept

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch as of any split, with the output of each needed call besides, in half precision."""
        chosen = torch.as_tensor(np.asarray(positions, dtype=np.int64))
        kept = self._kept[self.epoch]
        return {**super().__getitems__(positions), **{key: tensor[chosen] for key, tensor in kept.items()}}
