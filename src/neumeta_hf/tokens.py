"""Losses and vectors of tokens. Knows tensors alone."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

IGNORED_TOKEN = -100
"""Label of a token that no loss counts, as transformers has it."""


class TokenLogits(NamedTuple):
    """Logits of the tokens that have a label.

    Attributes:
        logits: `[tokens, vocabulary]`.
        labels: `[tokens]`.
    """

    logits: Tensor
    labels: Tensor


def labelled(logits: Tensor, labels: Tensor, *, shift: bool) -> TokenLogits:
    """Pick what has a label.

    Args:
        logits: `[batch, tokens, vocabulary]`.
        labels: `[batch, tokens]`, -100 where there is none.
        shift: Whether the logits at a token foretell the one after it.

    Returns:
        Logits and labels, one behind the other.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORED_TOKEN
    return TokenLogits(logits[counted], labels[counted])


def token_loss(found: TokenLogits) -> Tensor:
    """Cross-entropy in nats a token; 0 where no token has a label.

    Args:
        found: As from `labelled`.

    Returns:
        A scalar.
    """
    return F.cross_entropy(found.logits.float(), found.labels, reduction="sum") / max(len(found.labels), 1)


def mean_pooling(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the mean of the vectors of a sentence's tokens, brought to length one.

    Args:
        hidden: `[sentences, tokens, features]`.
        attention_mask: 1 for tokens of the sentence, 0 for padding; `[sentences, tokens]`.

    Returns:
        `[sentences, features]`.
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
