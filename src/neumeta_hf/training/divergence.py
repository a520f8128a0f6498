"""Why a loss or a weight is not finite: data, weights before the first step, precision, or learning rate.

Looked into once, when a run has failed; what is asked of each step is in the loop.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from neumeta_hf.data import Split, StreamSplit
from neumeta_hf.errors import CheckpointError, DataError, NeuMetaError, RecipeError

_MOST_NAMED = 3


def find_broken(module: nn.Module) -> list[str]:
    """Find parameters of a module that hold NaN or infinite values.

    Args:
        module: Any module with parameters.

    Returns:
        Their names. Buffers are not looked at: a mask may well be infinite.
    """
    named = dict(module.named_parameters())
    # Together: each answer that Python waits for stops the device.
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in named.values()]).tolist()
    return [name for name, is_finite in zip(named, finite, strict=True) if not is_finite]


def check_start(module: nn.Module, name: str) -> None:
    """Refuse to train weights that are not finite before the first step.

    Args:
        module: What is trained.
        name: Name of the loop.

    Raises:
        CheckpointError: A weight is NaN or infinite.
    """
    if broken := find_broken(module):
        raise CheckpointError(
            f"{name}: {_listed(broken)} held NaN or infinite values before the first step, so no learning rate helps: "
            "take another checkpoint, or look at what ran before it (pretrain, fit)."
        )


def find_rows(split: Split | StreamSplit, batches: Sequence[Sequence[int]]) -> list[int]:
    """Find rows of a split whose images or labels are not finite.

    Args:
        split: The training split.
        batches: Positions in the split, a batch at a time.

    Returns:
        Row numbers in its source, in the order that they were trained on.
    """
    rows: list[int] = []
    if isinstance(split, StreamSplit):  # tokens and bytes of images are finite
        return rows
    for positions in batches:
        bad = torch.zeros(len(positions), dtype=torch.bool)
        for tensor in split.__getitems__(positions).values():
            bad |= ~tensor.isfinite().flatten(1).all(1) if tensor.ndim > 1 else ~tensor.isfinite()
        rows += split.indices[[position for position, is_bad in zip(positions, bad, strict=True) if is_bad]].tolist()
    return rows


def explain(
    values: Mapping[str, float],
    *,
    name: str,
    module: nn.Module,
    split: Split | StreamSplit,
    batches: Sequence[Sequence[int]],
    step: int,
    is_first: bool,
    checked_step: int,
    learning_rate: float,
    precision: str,
    in_full_precision: Callable[[], Mapping[str, Any]],
) -> NeuMetaError:
    """Tell why a loss, or a weight after it, is not finite.

    Args:
        values: Losses of the last batch, "loss" among them.
        name: Name of the loop.
        module: What is trained, as it is now.
        split: The training split.
        batches: Positions in the split of what was trained on since losses were last finite.
        step: Step of the failure.
        is_first: Whether no weight was changed before.
        checked_step: The last step whose losses were finite; 0: none.
        learning_rate: Its peak, as the recipe gives it.
        precision: "no", or what is mixed.
        in_full_precision: Computes the losses of the last batch again, with the weights as they are.

    Returns:
        The error to raise.
    """
    failed = [key for key, value in values.items() if not math.isfinite(value)]
    broken = find_broken(module)
    if failed:
        parts = [key for key in failed if key != "loss"]
        what = f"the loss is {values.get('loss')} at step {step}{f' ({_listed(parts)})' if parts else ''}"
    else:
        what = f"{_listed(broken)} holds NaN or infinite values after step {step}"
    if rows := find_rows(split, batches):
        return DataError(
            f"{name}: {what}, because the data are not finite: {'row' if len(rows) == 1 else 'rows'} "
            f"{_listed(list(map(str, rows)))} of the {split.name} split. Mend or remove what lies there."
        )
    if precision != "no" and failed and not broken and _are_finite(in_full_precision()):
        return RecipeError(
            f"{name}: {what} in {precision}, and finite in full precision: a value overflows. Set mixed_precision: no."
        )
    if is_first:
        return RecipeError(
            f"{name}: {what}, before any weight was changed. Images and weights are finite, so the network's outputs "
            "or a loss overflow at any learning rate. Look at the scale of the checkpoint's weights and at losses."
        )
    since = f"since step {checked_step}, where it was finite" if checked_step else "since the start"
    return RecipeError(
        f"{name}: {what}. Images, and the weights at the start, are finite: training diverged {since}. Lower the "
        f"learning rate ({learning_rate:g}, {name}.optimizer.learning_rate), add warm-up, or clip the gradient."
    )


def batches_between(loader: Any, epoch: int, first: int, last: int) -> list[list[int]]:
    """List what a loader gave out, without loading it.

    Args:
        loader: Whose order depends on the epoch alone; its next pass has to set the epoch anew.
        epoch: Number of the pass, from 0.
        first: Number of the first batch in it, from 0.
        last: Number after the last batch.

    Returns:
        Positions in the split, a batch at a time.
    """
    loader.set_epoch(epoch)
    return [list(batch) for batch in itertools.islice(loader.batch_sampler, first, last)]


def _are_finite(losses: Mapping[str, Any]) -> bool:
    return all(math.isfinite(float(value)) for value in losses.values())


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
