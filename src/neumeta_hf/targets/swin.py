"""The Swin of transformers at any size: windows of attention in four stages (Liu et al. 2021, arXiv:2103.14030).

The stock class doubles its stream from stage to stage, fills it with heads and has one ratio for all MLPs. So a size is
stock where only depths or MLPs change, or all stages shrink in step by whole heads. Others are of
`NeuMetaSwinForImageClassification`, with its own stream in every stage and its own heads and MLP in every block.
"""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, SwinConfig, SwinForImageClassification
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinMLP,
    SwinPatchMerging,
    SwinRelativePositionBias,
)

from neumeta_hf.axes import Axis, Depth, Size
from neumeta_hf.errors import TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily, register_target
from neumeta_hf.targets.staged_transformer import StagedSizes, resize_block
from neumeta_hf.targets.stages import as_class, check_inner_sizes
from neumeta_hf.targets.transformer import resized

_OWN_FIELDS = ("hidden_sizes", "head_counts", "head_dims", "inner_sizes", "shifted")
# What the stock class makes of the others.
_DERIVED = ("hidden_size", "num_layers", "stage_names", "out_features", "out_indices")


@strict
class NeuMetaSwinConfig(SwinConfig):
    """A `SwinConfig` whose stages may have any stream, and whose blocks any number of heads and any width of the MLP.

    `embed_dim`, `num_heads` and `mlp_ratio` follow what is said of the first blocks.

    Attributes:
        hidden_sizes: Channels of the stream, by stage. None: as in `SwinConfig`; so for the others.
        head_counts: Heads of each block, by stage.
        head_dims: Positions of one head, by stage.
        inner_sizes: Width of each block's MLP, by stage.
        shifted: Whether the windows of each block are shifted, by stage.
    """

    model_type = "neumeta_swin"

    hidden_sizes: list[int] | None = None
    head_counts: list[list[int]] | None = None
    head_dims: list[int] | None = None
    inner_sizes: list[list[int]] | None = None
    shifted: list[list[bool]] | None = None

    def __post_init__(self, **kwargs: Any):
        stock = _stock_sizes(self)
        self.hidden_sizes = self.hidden_sizes or stock.streams
        self.head_counts = self.head_counts or stock.heads
        self.head_dims = self.head_dims or stock.head_dims
        self.inner_sizes = self.inner_sizes or stock.inner
        self.shifted = self.shifted or _stock_shifts(self)
        if self.hidden_sizes and self.hidden_sizes[0] > 0 and all(self.head_counts) and all(self.inner_sizes):
            self.embed_dim = self.hidden_sizes[0]
            self.num_heads = [blocks[0] for blocks in self.head_counts]
            self.mlp_ratio = self.inner_sizes[0][0] / self.embed_dim
        super().__post_init__(**kwargs)
        self.hidden_size = [*self.hidden_sizes, self.hidden_size][len(self.hidden_sizes) - 1]

    def validate_block_sizes(self):
        """Check that every stage and block has a positive count."""
        depths = list(self.depths)
        check_inner_sizes(self.head_counts, depths, name="head_counts")
        check_inner_sizes(self.inner_sizes, depths)
        for name in ("hidden_sizes", "head_dims"):
            check_inner_sizes([[count] for count in getattr(self, name) or ()], [1] * len(depths), name=name)
        if [len(blocks) for blocks in self.shifted or ()] != depths:
            raise ValueError(f"shifted={self.shifted}: pass true or false for each of {depths} blocks.")


