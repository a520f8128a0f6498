"""Grids of small images, for the pictures that tasks draw."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from neumeta_hf.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def image_grid(num_rows: int, num_columns: int, image_size: Sequence[int]) -> tuple["Figure", Any]:
    """Make a figure of empty places for images.

    Args:
        num_rows: Rows.
        num_columns: Columns.
        image_size: Height and width of an image, which give the places their shape.

    Returns:
        The figure, and its axes as `axes[row][column]`; nothing of it lives in matplotlib's global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = image_size
    side = 1.5
    figure = Figure(
        figsize=(side * max(width / height, 1) * num_columns, side * max(height / width, 1) * num_rows + 0.6),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    return figure, axes


def check_label_names(label_names: Sequence[str], num_classes: int) -> None:
    """Refuse names that are too few for a picture.

    Args:
        label_names: Names of the classes, in order.
        num_classes: That a picture may show.

    Raises:
        DataError: A class has no name.
    """
    if len(label_names) < num_classes:
        raise DataError(
            f"label_names has {len(label_names)} names, and there are {num_classes} classes: name every class, or "
            "leave label_names out to have those of the family."
        )


def show(axes: "Axes", image: Tensor, *, title: str = "", color: str = "black") -> None:
    """Put an image into a place.

    Args:
        axes: The place.
        image: `[1 or 3, height, width]` in [0, 1]; values outside are cut.
        title: Above it.
        color: Colour of the title.
    """
    pixels = image.detach().float().cpu().clamp(0, 1).movedim(0, -1).squeeze(-1).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=7, color=color)
