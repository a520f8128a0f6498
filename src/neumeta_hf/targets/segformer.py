"""The SegFormer of transformers at any size: semantic segmentation (Xie et al. 2021, arXiv:2105.15203).

The stock class has one number of heads a stage, which fill its stream, and an MLP that is a whole multiple of it. So a
size is stock where only depths, MLPs or the decoder change, or the streams shrink by whole heads. Others are of
`NeuMetaSegformerForSemanticSegmentation`, with its own heads and MLP in every block.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.segformer.modeling_segformer import SegformerDepthWiseConv

from neumeta_hf.axes import Axis, Depth, Size
from neumeta_hf.batches import Inputs
from neumeta_hf.errors import TargetError
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.resnet import DEFAULT_IMAGE_SIZE, image_size_of
from neumeta_hf.targets.staged_transformer import StagedSizes, resize_block
from neumeta_hf.targets.stages import as_class, check_inner_sizes

DECODER = "decoder"
_OWN_FIELDS = ("head_counts", "head_dims", "inner_sizes")
_PER_STAGE = ("depths", "hidden_sizes", "num_attention_heads", "mlp_ratios", "sr_ratios", "patch_sizes", "strides")


@strict
class NeuMetaSegformerConfig(SegformerConfig):
    """A `SegformerConfig` whose blocks may have any number of heads and any width of the MLP.

    `num_attention_heads` and `mlp_ratios` follow what is said of the first block of each stage.

    Attributes:
        head_counts: Heads of each block, by stage. None: as in `SegformerConfig`.
        head_dims: Positions of one head, by stage. None: as in `SegformerConfig`.
        inner_sizes: Width of each block's MLP, by stage. None: as in `SegformerConfig`.
    """

    model_type = "neumeta_segformer"

    head_counts: list[list[int]] | None = None
    head_dims: list[int] | None = None
    inner_sizes: list[list[int]] | None = None

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)
        stock = _stock_sizes(self)
        self.head_counts = self.head_counts or stock.heads
        self.head_dims = self.head_dims or stock.head_dims
        self.inner_sizes = self.inner_sizes or stock.inner
        if all(self.head_counts) and all(self.inner_sizes) and min(self.hidden_sizes, default=0) > 0:
            self.num_attention_heads = [blocks[0] for blocks in self.head_counts]
            self.mlp_ratios = _mlp_ratios(self.hidden_sizes, self.inner_sizes)

    def validate_block_sizes(self):
        """Check that every block, and the heads of every stage, have a positive count."""
        check_inner_sizes(self.head_counts, list(self.depths), name="head_counts")
        check_inner_sizes(self.inner_sizes, list(self.depths))
        check_inner_sizes([[dim] for dim in self.head_dims or ()], [1] * len(self.depths), name="head_dims")


def _stock_sizes(config: SegformerConfig) -> StagedSizes:
    streams, heads = list(config.hidden_sizes), list(config.num_attention_heads)
    return StagedSizes(
        streams,
        [[count] * depth for count, depth in zip(heads, config.depths, strict=False)],
        [width // max(count, 1) for width, count in zip(streams, heads, strict=False)],
        [[width * r] * d for width, r, d in zip(streams, config.mlp_ratios, config.depths, strict=False)],
    )


def _mlp_ratios(streams: Sequence[int], inner: Sequence[Sequence[int]]) -> list[int]:
    return [max(blocks[0] // width, 1) for width, blocks in zip(streams, inner, strict=False)]


def _sizes(config: Any) -> StagedSizes:
    counts = {name: list(getattr(config, name)) for name in _PER_STAGE}
    lengths = {len(values) for values in counts.values()}
    if lengths != {config.num_encoder_blocks} or min(map(min, counts.values())) < 1:
        raise TargetError(
            f"num_encoder_blocks={config.num_encoder_blocks}, "
            f"{', '.join(f'{name}={values}' for name, values in counts.items())} are no SegFormer: give a number from "
            "1 up for each of its stages in all of them."
        )
    if not config.reshape_last_stage:
        raise TargetError(
            "reshape_last_stage=False: the decoder then takes the last stage's channels for height and width, which "
            "fits only some sizes. Set it to True in the config; it has no weights."
        )
    found = _stock_sizes(config)
    if isinstance(config, NeuMetaSegformerConfig):
        found = StagedSizes(found.streams, config.head_counts, config.head_dims, config.inner_sizes)  # pyright: ignore
    if min(found.head_dims) < 1:
        raise TargetError(
            f"hidden_sizes={counts['hidden_sizes']} have no room for num_attention_heads="
            f"{counts['num_attention_heads']}: give no more heads than channels."
        )
    return found


class NeuMetaSegformerForSemanticSegmentation(SegformerForSemanticSegmentation):
    """`SegformerForSemanticSegmentation` with its own heads and MLP in every block."""

    config: NeuMetaSegformerConfig

    def __init__(self, config: NeuMetaSegformerConfig):
        plain = copy.deepcopy(config)
        # One head, which any stream has room for, until blocks get their own.
        plain.num_attention_heads = [1] * len(config.depths)
        super().__init__(plain)
        sizes = _sizes(config)
        for number, stage in enumerate(self.segformer.stages):
            blocks: Any = stage.blocks
            for place, block in enumerate(blocks):
                heads, inner = sizes.heads[number][place], sizes.inner[number][place]
                resize_block(block, heads=heads, head_dim=sizes.head_dims[number], inner=inner)
                block.mlp.dwconv = SegformerDepthWiseConv(inner)
        config._attn_implementation = self.config._attn_implementation  # which the stock class has chosen
        self.config = config
        self.post_init()


@register_target
class SegformerFamily(TargetFamily):
    """One axis for each stage's stream, for the heads and the MLP of every block, and for the decoder.

    The convolutions that shorten sequences keep their stage's stream; those inside of MLPs follow the MLP. Logits have
    the size of the image, as labels have.
    """

    name = "segformer"
    model_types = ("segformer", "neumeta_segformer")
    task = "semantic-segmentation"
    auto_class = AutoModelForSemanticSegmentation
    has_graph = False

    def make_config(
        self, fields: Mapping[str, Any], *, image_shape: tuple[int, int, int], label_names: Sequence[str]
    ) -> PreTrainedConfig:
        # What else there is to say of stages says how many there are.
        said = next((fields[name] for name in _PER_STAGE if isinstance(fields.get(name), list)), None)
        implied = {} if said is None else {"num_encoder_blocks": len(said)}
        return super().make_config({**implied, **fields}, image_shape=image_shape, label_names=label_names)

    def forward(self, network: nn.Module, batch: Inputs, *, seed: int | None = None) -> Any:
        """Run a network; the logits, which it puts out at a quarter of the image's size, are enlarged as its loss does.

        Raises:
            TargetError: As for every target family.
        """
        inputs = self.inputs_of(batch)
        outputs = network(**inputs)
        size = inputs["pixel_values"].shape[-2:]
        outputs.logits = F.interpolate(outputs.logits, size=size, mode="bilinear", align_corners=False)
        return outputs

    def axes(self, config: SegformerConfig) -> list[Axis]:
        sizes = _sizes(config)
        streams = sizes.axes(stream_steps=[1] * len(sizes.streams), mlp_steps=list(config.mlp_ratios))
        return [*streams, Axis(DECODER, config.decoder_hidden_size)]

    def rules(self, config: SegformerConfig) -> dict[str, Rule]:
        sizes = _sizes(config)
        rules: dict[str, Rule] = {
            "decode_head.linear_fuse": (DECODER, [DECODER] * len(sizes.streams)),
            "decode_head.batch_norm": (DECODER,),
            "decode_head.classifier": (None, DECODER),
        }
        for stage, depth in enumerate(sizes.depths, start=1):
            stream, stem = f"stage{stage}", f"segformer.stages.{stage - 1}"
            below = f"stage{stage - 1}" if stage > 1 else None
            rules |= {
                f"{stem}.patch_embeddings.proj": (stream, below),
                f"{stem}.patch_embeddings.layer_norm": (stream,),
                f"{stem}.layer_norm": (stream,),
                f"decode_head.linear_projections.{stage - 1}.proj": (DECODER, stream),
            }
            for block in range(depth):
                heads, mlp = sizes.block_axes(stage, block + 1)
                layer: dict[str, Rule] = {
                    **sizes.block_rules(stage, block + 1),
                    "attention.sequence_reduction.sequence_reduction": (stream, stream),
                    "attention.sequence_reduction.layer_norm": (stream,),
                    "mlp.dwconv.dwconv": (mlp, None),
                }
                rules |= {f"{stem}.blocks.{block}.{name}": rule for name, rule in layer.items()}
        return rules

    def depths(self, config: SegformerConfig) -> list[Depth]:
        return _sizes(config).stacks(lambda stage: f"segformer.stages.{stage - 1}.blocks")

    def config_at(self, config: SegformerConfig, size: Size) -> SegformerConfig:
        at = _sizes(config).at(size)
        found = copy.deepcopy(config)
        found.depths, found.hidden_sizes, found.decoder_hidden_size = at.depths, at.streams, size[DECODER]
        found.num_attention_heads = [blocks[0] for blocks in at.heads]
        found.mlp_ratios = _mlp_ratios(at.streams, at.inner)
        stock = _stock_sizes(found)
        if stock == at:
            return as_class(found, SegformerConfig, dropped=_OWN_FIELDS)
        own = {"head_counts": at.heads, "head_dims": at.head_dims, "inner_sizes": at.inner}
        return as_class(found, NeuMetaSegformerConfig, dropped=_OWN_FIELDS, **own)

    def image_shape(self, config: SegformerConfig) -> tuple[int, int, int]:
        height, width = image_size_of(config) or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
        return config.num_channels, height, width


AutoConfig.register(NeuMetaSegformerConfig.model_type, NeuMetaSegformerConfig)
AutoModelForSemanticSegmentation.register(NeuMetaSegformerConfig, NeuMetaSegformerForSemanticSegmentation)
