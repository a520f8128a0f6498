"""What a step of training costs beside a plain step of the target, known before the first."""

import dataclasses
import math

from neumeta_hf.axes import Size
from neumeta_hf.evaluation import count_macs_by_layer, count_parameters
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.space import SizeSpace
from neumeta_hf.training.recipe import LoopRecipe
from neumeta_hf.training.sampling import SizeSampler

# Draws are averaged over as many steps: turns and strata come round in fewer.
_STEPS = 12
# A backward pass is twice a forward pass, which is all that a teacher runs.
_PLAIN_STEP = 3
_BYTES = 4
_OPTIMIZER_TENSORS = {"adamw": 2, "sgd": 1, "muon": 2}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What a step costs.

    Attributes:
        num_sizes: How many sizes it trains at, on average.
        plain_steps: Its multiply-accumulates, over those of a step that trains the target alone on the same batch.
            Generation of weights is not counted: it does not depend on the batch. Nor is what is saved where the
            static part that lies before the generated one runs once for all sizes.
        num_bytes: Memory of weights, gradients, optimiser and the weights that a step generates; activations, which
            depend on the batch, come on top.
    """

    num_sizes: float
    plain_steps: float
    num_bytes: int

    def __str__(self) -> str:
        return (
            f"a step trains {self.num_sizes:.3g} sizes: about the arithmetic of {self.plain_steps:.1f} plain steps of "
            f"the target; weights, gradients and optimiser take about {self.num_bytes / 1e9:.2g} GB, activations more"
        )


def estimate_step(model: NeuMetaModel, sampler: SizeSampler, loop: LoopRecipe, *, distills: bool) -> StepCost:
    """Estimate what a step of training costs.

    Args:
        model: The family.
        sampler: Draws its sizes.
        loop: How it is trained.
        distills: Whether the reference runs along as a teacher.

    Returns:
        The mean over the first steps.
    """
    space, family, config = model.space, model.target_family, model.reference_config
    layers = count_macs_by_layer(family.empty(config), family.example_batch(config), family=family)
    steps = []
    for step in range(_STEPS):
        draws = sampler.draw(step)
        depths = sampler.draw_depths(step, len(draws))
        steps.append([model.size_at(draw, depth=depth) for draw, depth in zip(draws, depths, strict=True)])
    sizes = [size for step in steps for size in step]
    forwards = sum(_relative_macs(space, size, layers) for size in sizes) / _STEPS
    tensors = 2 + _OPTIMIZER_TENSORS[loop.optimizer.name] + (loop.ema_decay is not None)
    generated = max(sum(_num_weights(space, size) for size in step) for step in steps)
    num_weights = tensors * count_parameters(model) + 2 * generated + _num_weights(space, space.full)
    return StepCost(
        num_sizes=len(sizes) / _STEPS,
        plain_steps=forwards + distills / _PLAIN_STEP,
        num_bytes=_BYTES * num_weights,
    )


def _relative_macs(space: SizeSpace, size: Size, layers: dict[str, int]) -> float:
    """Multiply-accumulates of a size over those of full size.

    Those of a layer go with its weights; what has none, as the products of attention, goes with all that have.
    """
    names, shapes, full = space.names(size), space.shapes(size), space.shapes(space.full)
    kept = sum(
        macs * math.prod(shapes[names[name]]) / math.prod(full[name]) for name, macs in layers.items() if name in names
    )
    return kept / sum(layers.values())


def _num_weights(space: SizeSpace, size: Size) -> int:
    return sum(math.prod(shape) for shape in space.shapes(size).values())
