"""Sentence embeddings: a pretrained encoder's vectors, and how alike it finds sentences, kept at every size."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from neumeta_hf.errors import DataError, RecipeError
from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily
from neumeta_hf.tasks.base import register_task
from neumeta_hf.tasks.text import TextTask
from neumeta_hf.tokens import mean_pooling

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register_task
@dataclasses.dataclass(kw_only=True)
class SentenceEmbedding(TextTask):
    """The mean of a sentence's token vectors, of length one (Reimers and Gurevych 2019, arXiv:1908.10084).

    There is no loss of its own: networks learn by distillation alone, from a pretrained encoder.

    Attributes:
        vectors: Weight of `1 - cosine` between a network's vector of a sentence and its teacher's.
        similarities: Weight of the mean squared error of the cosines between all sentences of a batch.
    """

    name = "sentence-embedding"
    labels = ("similarity",)
    has_loss = False
    scores = (Score(name="spearman", label="Spearman correlation", is_ratio=True, hub_name="spearmanr"),)

    vectors: _Weight = 1.0
    similarities: _Weight = 1.0

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return outputs.last_hidden_state.new_zeros(())

    def predictions(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return mean_pooling(outputs.last_hidden_state, batch["attention_mask"])

    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        loss = outputs.new_zeros(())
        if self.vectors:
            if outputs.shape != teacher_outputs.shape:
                raise RecipeError(
                    f"task.vectors={self.vectors}: vectors of {outputs.shape[-1]} numbers cannot be compared with "
                    f"those of {teacher_outputs.shape[-1]}. Set it to 0, or keep the hidden size at every size."
                )
            loss = loss + self.vectors * (1 - (outputs * teacher_outputs).sum(-1)).mean()
        if self.similarities:
            loss = loss + self.similarities * F.mse_loss(outputs @ outputs.T, teacher_outputs @ teacher_outputs.T)
        return loss

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> "SimilarityMeter":
        return SimilarityMeter(split_name)

    def write(
        self, family: TargetFamily, network: nn.Module, batch: Mapping[str, Tensor], tokenizer: Any
    ) -> Sequence[str]:
        vectors = self.predictions(family.forward(network, batch), batch)
        first, second = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in batch["input_ids"].chunk(2))
        found = _cosines(vectors).tolist()
        return [f"{cosine:.3f}\n{one}\n{two}" for cosine, one, two in zip(found, first, second, strict=True)]


def _cosines(vectors: Tensor) -> Tensor:
    """Of each pair, whose first sentences stand before all second ones; vectors have length one."""
    first, second = vectors.float().chunk(2)
    return (first * second).sum(-1)


class SimilarityMeter:
    """Spearman's correlation of cosines with how alike people find the sentences of a pair.

    Args:
        split_name: For messages.
    """

    def __init__(self, split_name: str):
        self.split_name = split_name
        self.found: list[Tensor] = []
        self.wanted: list[Tensor] = []

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        if "labels" not in batch:
            raise DataError(f"pairs of the {self.split_name} split have no scores: measure on another split.")
        vectors = mean_pooling(outputs.last_hidden_state.float(), batch["attention_mask"])
        self.found.append(_cosines(vectors).cpu())
        self.wanted.append(batch["labels"].float().cpu())

    def compute(self) -> dict[str, float]:
        """Compute the correlation of all pairs.

        Raises:
            DataError: All scores are the same, or there is one pair, so that there is none.
        """
        from torchmetrics.functional.regression import spearman_corrcoef

        found, wanted = torch.cat(self.found), torch.cat(self.wanted)
        if len(wanted.unique()) < 2:
            raise DataError(f"all scores of the {self.split_name} split are the same: nothing correlates with them.")
        return {"spearman": float(spearman_corrcoef(found, wanted))}
