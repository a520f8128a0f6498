"""Generated weights that do nothing: the ReLU behind them is shut, at every image, and no gradient opens it again."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neumeta_hf.batches import Inputs
from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.preparation.comparison import model_outputs, relative_error

logger = logging.getLogger(__name__)

_NOTHING = 1e-4
_SOMETHING = 1e-3
"""Relative changes of the outputs that are none, and some: a network at the start of its training lies between."""

_MOST_NAMED = 3


def find_silent(model: NeuMetaModel, reference: nn.Module, batch: Inputs, width: float) -> tuple[list[str], list[str]]:
    """Find generated tensors that change nothing in what a network puts out, and do in the reference.

    Each is set to zero alone, but for biases, which shift what a shut ReLU leaves.

    Args:
        model: The family.
        reference: Its reference, on the same device.
        batch: A few samples, as training gives them to networks.
        width: Width of the network.

    Returns:
        Names of tensors that change nothing, and of all that were tried and change something in the reference. Where
        the network puts out the same for all samples, and the reference does not, all of them change nothing.
    """
    full, generated = _full(model, reference), model.generate(width)
    known = _matter(model, full, batch, 1.0, _SOMETHING)
    if _is_one_for_all(model, generated, batch, width) and not _is_one_for_all(model, full, batch, 1.0):
        return known, known
    alive = _matter(model, generated, batch, width, _NOTHING)
    return [name for name in known if name not in alive], known


def check_silence(model: NeuMetaModel, reference: nn.Module, batch: Inputs, widths: tuple[float, float]) -> None:
    """Refuse a family whose generated weights do nothing: its networks are all the same, whatever their size.

    Args:
        model: The family; its mode is restored.
        reference: As for `find_silent`.
        batch: As for `find_silent`.
        widths: The smallest and the largest trained.

    Raises:
        RecipeError: At one of the widths no generated tensor does anything.
    """
    is_training = model.training
    # Statistics of a kept BatchNorm may not be stored yet; of a batch they always are.
    model.train(bool(model.statistic_names))
    try:
        with torch.no_grad():
            found = [(width, *find_silent(model, reference, batch, width)) for width in widths]
    finally:
        model.train(is_training)
    for width, silent, tried in found:
        if not silent:
            continue
        named = ", ".join(silent[:_MOST_NAMED]) + (" and others" if len(silent) > _MOST_NAMED else "")
        if len(silent) == len(tried):
            raise RecipeError(
                f"train: the family fell silent: at width {width:g} the generated weights ({named}) change nothing in "
                "the outputs, because a ReLU behind them gives zero for every image. Lower the learning rate "
                "(train.optimizer), add warm-up (train.schedule.warmup), or leave the hypernetwork's options at their "
                "defaults."
            )
        logger.warning(
            "at width %g %d of %d generated tensors (%s) change nothing in the network's outputs",
            width,
            len(silent),
            len(tried),
            named,
        )


def _full(model: NeuMetaModel, reference: nn.Module) -> dict[str, Tensor]:
    held = reference.state_dict()
    return {name: held[name] for name in model.generated_names}


def _run(model: NeuMetaModel, generated: Mapping[str, Tensor], batch: Inputs, width: float) -> list[Tensor]:
    return model_outputs(model.run(model.size_at(width), generated, batch))


def _is_one_for_all(model: NeuMetaModel, generated: Mapping[str, Tensor], batch: Inputs, width: float) -> bool:
    """Whether a network puts out the same for all samples."""
    outputs = _run(model, generated, batch, width)
    return relative_error(outputs, [output[:1].expand_as(output) for output in outputs]) <= _NOTHING


def _matter(
    model: NeuMetaModel, generated: Mapping[str, Tensor], batch: Inputs, width: float, least: float
) -> list[str]:
    """The tensors without which a network puts out something else."""
    expected = _run(model, generated, batch, width)
    return [
        name
        for name, tensor in generated.items()
        if tensor.ndim > 1
        and relative_error(expected, _run(model, {**generated, name: torch.zeros_like(tensor)}, batch, width)) > least
    ]
