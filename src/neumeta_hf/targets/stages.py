"""Networks of stages of blocks that add to a stream, as residual networks are: what their sizes have in common."""

from collections.abc import Callable, Mapping, Sequence

from neumeta_hf.axes import Axis, Depth


def stage_axes(streams: Sequence[int], inner: Sequence[Sequence[int]], *, prefix: str = "") -> list[Axis]:
    """One axis for the stream of each stage, and one inside every block, which follows it.

    Args:
        streams: Channels of the stream, by stage.
        inner: Channels inside each block, by stage.
        prefix: What names begin with.

    Returns:
        Axes such as "stage1" and "stage1.block1", in data-flow order.
    """
    axes = []
    for stage, (width, counts) in enumerate(zip(streams, inner, strict=True), start=1):
        stream = f"{prefix}stage{stage}"
        axes.append(Axis(stream, width))
        axes += [Axis(f"{stream}.block{block}", count, parent=stream) for block, count in enumerate(counts, start=1)]
    return axes


def stage_depths(num_blocks: Sequence[int], path: Callable[[int], str], *, prefix: str = "") -> list[Depth]:
    """The stages of which a size may leave blocks out: all but the first, which changes the stream's width or size.

    Args:
        num_blocks: Blocks of each stage.
        path: Of the module that numbers the blocks of a stage; stages count from 1.
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
