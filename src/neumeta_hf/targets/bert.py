"""Text encoders of transformers at any size: BERT and RoBERTa, as sentence encoders and with a head for masked words.

Stock classes have heads of `hidden_size / num_attention_heads` positions. So a size is stock where it has the same
heads and MLP in every layer and the heads fill the residual stream. That holds when only the MLP or the depth changes,
or when all shrink in step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from neumeta_hf.axes import Size
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import register_target
from neumeta_hf.targets.transformer import STREAM, Heads, PerLayerSizes, TransformerFamily, homogeneous, resized


@strict
class NeuMetaBertConfig(BertConfig):
    """A `BertConfig` whose `per_layer_config` is built, with heads of `head_dim` positions."""

    model_type = "neumeta_bert"


@strict
class NeuMetaRobertaConfig(RobertaConfig):
    """A `RobertaConfig` whose `per_layer_config` is built, with heads of `head_dim` positions."""

    model_type = "neumeta_roberta"


class _EncoderLayers(PerLayerSizes):
    @staticmethod
    def stock_config(config: Any) -> Any:
        """One head, which any stream has room for, until layers get their own."""
        found = homogeneous(config)
        found.num_attention_heads = 1
        return found

    def sized_layers(self) -> Sequence[nn.Module]:
        return self.base_model.encoder.layer  # pyright: ignore[reportAttributeAccessIssue]

    def resize_layer(self, layer: Any, config: Any) -> None:
        attention = layer.attention.self
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention.num_attention_heads, attention.attention_head_size = config.num_attention_heads, head_dim
        attention.all_head_size, attention.scaling = config.num_attention_heads * head_dim, head_dim**-0.5
        for name in ("query", "key", "value"):
            setattr(attention, name, resized(getattr(attention, name), outputs=attention.all_head_size))
        layer.attention.output.dense = resized(layer.attention.output.dense, inputs=attention.all_head_size)
        layer.intermediate.dense = resized(layer.intermediate.dense, outputs=config.intermediate_size)
        layer.output.dense = resized(layer.output.dense, inputs=config.intermediate_size)


class NeuMetaBertModel(_EncoderLayers, BertModel):
    """`BertModel` with its own heads and MLP in every layer."""

    config: NeuMetaBertConfig


class NeuMetaRobertaModel(_EncoderLayers, RobertaModel):
    """`RobertaModel` with its own heads and MLP in every layer."""

    config: NeuMetaRobertaConfig


class NeuMetaBertForMaskedLM(_EncoderLayers, BertForMaskedLM):
    """`BertForMaskedLM` with its own heads and MLP in every layer."""

    config: NeuMetaBertConfig


class NeuMetaRobertaForMaskedLM(_EncoderLayers, RobertaForMaskedLM):
    """`RobertaForMaskedLM` with its own heads and MLP in every layer."""

    config: NeuMetaRobertaConfig


class _EncoderFamily(TransformerFamily):
    """Networks that share their config class with those of another task: the config's `architectures` tells them apart.

    Attributes:
        suffix: What the names of its networks' classes end with.
    """

    input_names = ("input_ids", "attention_mask")
    stock_types = {BertConfig: NeuMetaBertConfig, RobertaConfig: NeuMetaRobertaConfig}
    model_types = ("bert", "roberta", "neumeta_bert", "neumeta_roberta")
    suffix: ClassVar[str]

    def config_of(self, network: nn.Module) -> PreTrainedConfig | None:
        config = getattr(network, "config", None)
        if not isinstance(config, PreTrainedConfig) or config.model_type not in self.model_types:
            return None
        if not type(network).__name__.endswith(self.suffix):
            return None
        config.architectures = [type(network).__name__]  # as saving does
        return config

    def build(self, config: PreTrainedConfig) -> nn.Module:
        network = super().build(config)
        self.config_of(network)
        return network

    def config_at(self, config: Any, size: Size) -> PreTrainedConfig:
        found: Any = super().config_at(config, size)
        if not config.architectures:
            return found
        kind = {"bert": "Bert", "roberta": "Roberta"}[found.model_type.removeprefix("neumeta_")]
        prefix = "NeuMeta" if found.model_type.startswith("neumeta_") else ""
        found.architectures = [f"{prefix}{kind}{self.suffix}"]
        return found

    def is_stock(self, fields: Mapping[str, Any], layers: Sequence[tuple[int, int]], head_dim: int) -> bool:
        return len(set(layers)) == 1 and layers[0][0] * head_dim == fields["hidden_size"]

    def _prefix(self, config: PreTrainedConfig) -> str:
        return ""

    def stack(self, config: PreTrainedConfig) -> str:
        return f"{self._prefix(config)}encoder.layer"

    def layer_rules(self, heads: Heads, mlp: str) -> dict[str, Rule]:
        return {
            **{f"attention.self.{name}": (heads.queries, STREAM) for name in ("query", "key", "value")},
            "attention.output.dense": (STREAM, heads.queries),
            "attention.output.LayerNorm": (STREAM,),
            "intermediate.dense": (mlp, STREAM),
            "output.dense": (STREAM, mlp),
            "output.LayerNorm": (STREAM,),
        }

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        path = f"{self._prefix(config)}embeddings"
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        return {**{f"{path}.{name}": (None, STREAM) for name in names}, f"{path}.LayerNorm": (STREAM,)}

    def example_batch(self, config: Any, batch_size: int = 2) -> dict[str, Tensor]:
        """Random token ids, and a mask that leaves none out."""
        generator = torch.Generator("cpu").manual_seed(0)
        # Positions of RoBERTa begin behind the number of its padding token.
        length = min(16, config.max_position_embeddings - (config.pad_token_id or 0) - 1)
        ids = torch.randint(2, config.vocab_size, (batch_size, length), generator=generator, device="cpu")
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@register_target
class BertFamily(_EncoderFamily):
    """Sentence encoders: one axis for the residual stream, and one for the heads and one for the MLP of every layer."""

    name = "bert"
    task = "sentence-embedding"
    auto_class = AutoModel
    suffix = "Model"
    output_axes = (STREAM,)

    def accepts(self, config: PreTrainedConfig) -> bool:
        return super().accepts(config) and not _is_masked_lm(config)

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        return {**super().outer_rules(config), "pooler.dense": (STREAM, STREAM)}


@register_target
class BertMaskedLMFamily(_EncoderFamily):
    """As the encoders' target family, with a head for masked words; its output weights are the word embeddings."""

    name = "bert_masked_lm"
    task = "masked-lm"
    auto_class = AutoModelForMaskedLM
    suffix = "ForMaskedLM"

    def accepts(self, config: PreTrainedConfig) -> bool:
        return super().accepts(config) and _is_masked_lm(config)

    def _prefix(self, config: PreTrainedConfig) -> str:
        return f"{config.model_type.removeprefix('neumeta_')}."

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        return {
            **super().outer_rules(config),
            "cls.predictions.transform.dense": (STREAM, STREAM),
            "cls.predictions.transform.LayerNorm": (STREAM,),
            "cls.predictions.decoder": (None, STREAM),
            "lm_head.dense": (STREAM, STREAM),
            "lm_head.layer_norm": (STREAM,),
            "lm_head.decoder": (None, STREAM),
        }


def _is_masked_lm(config: PreTrainedConfig) -> bool:
    return any(name.endswith("ForMaskedLM") for name in config.architectures or ())


for _config, _encoder, _masked_lm in (
    (NeuMetaBertConfig, NeuMetaBertModel, NeuMetaBertForMaskedLM),
    (NeuMetaRobertaConfig, NeuMetaRobertaModel, NeuMetaRobertaForMaskedLM),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _encoder)
    AutoModelForMaskedLM.register(_config, _masked_lm)
