"""Networks of stages of blocks that add to a stream, as residual networks are: what their sizes have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedConfig

from neumeta_hf.axes import Axis, Depth

Config = TypeVar("Config", bound=PreTrainedConfig)


def stage_axes(
    streams: Sequence[int], inner: Sequence[Sequence[int]], *, prefix: str = "", expansion: int = 1
) -> list[Axis]:
    """List an axis for the stream of each stage and, following it, one inside of every block.

    Args:
        streams: Channels of the stream, by stage.
        inner: Channels inside each block, by stage.
        prefix: What names begin with.
        expansion: How many times the stream's channels a block of the stock class has inside. Counts inside are whole
            multiples of it where the reference's are, so that one width for all axes rounds both alike.

    Returns:
        Axes such as "stage1" and "stage1.block1", in data-flow order.
    """
    axes = []
    for stage, (width, counts) in enumerate(zip(streams, inner, strict=True), start=1):
        stream = f"{prefix}stage{stage}"
        axes.append(Axis(stream, width))
        axes += [
            Axis(f"{stream}.block{block}", count, expansion if count % expansion == 0 else 1, parent=stream)
            for block, count in enumerate(counts, start=1)
        ]
    return axes


def stage_depths(num_blocks: Sequence[int], path: Callable[[int], str], *, prefix: str = "") -> list[Depth]:
    """List the stages and the blocks that a size may leave out: not the first, which changes the stream.

    Args:
        num_blocks: Blocks of each stage.
        path: Path of the module that numbers the blocks of a stage; stages count from 1.
        prefix: What names begin with.

    Returns:
        A stack for each stage of several blocks.
    """
    return [
        Depth(
            f"{prefix}stage{stage}",
            path(stage),
            fixed=(0,),
            ranking=tuple(range(1, count)),
            inner={block: (f"{prefix}stage{stage}.block{block + 1}",) for block in range(1, count)},
        )
        for stage, count in enumerate(num_blocks, start=1)
        if count > 1
    ]


def inner_counts(size: Mapping[str, int], num_blocks: Sequence[int]) -> list[list[int]]:
    """Channels inside each block that a size has, by stage; those that it leaves out have none.

    Args:
        size: Axis, without a prefix, to count.
        num_blocks: Blocks of each stage of the reference.

    Returns:
        A list for each stage.
    """
    return [
        [count for block in range(1, blocks + 1) if (count := size[f"stage{stage}.block{block}"])]
        for stage, blocks in enumerate(num_blocks, start=1)
    ]


def check_inner_sizes(
    inner: Sequence[Sequence[int]] | None, num_blocks: Sequence[int], *, name: str = "inner_sizes"
) -> None:
    """Refuse channels inside blocks that are not a positive count for each block.

    Args:
        inner: Channels inside each block, by stage. None: those of the stock class.
        num_blocks: Blocks of each stage.
        name: What the config calls them.

    Raises:
        ValueError: A block has none, or there are blocks too many or too few.
    """
    if inner is not None and ([len(s) for s in inner] != list(num_blocks) or min(map(min, inner)) < 1):
        raise ValueError(f"{name}={inner}: pass a count from 1 up for each of {num_blocks} blocks.")


def as_class(
    config: PreTrainedConfig, cls: type[Config], *, dropped: Sequence[str] = ("inner_sizes",), **own: Any
) -> Config:
    """Copy a config as another class, such as the stock class of a size that it can express.

    Args:
        config: With what the two classes share; not modified.
        cls: Class of the result.
        dropped: What the class of `config` may have beside that.
        **own: What `cls` has beside that.

    Returns:
        A new config.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in dropped}
    if fields.pop("model_type") != cls.model_type:
        fields["architectures"] = None
    return cls(**fields, **own)
