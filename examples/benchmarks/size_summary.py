"""What the rows of whole_network.py come to, in numbers and as a figure."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from measured_families import CALIBRATED, FAMILIES, SHAPES, STATIC

from neumeta_hf.scores import ACCURACY, Score

STYLES = {
    "individual": {"color": "#222222", "marker": "s"},
    STATIC: {"color": "#777777", "marker": "s", "linestyle": "--"},
    "family": {"color": "#1f5fa8", "marker": "o"},
    "family, random widths per stage": {"color": "#7fb2e5", "marker": ".", "linestyle": "none"},
    SHAPES: {"color": "#777777", "marker": "+", "linestyle": "none"},
    "family, random widths per layer": {"color": "#8a6fc0", "marker": ".", "linestyle": "none"},
}


def summarize(rows: list[dict[str, Any]], score: Score = ACCURACY) -> dict[str, Any]:
    """What the rows come to: the family against what it is measured by.

    Args:
        rows: Of any methods and seeds.
        score: What they are compared by.

    Returns:
        Differences: of ratios in points, of other scores in percent of what they are compared with.
        "against_individual": width to family minus the network trained alone; "against_static": likewise, minus the
        one on the reference's static part; "between": untrained width to family minus the straight line between its
        trained neighbours among the rows; "shapes": the family minus networks with random widths per stage trained
        alone, one by one; "random": kind ("alone" for networks with random widths per stage trained alone) to the
        worst and the mean difference between a random network and the uniform family at its MACs (linear in their
        logarithm); "data_free": kind ("uniform" for one width) to the most that a morph without data is behind one
        calibrated on real images; "families": other families to their mean difference to the family at the uniform
        widths and at the random ones. Means over seeds where there are several.
    """

    def points(method: str) -> dict[Any, dict[str, Any]]:
        by_width: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            if row["method"] == method:
                by_width.setdefault(json.dumps(row["width"]), []).append(row)
        means = {}
        for width, found in by_width.items():
            value = sum(row[score.name] for row in found) / len(found)
            facts = {"macs": found[0]["macs"], "trained": found[0].get("trained", False)}
            means[width] = {"width": json.loads(width), "value": value, **facts}
        return means

    def difference(value: float, other: float) -> float:
        return 100 * (value - other) if score.is_ratio else 100 * (value / other - 1)

    family = {row["width"]: row for row in points("family").values()}

    def against(method: str) -> dict[float, float]:
        return {
            row["width"]: round(difference(family[row["width"]]["value"], row["value"]), 2)
            for row in points(method).values()
            if row["width"] in family
        }

    known = sorted(width for width, row in family.items() if row["trained"])
    summary: dict[str, Any] = {
        "against_individual": against("individual"),
        "against_static": against(STATIC),
        "between": {
            width: round(
                difference(row["value"], float(np.interp(width, known, [family[w]["value"] for w in known]))), 2
            )
            for width, row in family.items()
            if known and not row["trained"] and known[0] < width < known[-1]
        },
        "shapes": [
            round(difference(mine[width]["value"], row["value"]), 2)
            for mine in [points("family, random widths per stage")]
            for width, row in points(SHAPES).items()
            if width in mine
        ],
        "random": {},
        "data_free": {},
        "families": {},
    }
    line = sorted((np.log(row["macs"]), row["value"]) for row in family.values())
    worst = min if score.larger_is_better else max
    random = {"stage": ", random widths per stage", "layer": ", random widths per layer"}
    for kind, method in [*((kind, f"family{name}") for kind, name in random.items()), ("alone", SHAPES)]:
        if (free := points(method)) and line:
            differences = [
                difference(row["value"], float(np.interp(np.log(row["macs"]), *zip(*line, strict=True))))
                for row in free.values()
            ]
            mean = round(sum(differences) / len(differences), 2)
            summary["random"][kind] = {"worst": round(worst(differences), 2), "mean": mean}

    def differences_to(method: str, other: str) -> list[float]:
        mine, theirs = points(method), points(other)
        return [difference(mine[width]["value"], theirs[width]["value"]) for width in mine if width in theirs]

    for kind, name in {"uniform": "", **random}.items():
        if behind := differences_to(f"family{name}{CALIBRATED}", f"family{name}"):
            summary["data_free"][kind] = round(max(value if score.larger_is_better else -value for value in behind), 2)
        for label, _ in FAMILIES.values():
            if label != "family" and (found := differences_to(f"{label}{name}", f"family{name}")):
                summary["families"].setdefault(label, {})[kind] = round(sum(found) / len(found), 2)
    return summary


def near_the_bar(rows: list[dict[str, Any]], score: Score) -> tuple[float, float]:
    """The range of scores in which the family and the networks trained alone lie, with a margin.

    Args:
        rows: Of any methods.
        score: What the figure shows.

    Returns:
        Its lowest and its highest value.
    """
    barred = [row[score.name] for row in rows if row["method"] in ("individual", "family")]
    lowest, highest = min(barred, default=0.0), max(barred, default=0.0)
    margin = (highest - lowest) / 3
    return lowest - margin, highest + margin


def plot(rows: list[dict[str, Any]], score: Score, path: Path, *, split: str) -> None:
    """Score against MACs, a line a method; several seeds are points of one line.

    Where methods lie so far from the family that it would look like the networks trained alone, a second panel shows
    the range of these.
    """
    # Calibrated rows would lie on the others; the table compares them.
    rows = [row for row in rows if not row["method"].endswith(CALIBRATED)]
    scale = 100 if score.is_ratio else 1
    lowest, highest = near_the_bar(rows, score)
    values = [row[score.name] for row in rows]
    is_far = 0 < 2 * (highest - lowest) < max(values) - min(values)
    figure = Figure(figsize=(11, 6) if is_far else (7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + is_far, squeeze=False)[0]
    for axes in panels:
        axes.set_prop_cycle(color=matplotlib.color_sequences["tab10"][1:])  # the first is blue, as the family is
        colours: dict[str, Any] = {}
        for method in dict.fromkeys(row["method"] for row in rows):
            points = sorted((row["macs"], scale * row[score.name]) for row in rows if row["method"] == method)
            line = {"linestyle": "none"} if "random widths" in method else {}
            style = {"marker": "x", "linewidth": 1, "markersize": 5, **line, **STYLES.get(method, {})}
            # What was trained on, or has random widths, looks like what it comes from.
            origin = method.removesuffix(", fine-tuned").partition(", random widths")[0]
            if origin != method and origin in colours and "color" not in style:
                style |= {"color": colours[origin], "linestyle": line.get("linestyle", "--")}
            (drawn,) = axes.plot(*zip(*points, strict=True), label=method, **style)
            colours[method] = drawn.get_color()
        axes.set_xscale("log")
        axes.set_xlabel("multiply-accumulates of the whole network")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel(f"{split} {score.label}" + (" (%)" if score.is_ratio else ""))
    if is_far:
        panels[1].set_ylim(scale * lowest, scale * highest)
        panels[1].set_title("near the family and the networks trained alone", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 + is_far, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
