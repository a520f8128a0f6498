"""Generating a tensor in chunks, so that memory is bounded by a chunk and not by the tensor."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(
    generate: Callable[..., Tensor],
    of_rows: Sequence[Tensor],
    *,
    num_columns: int,
    chunk_size: int,
    recompute_above: int,
) -> Tensor:
    """Generate the rows of a tensor, some at a time.

    Args:
        generate: From the chunks of `of_rows` to as many rows, or to several rows for each.
        of_rows: Tensors with a row for each output channel.
        num_columns: Input channels: how many channel pairs a row has.
        chunk_size: Channel pairs generated at a time, but never less than a row.
        recompute_above: In training, chunks of tensors with more channel pairs than this are recomputed in the backward
            pass instead of kept.

    Returns:
        All rows.
    """
    num_rows = len(of_rows[0])
    if torch.is_grad_enabled() and num_rows * num_columns > recompute_above:
        generate = functools.partial(checkpoint, generate, use_reentrant=False)
    chunks = zip(*(rows.split(max(1, chunk_size // num_columns)) for rows in of_rows), strict=True)
    return torch.cat([generate(*chunk) for chunk in chunks])
