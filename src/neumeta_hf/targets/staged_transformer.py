"""Vision transformers of several stages, each with a residual stream of its own: what their sizes have in common.

A size has a width of the stream for each stage, and for each block a number of heads and a width of the MLP; blocks may
be left out. `head_dim` stays as it is, by stage.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from neumeta_hf.axes import Axis, Depth, Size
from neumeta_hf.rules import Rule
from neumeta_hf.targets.transformer import Heads, resized


@dataclasses.dataclass(frozen=True)
class StagedSizes:
    """The counts of a network.

    Attributes:
        streams: Channels of the stream, by stage.
        heads: Attention heads of each block, by stage.
        head_dims: Positions of one head, by stage.
        inner: Width of each block's MLP, by stage.
    """

    streams: list[int]
    heads: list[list[int]]
    head_dims: list[int]
    inner: list[list[int]]

    @property
    def depths(self) -> list[int]:
        """Blocks of each stage."""
        return [len(blocks) for blocks in self.inner]

    @property
    def are_uniform(self) -> bool:
        """Whether the blocks of a stage are alike."""
        return all(len(set(blocks)) == 1 for blocks in (*self.heads, *self.inner))

    def axes(self, *, stream_steps: Sequence[int], mlp_steps: Sequence[int]) -> list[Axis]:
        """List an axis for each stage's stream and, following it, one for each block's heads and one for its MLP.

        Args:
            stream_steps: What streams are whole multiples of, by stage.
            mlp_steps: So are the MLPs, where those of the reference are.

        Returns:
            Axes such as "stage1", "stage1.block1.heads" and "stage1.block1.mlp", in data-flow order.
        """
        found = []
        for stage, (width, heads, inner) in enumerate(zip(self.streams, self.heads, self.inner, strict=True), start=1):
            stream = f"stage{stage}"
            found.append(Axis(stream, width, stream_steps[stage - 1]))
            for block, (count, mlp) in enumerate(zip(heads, inner, strict=True), start=1):
                step = mlp_steps[stage - 1] if mlp % mlp_steps[stage - 1] == 0 else 1
                found.append(Axis(f"{stream}.block{block}.heads", count, parent=stream))
                found.append(Axis(f"{stream}.block{block}.mlp", mlp, step, parent=stream))
        return found

    def block_axes(self, stage: int, block: int) -> tuple[Heads, str]:
        """Name the axes inside of a block, as rules do: its heads and its MLP; both numbers count from 1."""
        path = f"stage{stage}.block{block}"
        return Heads(f"{path}.heads", self.head_dims[stage - 1], 1), f"{path}.mlp"

    def block_rules(self, stage: int, block: int) -> dict[str, Rule]:
        """Give the rules of what every block has: attention, MLP and their norms; both numbers count from 1."""
        stream, (heads, mlp) = f"stage{stage}", self.block_axes(stage, block)
        return {
            **{f"attention.{name}_proj": (heads.queries, stream) for name in "qkv"},
            "attention.o_proj": (stream, heads.queries),
            "layernorm_before": (stream,),
            "layernorm_after": (stream,),
            "mlp.fc1": (mlp, stream),
            "mlp.fc2": (stream, mlp),
        }

    def stacks(self, path: Callable[[int], str]) -> list[Depth]:
        """List the stages of which a size may leave blocks out: any block but the last that is left.

        Args:
            path: Path of the module that numbers the blocks of a stage; stages count from 1.

        Returns:
            A stack for each stage of several blocks.
        """
        return [
            Depth(
                f"stage{stage}",
                path(stage),
                fixed=(),
                ranking=tuple(range(count)),
                inner={
                    block: (f"stage{stage}.block{block + 1}.heads", f"stage{stage}.block{block + 1}.mlp")
                    for block in range(count)
                },
            )
            for stage, count in enumerate(self.depths, start=1)
            if count > 1
        ]

    def kept(self, size: Size) -> list[list[int]]:
        """List the numbers of the blocks that a size of this network has, from 0, by stage."""
        return [
            [block for block in range(count) if size[f"stage{stage}.block{block + 1}.mlp"]]
            for stage, count in enumerate(self.depths, start=1)
        ]

    def at(self, size: Size) -> "StagedSizes":
        """Compute the counts of a size of this network."""

        def counts(what: str) -> list[list[int]]:
            return [
                [size[f"stage{stage}.block{block + 1}.{what}"] for block in blocks]
                for stage, blocks in enumerate(self.kept(size), start=1)
            ]

        streams = [size[f"stage{stage}"] for stage in range(1, len(self.streams) + 1)]
        return StagedSizes(streams, counts("heads"), self.head_dims, counts("mlp"))


def resize_block(block: Any, *, heads: int, head_dim: int, inner: int) -> None:
    """Give the attention and the MLP of a block their own sizes, and fresh weights.

    Args:
        block: With `attention` and `mlp`, as transformers has them in all of its newer vision networks.
        heads: How many there are.
        head_dim: Positions of each.
        inner: Width of the MLP.
    """
    attention, mlp = block.attention, block.mlp
    attention.num_attention_heads, attention.head_dim, attention.scaling = heads, head_dim, head_dim**-0.5
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, resized(getattr(attention, name), outputs=heads * head_dim))
    attention.o_proj = resized(attention.o_proj, inputs=heads * head_dim)
    mlp.fc1 = resized(mlp.fc1, outputs=inner)
    mlp.fc2 = resized(mlp.fc2, inputs=inner)
