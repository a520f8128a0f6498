"""Decoder language models of transformers at any size: Llama, Mistral, Qwen2 and Qwen3.

Groups of query heads that share keys and values move as wholes, `head_dim` and the vocabulary stay. A size with as many
heads and as wide an MLP in every layer is a stock network. Llama has a rule of its own: its number of heads must divide
`hidden_size`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from neumeta_hf.batches import Inputs
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import register_target
from neumeta_hf.targets.transformer import STREAM, Heads, PerLayerSizes, TransformerFamily, resized


@strict
class NeuMetaLlamaConfig(LlamaConfig):
    """A `LlamaConfig` whose `per_layer_config` is built, of any `hidden_size`."""

    model_type = "neumeta_llama"

    def validate_architecture(self):
        """Heads have `head_dim` positions, whatever `hidden_size` is."""


@strict
class NeuMetaMistralConfig(MistralConfig):
    """A `MistralConfig` whose `per_layer_config` is built."""

    model_type = "neumeta_mistral"


@strict
class NeuMetaQwen2Config(Qwen2Config):
    """A `Qwen2Config` whose `per_layer_config` is built."""

    model_type = "neumeta_qwen2"


@strict
class NeuMetaQwen3Config(Qwen3Config):
    """A `Qwen3Config` whose `per_layer_config` is built."""

    model_type = "neumeta_qwen3"


class _DecoderLayers(PerLayerSizes):
    def sized_layers(self) -> Sequence[nn.Module]:
        return self.model.layers  # pyright: ignore[reportAttributeAccessIssue]

    def resize_layer(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        queries = config.num_attention_heads * attention.head_dim
        keys = config.num_key_value_heads * attention.head_dim
        attention.num_key_value_groups = queries // keys
        attention.q_proj = resized(attention.q_proj, outputs=queries)
        attention.k_proj, attention.v_proj = (
            resized(linear, outputs=keys) for linear in (attention.k_proj, attention.v_proj)
        )
        attention.o_proj = resized(attention.o_proj, inputs=queries)
        mlp.intermediate_size = config.intermediate_size
        mlp.gate_proj, mlp.up_proj = (
            resized(linear, outputs=config.intermediate_size) for linear in (mlp.gate_proj, mlp.up_proj)
        )
        mlp.down_proj = resized(mlp.down_proj, inputs=config.intermediate_size)


class NeuMetaLlamaForCausalLM(_DecoderLayers, LlamaForCausalLM):
    """`LlamaForCausalLM` with its own heads and MLP in every layer."""

    config: NeuMetaLlamaConfig


class NeuMetaMistralForCausalLM(_DecoderLayers, MistralForCausalLM):
    """`MistralForCausalLM` with its own heads and MLP in every layer."""

    config: NeuMetaMistralConfig


class NeuMetaQwen2ForCausalLM(_DecoderLayers, Qwen2ForCausalLM):
    """`Qwen2ForCausalLM` with its own heads and MLP in every layer."""

    config: NeuMetaQwen2Config


class NeuMetaQwen3ForCausalLM(_DecoderLayers, Qwen3ForCausalLM):
    """`Qwen3ForCausalLM` with its own heads and MLP in every layer."""

    config: NeuMetaQwen3Config


@register_target
class LlamaFamily(TransformerFamily):
    """One axis for the residual stream, and one for the groups of heads and one for the MLP of every layer."""

    name = "llama"
    model_types = ("llama", "mistral", "neumeta_llama", "neumeta_mistral")
    task = "causal-lm"
    auto_class = AutoModelForCausalLM
    input_names = ("input_ids", "attention_mask")
    stock_types = {LlamaConfig: NeuMetaLlamaConfig, MistralConfig: NeuMetaMistralConfig}
    has_groups = True

    def stack(self, config: PreTrainedConfig) -> str:
        return "model.layers"

    def is_stock(self, fields: Mapping[str, Any], layers: Sequence[tuple[int, int]], head_dim: int) -> bool:
        is_llama = "pretraining_tp" in fields
        return len(set(layers)) == 1 and not (is_llama and fields["hidden_size"] % layers[0][0])

    def layer_rules(self, heads: Heads, mlp: str) -> dict[str, Rule]:
        return {
            "self_attn.q_proj": (heads.queries, STREAM),
            "self_attn.k_proj": (heads.keys, STREAM),
            "self_attn.v_proj": (heads.keys, STREAM),
            "self_attn.o_proj": (STREAM, heads.queries),
            "mlp.gate_proj": (mlp, STREAM),
            "mlp.up_proj": (mlp, STREAM),
            "mlp.down_proj": (STREAM, mlp),
            "input_layernorm": (STREAM,),
            "post_attention_layernorm": (STREAM,),
        }

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        return {"model.embed_tokens": (None, STREAM), "model.norm": (STREAM,), "lm_head": (None, STREAM)}

    def forward(self, network: nn.Module, batch: Inputs, *, seed: int | None = None) -> Any:
        # What generating keeps of each token is of no use to whole blocks, and would fill memory at every step.
        return network(**self.inputs_of(batch), use_cache=False)

    def example_batch(self, config: Any, batch_size: int = 2) -> dict[str, Tensor]:
        """Random token ids, and a mask that leaves none out."""
        generator = torch.Generator("cpu").manual_seed(0)
        length = min(16, config.max_position_embeddings)
        ids = torch.randint(config.vocab_size, (batch_size, length), generator=generator, device="cpu")
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@register_target
class QwenFamily(LlamaFamily):
    """As the target family of Llama, but Qwen3 normalises queries and keys within heads, which no size changes."""

    name = "qwen3"
    model_types = ("qwen3", "qwen2", "neumeta_qwen3", "neumeta_qwen2")
    stock_types = {Qwen3Config: NeuMetaQwen3Config, Qwen2Config: NeuMetaQwen2Config}


for _config, _model in (
    (NeuMetaLlamaConfig, NeuMetaLlamaForCausalLM),
    (NeuMetaMistralConfig, NeuMetaMistralForCausalLM),
    (NeuMetaQwen2Config, NeuMetaQwen2ForCausalLM),
    (NeuMetaQwen3Config, NeuMetaQwen3ForCausalLM),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForCausalLM.register(_config, _model)
