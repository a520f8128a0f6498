import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from neumeta_hf.errors import SizeError
from neumeta_hf.evaluation.plots import draw_sweep, plot_sweep
from neumeta_hf.printable import printable


def row(width, num_parameters, *, accuracy=0.8, trained=False, in_range=True):
    return {
        "width": width,
        "num_parameters": num_parameters,
        "accuracy": accuracy,
        "trained": trained,
        "in_range": in_range,
    }


ROWS = [
    row(1.0, 100_000, accuracy=0.9, trained=True),
    row(0.5, 30_000, trained=True),
    row(0.75, 60_000, accuracy=0.85),
    row(0.25, 9_000, accuracy=0.4, in_range=False),
]
RESULT = {"rows": ROWS, "reference": row(1.0, 100_000, accuracy=0.912), "facts": {"dataset": "digits", "split": "test"}}


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def test_points_stand_at_parameters_and_percent():
    found = lines(draw_sweep(RESULT))
    trained = found["size drawn in training"]
    assert trained.get_xdata().tolist() == [30_000, 100_000]
    assert trained.get_ydata() == pytest.approx([80, 90])
    assert found["within the trained range, never drawn"].get_xdata().tolist() == [60_000]
    assert found["outside the trained range"].get_xdata().tolist() == [9_000]


def test_trained_points_are_filled_and_the_three_kinds_look_different():
    found = lines(draw_sweep(RESULT))
    looks = [
        (found[label].get_markerfacecolor(), found[label].get_marker())
        for label in ("size drawn in training", "within the trained range, never drawn", "outside the trained range")
    ]
    assert looks[0][0] != "white"
    assert looks[1][0] == looks[2][0] == "white"
    assert len(set(looks)) == 3


def test_the_reference_is_a_dashed_line_and_absent_without_one():
    line = lines(draw_sweep(RESULT))["reference, 91.20 %"]
    assert line.get_linestyle() == "--"
    assert line.get_ydata() == pytest.approx([91.2, 91.2])
    assert not any("reference" in label for label in lines(draw_sweep({**RESULT, "reference": None})))


def test_every_kind_shown_is_in_the_legend_and_no_other():
    texts = [text.get_text() for text in draw_sweep({**RESULT, "rows": ROWS[:2]}).legends[0].get_texts()]
    assert texts == ["size drawn in training", "reference, 91.20 %"]


@pytest.mark.parametrize(("number", "shown"), [(16, 16), (17, 0)])
def test_few_points_carry_their_width(number, shown):
    rows = [row(round(index / 32, 4), 1000 * (index + 1)) for index in range(number)]
    figure = draw_sweep({"rows": rows, "reference": None, "facts": {}})
    assert len(figure.axes[0].texts) == shown
    assert ("carries its width" in figure.axes[0].get_xlabel()) == bool(shown)


@pytest.mark.parametrize("accuracies", [[0.8] * 12, [0.98 - 0.3 * 0.6**index for index in range(12)]])
def test_no_width_is_written_over_another_or_over_a_point(accuracies):
    widths = [0.125, 0.25, 0.28125, 0.375, 0.5, 0.5625, 0.625, 0.71875, 0.75, 0.875, 1.0, 1.25]
    rows = [row(w, round(1e5 * w * w), accuracy=a) for w, a in zip(widths, accuracies, strict=True)]
    figure = draw_sweep({"rows": rows, "reference": None, "facts": {}})
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    points = axes.transData.transform([(row["num_parameters"], 100 * row["accuracy"]) for row in rows])
    for index, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:index]) == 0
        assert not any(box.contains(*point) for point in points)
        # Near enough to its own point to be read as its own.
        assert np.hypot(*(np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) - points[index])) < 60


def test_a_width_per_group_is_named_and_stands_off_the_line():
    figure = draw_sweep({"rows": [*ROWS, row({"stage3": 0.5, "stage2": 0.25}, 50_000)], "reference": None, "facts": {}})
    assert "stage3=0.5\nstage2=0.25" in [text.get_text() for text in figure.axes[0].texts]
    joined = figure.axes[0].get_lines()[0]
    assert joined.get_xdata().tolist() == [9_000, 30_000, 60_000, 100_000]


def test_a_wide_span_of_sizes_is_drawn_on_a_logarithmic_axis():
    assert draw_sweep(RESULT).axes[0].get_xscale() == "log"
    assert draw_sweep({**RESULT, "rows": ROWS[:3]}).axes[0].get_xscale() == "linear"


def test_the_axis_counts_in_thousands_and_millions():
    formatter = draw_sweep(RESULT).axes[0].xaxis.get_major_formatter()
    assert [formatter(value, 0) for value in (500, 20_000, 2_500_000)] == ["500", "20 k", "2.5 M"]


def test_the_title_comes_from_the_facts():
    assert draw_sweep(RESULT).axes[0].get_title() == "digits, test"


def test_nothing_drawn_leaves_the_picture_or_hides_the_axis():
    figure = draw_sweep({**RESULT, "rows": [*ROWS, row({"stage3": 0.5}, 99_000, accuracy=0.45)]})
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for box in [text.get_window_extent() for text in figure.axes[0].texts] + [figure.legends[0].get_window_extent()]:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert figure.legends[0].get_window_extent().y1 <= figure.axes[0].xaxis.label.get_window_extent().y0


def test_the_file_is_a_png_of_150_dpi_whatever_its_name(tmp_path):
    plot_sweep(RESULT, tmp_path / "picture")
    with Image.open(tmp_path / "picture") as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert np.asarray(image.convert("L")).std() > 5


def test_pyplot_and_its_global_state_stay_out():
    path = importlib.util.find_spec("neumeta_hf.evaluation.plots").origin
    program = (
        f"import runpy, sys; runpy.run_path({path!r})['draw_sweep']({RESULT!r}); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["$\\frac{", "a $x$ b", "\x1b[2J\n$", "\u202e", "<b>&", "x_{y}^z"])
def test_names_are_drawn_as_they_are(name, tmp_path):
    score = {"name": "accuracy", "label": name, "is_ratio": True}
    facts = {**dict.fromkeys(["dataset", "split", "title", "checkpoint"], name), "score": score}
    rows = [*ROWS, row({name: 0.5}, 50_000)]
    figure = draw_sweep({**RESULT, "rows": rows, "facts": facts})
    assert figure.axes[0].get_title() == printable(", ".join([name] * 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts without a glyph for it
        plot_sweep({**RESULT, "rows": rows, "facts": facts}, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 0


def test_a_sweep_of_nothing_is_not_drawn(tmp_path):
    with pytest.raises(SizeError, match="no row to draw"):
        plot_sweep({**RESULT, "rows": []}, tmp_path / "sweep.png")
    assert not (tmp_path / "sweep.png").exists()
