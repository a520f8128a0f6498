"""Which tokens of a block a masked language model is to tell (Devlin et al. 2019, arXiv:1810.04805)."""

import dataclasses
from typing import Any, Self

import numpy as np
from transformers import PreTrainedTokenizerFast

from neumeta_hf.errors import DataError
from neumeta_hf.tokens import IGNORED_TOKEN


@dataclasses.dataclass(frozen=True)
class Masking:
    """Hides tokens: of those chosen 80 % become the mask, 10 % a random token, and 10 % stay as they are.

    Attributes:
        probability: How often a token is chosen; at least one of a block is.
        mask: The token that stands for a hidden one.
        kept: Tokens that are never chosen.
        num_tokens: Number of tokens of the vocabulary.
        seed: Seed of the choice, along with the number of the block and the epoch.
    """

    probability: float
    mask: int
    kept: np.ndarray
    num_tokens: int
    seed: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, probability: float, *, seed: int) -> Self:
        """Make the masking of a tokenizer.

        Args:
            tokenizer: Has a token for the mask.
            probability: How often a token is chosen.
            seed: Seed of the choice.

        Returns:
            The masking.

        Raises:
            DataError: The tokenizer has no such token.
        """
        mask: Any = tokenizer.mask_token_id
        if mask is None:
            raise DataError(
                "the tokenizer has no mask token, and masked-lm hides tokens behind it: name another with "
                "data.tokenizer, or set its mask_token."
            )
        return cls(probability, mask, np.array(tokenizer.all_special_ids), len(tokenizer), seed)

    def hide(self, tokens: np.ndarray, rows: np.ndarray, *, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Hide tokens of blocks, the same for the same block and epoch.

        Args:
            tokens: `[blocks, tokens]`; not modified.
            rows: Numbers of the blocks, `[blocks]`.
            epoch: From 0.

        Returns:
            Tokens, and labels of the chosen ones, -100 elsewhere.
        """
        inputs, labels = tokens.copy(), np.full_like(tokens, IGNORED_TOKEN)
        free = ~np.isin(tokens, self.kept)
        for row, number in enumerate(rows):
            generator = np.random.default_rng([self.seed, epoch, int(number)])
            ranks, kinds = generator.random((2, tokens.shape[1]))
            others = generator.integers(self.num_tokens, size=tokens.shape[1])
            chosen = free[row] & (ranks < self.probability)
            if not chosen.any() and free[row].any():  # so that every block has a loss
                chosen[np.where(free[row], ranks, 2.0).argmin()] = True
            labels[row, chosen] = tokens[row, chosen]
            inputs[row, chosen & (kinds < 0.8)] = self.mask
            replaced = chosen & (kinds >= 0.8) & (kinds < 0.9)
            inputs[row, replaced] = others[replaced]
        return inputs, labels
