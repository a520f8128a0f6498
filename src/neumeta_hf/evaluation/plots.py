"""The picture of accuracy against size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_MARKERS = {
    "trained": {"marker": "o", "markerfacecolor": "#1f5fa8"},
    "untrained": {"marker": "o", "markerfacecolor": "white"},
    "outside": {"marker": "D", "markerfacecolor": "white", "markeredgecolor": "#c0392b"},
}
_LABELS = {
    "trained": "width drawn in training",
    "untrained": "between trained widths, never trained",
    "outside": "outside the trained range",
}


def plot_sweep(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw a sweep as accuracy (percent) against parameters of the whole network.

    Args:
        result: As `Sweep.to_dict()` gives it, or a result file holds it.
        path: The PNG to write.
    """
    rows = sorted(result["rows"], key=lambda row: row["num_parameters"])
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        [row["num_parameters"] for row in rows],
        [100 * row["accuracy"] for row in rows],
        color="#1f5fa8",
        linewidth=1.2,
        zorder=1,
    )
    for kind, style in _MARKERS.items():
        chosen = [row for row in rows if _kind(row) == kind]
        if not chosen:
            continue
        axes.plot(
            [row["num_parameters"] for row in chosen],
            [100 * row["accuracy"] for row in chosen],
            linestyle="none",
            markersize=7,
            label=_LABELS[kind],
            zorder=3,
            **{"markeredgecolor": "#1f5fa8", "markeredgewidth": 1.4, **style},
        )
    if result.get("reference"):
        accuracy = 100 * result["reference"]["accuracy"]
        axes.axhline(accuracy, color="#555555", linestyle="--", linewidth=1, label=f"reference, {accuracy:.2f} %")
    if len(rows) <= 16:
        for row in rows:
            if not isinstance(row["width"], Mapping):
                axes.annotate(
                    f"{row['width']:g}",
                    (row["num_parameters"], 100 * row["accuracy"]),
                    xytext=(0, -14),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
    axes.margins(x=0.06, y=0.14)
    axes.set_xlabel("parameters of the whole network (points carry their width)")
    axes.set_ylabel("accuracy (%)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    facts = result.get("facts", {})
    axes.set_title(
        ", ".join(str(facts[key]) for key in ("title", "checkpoint", "dataset", "split") if facts.get(key)), fontsize=10
    )
    figure.savefig(path, dpi=150)


def _kind(row: Mapping[str, Any]) -> str:
    return "trained" if row["trained"] else "untrained" if row["in_range"] else "outside"
