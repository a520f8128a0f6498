"""The picture of a score against size."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_hf.errors import SizeError
from neumeta_hf.printable import printable
from neumeta_hf.scores import Score, score_of
from neumeta_hf.widths import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_BLUE, _RED, _GREY = "#1f5fa8", "#c0392b", "#555555"
_MARKERS: dict[str, dict[str, Any]] = {
    "trained": {"marker": "o", "markerfacecolor": _BLUE, "markeredgecolor": _BLUE, "markeredgewidth": 1.4},
    "untrained": {"marker": "o", "markerfacecolor": "white", "markeredgecolor": _BLUE, "markeredgewidth": 1.4},
    "outside": {"marker": "D", "markerfacecolor": "white", "markeredgecolor": _RED, "markeredgewidth": 1.4},
}
_LABELS = {
    "trained": "size drawn in training",
    "untrained": "within the trained range, never drawn",
    "outside": "outside the trained range",
}
_MOST_ANNOTATIONS = 16
# Where a width is written, in points from its point; the far places get a line to it.
_PLACES = [(0, -8), (0, 8), (7, -7), (-7, 7), (4, -18), (-4, 18), (8, -30), (-8, 30), (8, -42), (-8, 42)]


def size_kind(*, trained: bool, in_range: bool) -> str:
    """Say what a size was to training.

    Args:
        trained: Whether training drew this very network.
        in_range: Whether it lies between the smallest and the largest that training drew.

    Returns:
        One of "trained", "untrained" (between trained ones) and "outside" (of their range).
    """
    return "trained" if trained else "untrained" if in_range else "outside"


def plot_sweep(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw a sweep as the task's first score (ratios in percent) against parameters of the whole network.

    Args:
        result: As `Sweep.to_dict()` gives it, or a result file holds it.
        path: The PNG to write.

    Raises:
        SizeError: There is no row.
    """
    figure = draw_sweep(result)
    figure.savefig(path, dpi=150, format="png")


def draw_sweep(result: Mapping[str, Any]) -> "Figure":
    """Draw the figure of a sweep, as matplotlib holds it.

    Points of sizes drawn in training are filled, all others hollow, and those outside the trained range are diamonds. A
    line joins the uniform widths of each depth; the reference is a dashed line across. Parameters are on a logarithmic
    axis where they span more than a factor of four, because they go with the square of the width.

    Args:
        result: As `Sweep.to_dict()` gives it, or a result file holds it.

    Returns:
        The figure; nothing of it lives in matplotlib's global state.

    Raises:
        SizeError: There is no row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    if not result["rows"]:
        raise SizeError("the sweep has no row to draw: measure at least one width.")
    rows = sorted(result["rows"], key=lambda row: row["num_parameters"])
    score = score_of(result.get("facts", {}))
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    uniform = [row for row in rows if not isinstance(row["width"], Mapping) and row["width"] is not None]
    for depth in sorted({row.get("depth", 1) for row in uniform}, reverse=True) or [1]:
        line = [row for row in uniform if row.get("depth", 1) == depth]
        axes.plot(*_points(line, score), color=_BLUE, linewidth=1.2, zorder=1)
    for kind, style in _MARKERS.items():
        if chosen := [
            row
            for row in rows
            if row["width"] is not None and size_kind(trained=row["trained"], in_range=row["in_range"]) == kind
        ]:
            axes.plot(*_points(chosen, score), linestyle="none", markersize=7, label=_LABELS[kind], zorder=3, **style)
    if alone := [row for row in rows if row["width"] is None]:
        axes.plot(*_points(alone, score), linestyle="none", markersize=7, label="this network", color=_BLUE, marker="o")
    if result.get("reference"):
        value = _value(result["reference"], score)
        shown = f"{value:.2f} %" if score.is_ratio else f"{value:.4g}"
        axes.axhline(value, color=_GREY, linestyle="--", linewidth=1, zorder=0, label=f"reference, {shown}")
    annotated = len(rows) <= _MOST_ANNOTATIONS
    sizes = [row["num_parameters"] for row in rows]
    if max(sizes) > 4 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _in_units(value))
    axes.margins(x=0.07, y=0.12)
    axes.set_xlabel("parameters of the whole network" + (" (each point carries its width)" if annotated else ""))
    # What others have named is no formula, which a dollar would make of it.
    axes.set_ylabel(printable(score.label) + (" (%)" if score.is_ratio else ""), parse_math=False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # Outside, where it covers no point whatever the curve does.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    facts = result.get("facts", {})
    names = [str(facts[key]) for key in ("title", "checkpoint", "dataset", "split") if facts.get(key)]
    axes.set_title(printable(", ".join(names)), fontsize=10, parse_math=False)
    if annotated:
        _annotate(axes, rows, score, canvas)
    return figure


def _annotate(axes: "Axes", rows: list[Any], score: Score, canvas: "FigureCanvasAgg") -> None:
    """Write its width at each point, where it covers neither a point nor another width if there is such a place."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = canvas.figure
    figure.draw_without_rendering()  # the layout is final from here on
    reach = 6 * figure.dpi / 72
    centres = axes.transData.transform(list(zip(*_points(rows, score), strict=True)))
    taken = [Bbox([centre - reach, centre + reach]) for centre in centres]
    for row in rows:
        note = axes.annotate(
            printable(format_size(row["width"], row.get("depth", 1))).replace(",", "\n"),  # a line for each group
            (row["num_parameters"], _value(row, score)),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
            zorder=2,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        note.set_in_layout(False)
        overlaps = []
        for place in _PLACES:
            box = _put(note, place, canvas)
            is_inside = figure.bbox.containsx(box.x1) and axes.bbox.containsy(box.y0)
            overlaps.append(box.count_overlaps(taken) if is_inside else len(rows))
            if overlaps[-1] == 0:
                break
        taken.append(_put(note, _PLACES[overlaps.index(min(overlaps))], canvas))


def _put(note: "Annotation", place: tuple[int, int], canvas: "FigureCanvasAgg") -> "Bbox":
    right, up = place
    note.xyann = place
    note.set(ha="left" if right > 0 else "right" if right < 0 else "center", va="bottom" if up > 0 else "top")
    if note.arrow_patch is not None:
        note.arrow_patch.set_visible(abs(up) > 10)
    note.update_positions(canvas.get_renderer())
    from matplotlib.text import Text

    return Text.get_window_extent(note)  # without the line, unlike Annotation's


def _points(rows: list[Any], score: Score) -> tuple[list[int], list[float]]:
    return [row["num_parameters"] for row in rows], [_value(row, score) for row in rows]


def _value(row: Mapping[str, Any], score: Score) -> float:
    value = row[score.name]
    return math.nan if value is None else 100 * value if score.is_ratio else value


def _in_units(value: float) -> str:
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g}"