def _stock_sizes(config: SwinConfig) -> StagedSizes:
    streams = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
    heads = list(config.num_heads)
    return StagedSizes(
        streams,
        [[count] * depth for count, depth in zip(heads, config.depths, strict=False)],
        [width // max(count, 1) for width, count in zip(streams, heads, strict=False)],
        [[int(config.mlp_ratio * width)] * depth for width, depth in zip(streams, config.depths, strict=True)],
    )


def _stock_shifts(config: SwinConfig) -> list[list[bool]]:
    return [[block % 2 == 1 for block in range(depth)] for depth in config.depths]


def _sizes(config: Any) -> StagedSizes:
    counts = {"depths": list(config.depths), "num_heads": list(config.num_heads)}
    if len(counts["depths"]) != len(counts["num_heads"]) or min(map(min, counts.values())) < 1:
        raise TargetError(
            f"depths={counts['depths']} and num_heads={counts['num_heads']} are no Swin: give a number of blocks and "
            "of heads from 1 up for each stage."
        )
    if isinstance(config, NeuMetaSwinConfig):
        return StagedSizes(config.hidden_sizes, config.head_counts, config.head_dims, config.inner_sizes)  # pyright: ignore
    found = _stock_sizes(config)
    if any(width % blocks[0] for width, blocks in zip(found.streams, found.heads, strict=True)):
        raise TargetError(
            f"embed_dim={config.embed_dim} gives streams of {found.streams}, which num_heads={counts['num_heads']} do "
            "not divide: give heads that do."
        )
    return found


def _shifts(config: Any) -> list[list[bool]]:
    return getattr(config, "shifted", None) or _stock_shifts(config)


class NeuMetaSwinForImageClassification(SwinForImageClassification):
    """`SwinForImageClassification` with its own stream in every stage and its own heads and MLP in every block."""

    config: NeuMetaSwinConfig

    def __init__(self, config: NeuMetaSwinConfig):
        plain = copy.deepcopy(config)
        # Which any stream has room for, until blocks get their own.
        plain.num_heads, plain.mlp_ratio = [1] * len(config.depths), 1.0
        super().__init__(plain)
        config._attn_implementation = self.config._attn_implementation  # which the stock class has chosen
        sizes, shifts = _sizes(config), _shifts(config)
        stages: Any = self.swin.encoder.layers
        for number, stage in enumerate(stages):
            width = sizes.streams[number]
            for place, block in enumerate(stage.blocks):
                heads, head_dim = sizes.heads[number][place], sizes.head_dims[number]
                block.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
                block.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
                block.attention = SwinAttention(plain, width, 1, config.window_size)
                block.mlp = SwinMLP(plain, width)
                resize_block(block, heads=heads, head_dim=head_dim, inner=sizes.inner[number][place])
                window = (config.window_size, config.window_size)
                block.attention.relative_position_bias = SwinRelativePositionBias(heads, window)
                block.shift_size = config.window_size // 2 if shifts[number][place] else 0
            if stage.downsample is not None:
                stage.downsample = SwinPatchMerging(width)
                stage.downsample.reduction = nn.Linear(4 * width, sizes.streams[number + 1], bias=False)
        self.swin.num_features = sizes.streams[-1]
        self.swin.layernorm = nn.LayerNorm(sizes.streams[-1], eps=config.layer_norm_eps)
        if isinstance(self.classifier, nn.Linear):
            self.classifier = resized(self.classifier, inputs=sizes.streams[-1])
        self.config = config
        self.post_init()


@register_target
class SwinFamily(TargetFamily):
    """One axis for each stage's stream, and for the heads and the MLP of every block.

    The layer between two stages reads four neighbours side by side, each of the first stage's channels. The table of a
    block's position biases has a column for each of its heads.
    """

    name = "swin"
    model_types = ("swin", "neumeta_swin")
    has_graph = False

    def axes(self, config: SwinConfig) -> list[Axis]:
        sizes = _sizes(config)
        # So that one width for all stages rounds them alike, and their MLPs.
        steps = [2**stage for stage in range(len(sizes.streams))]
        steps = [step if width % step == 0 else 1 for step, width in zip(steps, sizes.streams, strict=True)]
        ratio = int(config.mlp_ratio) if config.mlp_ratio == int(config.mlp_ratio) else 1
        return sizes.axes(stream_steps=steps, mlp_steps=[max(ratio, 1) * step for step in steps])

    def rules(self, config: SwinConfig) -> dict[str, Rule]:
        sizes = _sizes(config)
        last = f"stage{len(sizes.streams)}"
        rules: dict[str, Rule] = {
            "swin.embeddings.patch_embeddings.projection": ("stage1", None),
            "swin.embeddings.norm": ("stage1",),
            "swin.embeddings.position_embeddings": (None, None, "stage1"),
            "swin.layernorm": (last,),
            "classifier": (None, last),
        }
        for stage, depth in enumerate(sizes.depths, start=1):
            stream, stem = f"stage{stage}", f"swin.encoder.layers.{stage - 1}"
            neighbours = [stream] * 4
            rules[f"{stem}.downsample.norm"] = (neighbours,)
            rules[f"{stem}.downsample.reduction"] = (f"stage{stage + 1}", neighbours)
            for block in range(depth):
                heads, mlp = sizes.block_axes(stage, block + 1)
                layer: dict[str, Rule] = {
                    **sizes.block_rules(stage, block + 1),
                    "attention.relative_position_bias": (None, heads.queries[0]),
                }
                rules |= {f"{stem}.blocks.{block}.{name}": rule for name, rule in layer.items()}
        return rules

    def depths(self, config: SwinConfig) -> list[Depth]:
        return _sizes(config).stacks(lambda stage: f"swin.encoder.layers.{stage - 1}.blocks")

    def config_at(self, config: SwinConfig, size: Size) -> SwinConfig:
        sizes = _sizes(config)
        at, kept = sizes.at(size), sizes.kept(size)
        # A block that is kept shifts its windows as it did, wherever it stands now.
        shifts = [[all_[block] for block in blocks] for all_, blocks in zip(_shifts(config), kept, strict=True)]
        found = copy.deepcopy(config)
        found.depths, found.embed_dim = at.depths, at.streams[0]
        found.num_heads = [blocks[0] for blocks in at.heads]
        found.mlp_ratio = at.inner[0][0] / at.streams[0]
        dropped = (*_OWN_FIELDS, *_DERIVED)
        if _stock_sizes(found) == at and _stock_shifts(found) == shifts:
            return as_class(found, SwinConfig, dropped=dropped)
        own = {
            "hidden_sizes": at.streams,
            "head_counts": at.heads,
            "head_dims": at.head_dims,
            "inner_sizes": at.inner,
            "shifted": shifts,
        }
        return as_class(found, NeuMetaSwinConfig, dropped=dropped, **own)

    def image_shape(self, config: SwinConfig) -> tuple[int, int, int]:
        return config.num_channels, *height_and_width(config.image_size)


AutoConfig.register(NeuMetaSwinConfig.model_type, NeuMetaSwinConfig)
AutoModelForImageClassification.register(NeuMetaSwinConfig, NeuMetaSwinForImageClassification)
