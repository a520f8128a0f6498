"""Draw the figure of the README: a family, networks trained alone, and the best way of pruning, in three lines.

    python examples/benchmarks/readme_figure.py

Reads docs/results/whole_network.json and writes docs/family.png. The best way of pruning is the one whose networks,
each trained on for as long as the family, have the highest mean accuracy over their widths.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter

DOCS = Path(__file__).resolve().parents[2] / "docs"
FINE_TUNED = ", fine-tuned"


class Line(NamedTuple):
    """One line of the figure: multiply-accumulates and accuracy of each network, by width, largest first."""

    label: str
    points: dict[float, tuple[int, float]]

    @property
    def mean(self) -> float:
        """Mean accuracy over its widths."""
        return sum(accuracy for _, accuracy in self.points.values()) / len(self.points)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(DOCS / "family.png"), help="default: %(default)s")
    return parser


def lines_of(result: dict[str, Any]) -> tuple[Line, Line, Line]:
    """The three lines, of what whole_network.py measured."""
    points: dict[str, dict[float, tuple[int, float]]] = {}
    for row in result["rows"]:
        if isinstance(row["width"], float):
            points.setdefault(row["method"], {})[row["width"]] = (row["macs"], row["accuracy"])
    pruned = [
        Line(f"pruned ({method.split(', ')[1]}), each trained on", at)
        for method, at in points.items()
        if method.startswith("pruning") and method.endswith(FINE_TUNED)
    ]
    best = max(pruned, key=lambda line: line.mean)
    return Line("one family, any size", points["family"]), Line("networks trained alone", points["individual"]), best


def draw(lines: tuple[Line, Line, Line], path: Path) -> None:
    """Draw accuracy against multiply-accumulates."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styles = [("C0", "-", "o", 2.5), ("0.35", ":", "D", 1.2), ("C1", "--", "s", 1.2)]
    for line, (color, style, marker, weight) in zip(lines, styles, strict=True):
        macs, accuracy = zip(*line.points.values(), strict=True)
        axes.plot(macs, accuracy, color=color, ls=style, marker=marker, lw=weight, ms=6, label=line.label)
    macs = {width: lines[0].points[width][0] for width in lines[1].points}
    axes.set(xscale="log", xlabel="multiply-accumulates of one image", ylabel="accuracy on test images")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([3e6, 5e6, 10e6, 20e6, 40e6])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(macs.values()), [f"width {width:g}" for width in macs])
    top.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Draw it."""
    arguments = build_parser().parse_args()
    result = json.loads((DOCS / "results" / "whole_network.json").read_text(encoding="utf-8"))
    draw(lines_of(result), Path(arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
