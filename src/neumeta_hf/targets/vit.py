"""Vision transformers of transformers at any size: ViT and DeiT (Dosovitskiy et al. 2021, arXiv:2010.11929), DINOv2.

A size with as many heads and as wide an MLP in every layer is a stock network; DINOv2's MLP must then be a whole
multiple of the residual stream. `head_dim` is said in the config where it is not `hidden_size / num_attention_heads`,
which stock classes honour from transformers 5.8 on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedConfig,
    ViTConfig,
    ViTForImageClassification,
)

from neumeta_hf.axes import Size
from neumeta_hf.errors import TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import register_target
from neumeta_hf.targets.transformer import STREAM, Heads, PerLayerSizes, TransformerFamily, resized


@strict
class NeuMetaViTConfig(ViTConfig):
    """A `ViTConfig` whose `per_layer_config` is built."""

    model_type = "neumeta_vit"


@strict
class NeuMetaDeiTConfig(DeiTConfig):
    """A `DeiTConfig` whose `per_layer_config` is built."""

    model_type = "neumeta_deit"


@strict
class NeuMetaDinov2Config(Dinov2Config):
    """A `Dinov2Config` whose `per_layer_config` is built.

    Its `intermediate_size` is the width of the MLP, instead of `mlp_ratio`.
    """

    model_type = "neumeta_dinov2"


@strict
class NeuMetaDinov2WithRegistersConfig(Dinov2WithRegistersConfig):
    """A `Dinov2WithRegistersConfig` whose `per_layer_config` is built, as in `NeuMetaDinov2Config`."""

    model_type = "neumeta_dinov2_with_registers"


class _VisionLayers(PerLayerSizes):
    def sized_layers(self) -> Sequence[nn.Module]:
        base: Any = self.base_model  # pyright: ignore[reportAttributeAccessIssue]
        return base.encoder.layer if hasattr(base, "encoder") else base.layers

    def resize_layer(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.attention, layer.mlp
        attention.num_attention_heads = config.num_attention_heads
        inside = attention.num_attention_heads * attention.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, resized(getattr(attention, name), outputs=inside))
        attention.o_proj = resized(attention.o_proj, inputs=inside)
        mlp.fc1 = resized(mlp.fc1, outputs=config.intermediate_size)
        mlp.fc2 = resized(mlp.fc2, inputs=config.intermediate_size)


class NeuMetaViTForImageClassification(_VisionLayers, ViTForImageClassification):
    """`ViTForImageClassification` with its own heads and MLP in every layer."""

    config: NeuMetaViTConfig


class NeuMetaDeiTForImageClassification(_VisionLayers, DeiTForImageClassification):
    """`DeiTForImageClassification` with its own heads and MLP in every layer."""

    config: NeuMetaDeiTConfig


class NeuMetaDinov2ForImageClassification(_VisionLayers, Dinov2ForImageClassification):
    """`Dinov2ForImageClassification` with its own heads and MLP in every layer."""

    config: NeuMetaDinov2Config


class NeuMetaDinov2WithRegistersForImageClassification(_VisionLayers, Dinov2WithRegistersForImageClassification):
    """`Dinov2WithRegistersForImageClassification` with its own heads and MLP in every layer."""

    config: NeuMetaDinov2WithRegistersConfig


class _VisionTransformerFamily(TransformerFamily):
    def _prefix(self, config: PreTrainedConfig) -> str:
        return config.model_type.removeprefix("neumeta_")

    def layer_rules(self, heads: Heads, mlp: str) -> dict[str, Rule]:
        projections = {f"attention.{name}_proj": (heads.queries, STREAM) for name in "qkv"}
        return {
            **projections,
            "attention.o_proj": (STREAM, heads.queries),
            "mlp.fc1": (mlp, STREAM),
            "mlp.fc2": (STREAM, mlp),
        }

    def image_shape(self, config: Any) -> tuple[int, int, int]:
        return config.num_channels, *height_and_width(config.image_size)


@register_target
class ViTFamily(_VisionTransformerFamily):
    """One axis for the residual stream, and one for the heads and one for the MLP of every layer."""

    name = "vit"
    model_types = ("vit", "deit", "neumeta_vit", "neumeta_deit")
    stock_types = {ViTConfig: NeuMetaViTConfig, DeiTConfig: NeuMetaDeiTConfig}

    def stack(self, config: PreTrainedConfig) -> str:
        return f"{self._prefix(config)}.layers"

    def layer_rules(self, heads: Heads, mlp: str) -> dict[str, Rule]:
        norms = {name: (STREAM,) for name in ("layernorm_before", "layernorm_after")}
        return {**super().layer_rules(heads, mlp), **norms}

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        path = self._prefix(config)
        tokens = ("cls_token", "distillation_token", "position_embeddings")
        return {
            **{f"{path}.embeddings.{name}": (None, None, STREAM) for name in tokens},
            f"{path}.embeddings.patch_embeddings.projection": (STREAM,),
            f"{path}.layernorm": (STREAM,),
            "classifier": (None, STREAM),
        }


@register_target
class Dinov2Family(_VisionTransformerFamily):
    """As the target family of ViT; with LayerScale, a mask token and, where there are any, register tokens."""

    name = "dinov2"
    model_types = ("dinov2", "dinov2_with_registers", "neumeta_dinov2", "neumeta_dinov2_with_registers")
    stock_types = {
        Dinov2Config: NeuMetaDinov2Config,
        Dinov2WithRegistersConfig: NeuMetaDinov2WithRegistersConfig,
    }

    def stack(self, config: PreTrainedConfig) -> str:
        return f"{self._prefix(config)}.encoder.layer"

    def layer_counts(self, config: Any) -> list[tuple[int, int]]:
        if config.use_swiglu_ffn:
            raise TargetError(
                "use_swiglu_ffn=True: the MLP of this DINOv2 is gated, which the target family 'dinov2' does not "
                "describe. Take a checkpoint without it, such as facebook/dinov2-small, -base or -large."
            )
        return [
            (
                layer.num_attention_heads,
                getattr(layer, "intermediate_size", None) or int(config.hidden_size * config.mlp_ratio),
            )
            for layer in config.per_layer_config
        ]

    def is_stock(self, fields: Mapping[str, Any], layers: Sequence[tuple[int, int]], head_dim: int) -> bool:
        return len(set(layers)) == 1 and layers[0][1] % fields["hidden_size"] == 0

    def config_at(self, config: Any, size: Size) -> PreTrainedConfig:
        found: Any = super().config_at(config, size)
        if type(found) in self.stock_types:
            found.mlp_ratio = found.intermediate_size // found.hidden_size
            del found.intermediate_size
        return found

    def layer_rules(self, heads: Heads, mlp: str) -> dict[str, Rule]:
        streams = {name: (STREAM,) for name in ("norm1", "norm2", "layer_scale1", "layer_scale2")}
        return {**super().layer_rules(heads, mlp), **streams}

    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        path = self._prefix(config)
        tokens = ("cls_token", "register_tokens", "position_embeddings")
        return {
            **{f"{path}.embeddings.{name}": (None, None, STREAM) for name in tokens},
            f"{path}.embeddings.mask_token": (None, STREAM),
            f"{path}.embeddings.patch_embeddings.projection": (STREAM,),
            f"{path}.layernorm": (STREAM,),
            # The class token beside the mean of the patches.
            "classifier": (None, [STREAM, STREAM]),
        }


for _config, _model in (
    (NeuMetaViTConfig, NeuMetaViTForImageClassification),
    (NeuMetaDeiTConfig, NeuMetaDeiTForImageClassification),
    (NeuMetaDinov2Config, NeuMetaDinov2ForImageClassification),
    (NeuMetaDinov2WithRegistersConfig, NeuMetaDinov2WithRegistersForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)
