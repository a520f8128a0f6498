"""Language modelling: tokens foretold from those before them, or told from those around them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from neumeta_hf.scores import Score
from neumeta_hf.targets import TargetFamily
from neumeta_hf.tasks.base import register_task
from neumeta_hf.tasks.losses import class_divergence
from neumeta_hf.tasks.sampling import sample_tokens
from neumeta_hf.tasks.text import TextTask, TokenMeter
from neumeta_hf.tokens import TokenLogits, labelled, token_loss

_LOSS = Score(name="loss", label="loss (nats per token)", larger_is_better=False)
_PERPLEXITY = Score(name="perplexity", label="perplexity", larger_is_better=False, hub_name="perplexity")


@dataclasses.dataclass(kw_only=True)
class _LanguageModelling(TextTask):
    """What the two share; `shift` says whether logits at a token foretell the next one."""

    shift = False

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return token_loss(self.predictions(outputs, batch))

    def predictions(self, outputs: Any, batch: Mapping[str, Tensor]) -> TokenLogits:
        return labelled(outputs.logits, batch["labels"], shift=self.shift)

    def distillation(self, outputs: Any, teacher_outputs: Any, *, temperature: float) -> Tensor:
        return class_divergence(outputs.logits, teacher_outputs.logits, temperature=temperature)

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> TokenMeter:
        return TokenMeter(split_name, shift=self.shift)


@register_task
@dataclasses.dataclass(kw_only=True)
class CausalLanguageModelling(_LanguageModelling):
    """Each token foretold from those before it.

    Attributes:
        prompt: What the texts of the figure go on from. None: the first tokens of a few blocks of the split.
        prompt_tokens: How many tokens of a block that are.
        new_tokens: How many tokens the texts of the figure have beside.
        sampling_temperature: Temperature of these texts; 0 always takes the likeliest token.
        sampling_seed: Seed of these texts, the same for all sizes.
    """

    name = "causal-lm"
    labels = ("next_token",)
    shift = True
    scores = (
        _LOSS,
        _PERPLEXITY,
        Score(name="bits_per_byte", label="bits per byte", larger_is_better=False),
    )

    prompt: str | None = None
    prompt_tokens: Annotated[int, Field(ge=1, le=2**16)] = 16
    new_tokens: Annotated[int, Field(ge=1, le=2**16)] = 64
    sampling_temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    sampling_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def write(
        self, family: TargetFamily, network: nn.Module, batch: Mapping[str, Tensor], tokenizer: Any
    ) -> Sequence[str]:
        device = batch["input_ids"].device
        if self.prompt is None:
            prompts = batch["input_ids"][:2, : self.prompt_tokens]
        else:
            prompts = torch.tensor([tokenizer(self.prompt)["input_ids"]], device=device)
        found = sample_tokens(
            network,
            prompts,
            num_tokens=self.new_tokens,
            temperature=self.sampling_temperature,
            seed=self.sampling_seed,
            end=tokenizer.eos_token_id,
        )
        return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in found]


@register_task
@dataclasses.dataclass(kw_only=True)
class MaskedLanguageModelling(_LanguageModelling):
    """Hidden tokens told from those around them (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        mask_probability: How many tokens are hidden; in evaluation always the same ones.
    """

    name = "masked-lm"
    labels = ("masked_token",)
    scores = (
        _LOSS,
        _PERPLEXITY,
        Score(name="accuracy", label="accuracy", is_ratio=True, hub_name="accuracy"),
    )

    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15

    def make_meter(self, family: TargetFamily, network: nn.Module, split_name: str) -> "MaskedMeter":
        return MaskedMeter(split_name)

    def write(
        self, family: TargetFamily, network: nn.Module, batch: Mapping[str, Tensor], tokenizer: Any
    ) -> Sequence[str]:
        inputs, chosen = batch["input_ids"][:2, :64], batch["labels"][:2, :64] >= 0
        told = family.forward(network, batch).logits[:2, :64].argmax(-1)
        return [
            _with_told(tokens, is_chosen, found, tokenizer)
            for tokens, is_chosen, found in zip(inputs, chosen, told, strict=True)
        ]


class MaskedMeter(TokenMeter):
    """Cross-entropy and accuracy of hidden tokens.

    Args:
        split_name: For messages.
    """

    def __init__(self, split_name: str):
        super().__init__(split_name, shift=False)

    def compute(self) -> dict[str, float]:
        scores = super().compute()
        del scores["bits_per_byte"]  # of a text only those are told that were hidden
        return scores


def _with_told(inputs: Tensor, chosen: Tensor, told: Tensor, tokenizer: Any) -> str:
    """A text in which what a network tells of hidden tokens stands in brackets."""
    tokens = torch.where(chosen, told, inputs).tolist()
    parts = []
    for is_told, run in itertools.groupby(zip(chosen.tolist(), tokens, strict=True), key=lambda entry: entry[0]):
        text = tokenizer.decode([token for _, token in run])
        parts.append(f"[{text.strip()}]" if is_told else text)
    return " ".join(parts)
