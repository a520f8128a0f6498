"""What README and docs/measured.md say was measured is what docs/results holds, by the commands that stand there."""

import json
import re
import shlex

import pytest
from documents import DOCS as DOCUMENTS
from documents import MEASURED, README, ROOT, cells, commands_in, parse
from example_scripts import load_script

from neumeta_hf.scores import Score, score_of
from neumeta_hf.training import task_of

DOCS = ROOT / "docs"
RESULTS = sorted((DOCS / "results").glob("*.json"))


def tables(kind: str = "") -> list[tuple[str, str]]:
    """The tables of a kind: the name of the file that its numbers come from, and what follows it."""
    return re.findall(rf"<!-- {kind}(results/\S+) -->\n\n((?:\|.*\n)+)", MEASURED)


TABLES, WHOLE = tables(), tables("whole: ")


def read(path):
    """A result, by its path from docs."""
    return json.loads((DOCS / path).read_text(encoding="utf-8"))


def shown(score: Score, value: float) -> str:
    return score.format(value).replace("%", " %")


@pytest.mark.parametrize(("path", "table"), TABLES, ids=[path for path, _ in TABLES])
def test_tables_are_what_was_measured(path, table):
    result = read(path)
    header, _, *lines = table.splitlines()
    score = score_of(result["facts"])
    assert cells(header)[:3] == ["width", "size", score.label]
    measured = {f"{row['width']:g}": row for row in result["rows"]} | {"reference": result["reference"]}
    assert [cells(line)[0] for line in lines] == [*(["reference"] if result["reference"] else []), *list(measured)[:-1]]
    for width, size, value, *rest in map(cells, lines):
        row = measured[width]
        kind = "trained" if row["trained"] else "untrained" if row["in_range"] else "outside"
        assert size == ("" if width == "reference" else kind)
        assert value == shown(score, row[score.name])
        values = {"parameters": f"{row['num_parameters']:,}", "MACs": f"{row['macs']:,}"}
        values["compression"] = f"{row['compression_rate']:.1%}".replace("%", " %")
        assert rest == [values[name] for name in cells(header)[3:]]


METHODS = {
    "family": "family",
    "calibrated on real images": "family, calibrated on real images",
    "trained alone": "individual",
    "decoder trained alone": "individual, static part of the reference",
    "sliced": "slicing",
    "sliced, ordered by activations": "slicing, importance by activations",
    "interpolated": "interpolation",
    "pruned by L1": "pruning, L1",
    "pruned by L1, fine-tuned": "pruning, L1, fine-tuned",
    "pruned by L2": "pruning, L2",
    "pruned by L2, fine-tuned": "pruning, L2, fine-tuned",
    "pruned by Taylor": "pruning, Taylor",
    "pruned by Taylor, fine-tuned": "pruning, Taylor, fine-tuned",
    "pruned by the Hessian": "pruning, Hessian",
    "pruned by the Hessian, fine-tuned": "pruning, Hessian, fine-tuned",
    "the paper's INR": "family, the paper's INR",
    "BatchNorm fused": "family, BatchNorm fused",
    "the INR with its defaults": "family, the INR with its defaults",
    "the field": "family, the field",
    "plain nested slicing": "family, plain nested slicing",
    "4 layers": "family over width and depth, depth 1",
    "3 layers": "family over width and depth, depth 0.75",
    "2 layers": "family over width and depth, depth 0.5",
    "2 layers, trained alone": "individual, depth 0.5",
}


def measured_by(result):
    """What a document shows of each method and uniform width."""
    score = score_of(result["facts"])
    rows = [row for row in result["rows"] if isinstance(row["width"], float) and row["seed"] == result["facts"]["seed"]]
    return {(row["method"], row["width"]): shown(score, row[score.name]) for row in rows}


@pytest.mark.parametrize(("path", "table"), WHOLE, ids=[path for path, _ in WHOLE])
def test_tables_of_whole_networks_are_what_was_measured(path, table):
    result = read(path)
    measured = measured_by(result)
    header, _, *lines = table.splitlines()
    widths = [float(cell) for cell in cells(header)[1:]]
    for label, *values in map(cells, lines):
        assert values == [measured.get((METHODS[label], width), "") for width in widths]


def test_the_summary_is_what_was_measured():
    summary = r"<!-- summary -->\n\n(.*)\n.*\n((?:\|.*\n)+)"
    ((header, lines),) = re.findall(summary, DOCUMENTS["guide_results"])
    widths = [float(cell.removeprefix("width ")) for cell in cells(header)[2:]]
    found = []
    for generated, label, *values in map(cells, lines.splitlines()):
        (path,) = re.findall(r"\]\((.*?)\)$", generated)
        found.append(path)
        result = read(path)
        score = score_of(result["facts"])
        assert label == score.label
        measured = measured_by(result)
        for cell, width in zip(values, widths, strict=True):
            family, *alone = cell.split(", alone ")
            assert family == measured["family", width]
            assert alone == [value for of, value in measured.items() if of == ("individual", width)]
    of_families = [path for path, _ in WHOLE if any(row["method"] == "family" for row in read(path)["rows"])]
    assert found == of_families


def test_what_the_readme_opens_with_was_measured():
    measured = measured_by(read("results/whole_network.json"))
    text = " ".join(README.split())
    for method in ("family", "individual"):
        values = [float(measured[method, width].rstrip(" %")) for width in (1.0, 0.75, 0.5, 0.25)]
        assert " / ".join(f"{value:.1f}" for value in values) + " %" in text


def test_the_figure_of_the_readme_has_the_family_the_networks_alone_and_the_best_way_of_pruning(tmp_path):
    script = load_script("benchmarks/readme_figure.py")
    result = read("results/whole_network.json")
    lines = script.lines_of(result)
    widths = {"family": 15, "individual": 4, "pruning": 3}
    for line, (method, number) in zip(lines, widths.items(), strict=True):
        assert len(line.points) == number
        for width, (macs, accuracy) in line.points.items():
            rows = [row for row in result["rows"] if row["width"] == width and row["method"].startswith(method)]
            assert (macs, accuracy) in [(row["macs"], row["accuracy"]) for row in rows]
    pruned = [row for row in result["rows"] if row["method"].endswith("fine-tuned")]
    means = {name: [r["accuracy"] for r in pruned if r["method"] == name] for name in {r["method"] for r in pruned}}
    assert lines[2].mean == pytest.approx(max(sum(found) / 3 for found in means.values()))
    script.draw(lines, tmp_path / "family.png")
    assert (tmp_path / "family.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_results_say_how_they_came_about_and_have_a_figure(path):
    facts = read(path)["facts"]
    assert {"command", "seed", "versions", "device", "date"} <= set(facts)
    assert facts["versions"]["torch"] == "2.13.0+cpu"
    assert path.with_suffix(".png").is_file()
    assert f"(results/{path.name})" in MEASURED


def marked(kind):
    """The table after a marker, and the path in it."""
    ((path, table),) = tables(f"{kind}: ")
    return path, [cells(line) for line in table.splitlines()[2:]]


def test_margins_of_the_papers_experiments_are_what_was_measured():
    ((header, lines),) = re.findall(r"<!-- margins -->\n\n(.*)\n.*\n((?:\|.*\n)+)", MEASURED)
    widths = [float(cell.removeprefix("width ")) for cell in cells(header)[2:]]
    measured = 0
    for experiment, against, *values in map(cells, lines.splitlines()):
        if not (found := re.findall(r"\]\((.*?)\)$", experiment)):
            continue  # somebody else's numbers
        result = read(found[0])
        score = score_of(result["facts"])
        uniform = [row for row in result["rows"] if isinstance(row["width"], float)]
        rows = {(row.get("method"), row["width"]): row[score.name] for row in uniform}
        for width, cell in zip(widths, values, strict=True):
            ours = rows.get(("family", width), rows.get((None, width)))
            other = result["reference"][score.name] if against == "reference" else rows.get(("individual", width))
            if other is None or ours is None:
                assert cell == ""
            elif score.is_ratio:
                assert cell == f"{100 * ours - 100 * other:+.1f}"
            else:
                assert cell == f"{100 * (ours / other - 1):+.1f} % of the error"
            measured += 1
    assert measured >= 8


@pytest.mark.parametrize(("path", "table"), tables("sizes: "), ids=lambda value: value[:30])
def test_tables_of_text_families_are_what_was_measured(path, table):
    result = read(path)
    score = score_of(result["facts"])
    rows = {(row["method"], row["width"], row["depth"]): row for row in result["rows"]}
    _, _, *lines = map(cells, table.splitlines())
    assert len(lines) == sum(row["method"] in ("reference", "family") for row in result["rows"])
    for width, depth, *values, parameters, macs, speed in lines:
        size = (1.0, 1.0) if width == "reference" else (float(width), float(depth))
        methods = ("reference",) if width == "reference" else ("family", "alone", "cut")
        found = [rows.get((method, *size)) for method in methods]
        assert values[: len(found)] == ["" if row is None else shown(score, row[score.name]) for row in found]
        costs = (value for name, value in found[0].items() if name.endswith("_per_second"))
        assert (parameters, macs) == (f"{found[0]['parameters']:,}", f"{found[0]['macs']:,}")
        assert speed == f"{next(costs):g}"


def test_the_table_of_shapes_is_what_was_measured():
    path, lines = marked("shapes")
    script, rows = load_script("benchmarks/whole_network.py"), read(path)["rows"]
    uniform = [row for row in rows if row["method"] == "family"]
    measured = {}
    for method, kind in (("family, random widths per stage", "stage"), (script.SHAPES, "alone")):
        for row in rows:
            if row["method"] == method:
                below = -script.summarize([*uniform, row])["random"][kind]["mean"]
                values = measured.setdefault(", ".join(f"{ratio:.2f}" for ratio in row["width"].values()), [])
                values.append((f"{100 * row['accuracy']:.2f} %", f"{below:.1f}"))
    assert len(lines) == len(measured) == script.NUM_RANDOM
    for shape, *values in lines:
        (family, below), (alone, alone_below) = measured[shape]
        assert values == [family, alone, below, alone_below]


def test_the_table_of_ablations_is_what_was_measured():
    path, lines = marked("ablations")
    result = read(path)
    differences = result["summary"]["families"].values()
    assert [line[1:] for line in lines] == [[f"{row['uniform']:+.2f}", f"{row['stage']:+.2f}"] for row in differences]
    assert {row["seed"] for row in result["rows"]} == {0, 1, 2}


def test_the_table_of_speed_is_what_was_measured():
    path, lines = marked("speed")
    result = read(path)
    ratios = list(result["ratios"].values())
    assert [line[2:] for line in lines] == [[f"{row['ratio']:.2f}", f"{row['limit']}"] for row in ratios]
    assert lines[0][0].endswith(f", {ratios[0]['ours']:.1f} s")
    assert lines[0][1].endswith(f", {ratios[0]['baseline']:.1f} s")
    text = " ".join(MEASURED.split())
    seconds, limit = result["grid_generation_s"], result["grid_generation_limit_s"]
    assert f"at width 0.5 in {seconds:.2f} s (limit {limit})" in text
    assert f"libraries included: {result['peak_memory_gb']:.2f} GB" in text
    assert f"with {result['recipe_macs']['ratio']:.2f} of their multiply-accumulates" in text
    assert f"takes {ratios[4]['ratio'] * 12 / 18:.2f} times their seconds" in text


def test_the_table_of_two_commits_is_what_was_measured():
    path, lines = marked("before and after")
    measured = read(path)["measured"]
    assert [line[0] for line in lines] == list(measured)
    for line, values in zip(lines, measured.values(), strict=True):
        seconds = [f"{values['seconds'][which]['ours']:.3f} s" for which in ("before", "after")]
        assert line[1:] == [*seconds, f"{values['after/before']:.2f}"]
    ratios = measured["step at width 0.5"]["ours/plain"]
    said = f"takes {ratios['before']:.2f} of the plain step of that network before, and {ratios['after']:.2f} after"
    assert said in " ".join(MEASURED.split())


def test_whole_networks_were_measured_by_the_commands_that_stand_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    script = load_script("benchmarks/whole_network.py")

    def settings(arguments):
        parsed = vars(parse("benchmarks/whole_network.py", arguments))
        return {name: value for name, value in parsed.items() if name not in ("data", "runs", "output")}

    written = [arguments for program, arguments in commands_in(MEASURED) if program == "benchmarks/whole_network.py"]
    results = [read(path)["facts"] for path, _ in WHOLE]
    assert [settings(arguments) for arguments in written] == [settings(shlex.split(r["command"])[1:]) for r in results]
    for arguments, facts in zip(written, results, strict=True):
        parsed = script.build_parser().parse_args(arguments)
        assert parsed.data is not None or facts["dataset"] == "digits"
        recipe = script.recipe_of(parsed)
        assert script.choose_parts(parsed.parts, task_of(recipe).name) == parsed.parts.split(",")
        assert recipe.data.dataset == (parsed.data or "digits")


def test_the_table_of_settings_of_the_inr_is_what_was_measured():
    path, lines = marked("settings")
    rows = read(path)["rows"]
    assert [name for name, *_ in lines] == list(rows)
    for name, *values, said in lines:
        assert values == [f"{rows[name]['mean'][width]:.2f} %" for width in ("1", "0.5", "0.25")]
        assert (said == "silent") == all(rows[name]["silent"])


def test_the_table_of_order_and_noise_is_what_was_measured():
    path, lines = marked("smoothness")
    rows = read(path)["rows"]
    assert [name for name, *_ in lines] == list(rows)
    for name, *values in lines:
        assert values == [f"{rows[name]['mean'][width]:.2f} %" for width in ("1", "0.75", "0.5", "0.375", "0.25")]


def test_the_table_of_real_sizes_is_what_was_measured():
    path, lines = marked("scale")
    costs = read(path)["cost"]
    assert [name for name, *_ in lines] == list(costs)
    for name, parameters, build, generate, morph, memory in lines:
        row = costs[name]
        assert parameters == f"{row['parameters']:,}"
        assert (build, generate) == (f"{row['build_seconds']:.2f} s", f"{row['generate_seconds']:.3f} s")
        assert (morph, memory) == (f"{row['morph_seconds']:.3f} s", f"{row['gigabytes']:.2f} GB")


def test_the_table_of_the_field_is_what_was_measured():
    path, lines = marked("field")
    result = read(path)
    (reference, *values), *lines = lines
    assert (reference, values[0]) == ("reference", f"{result['facts']['reference']:.2f} %")
    assert [name for name, *_ in lines] == list(result["rows"])
    for name, *values, parameters in lines:
        row = result["rows"][name]
        assert values == [f"{row['mean'][width]:.2f} %" for width in ("1", "0.75", "0.5", "0.375", "0.25")]
        assert parameters == f"{row['hypernetwork_parameters'][0]:,}"


def test_the_table_of_depths_is_what_was_measured():
    path, lines = marked("depth")
    means = read(path)["means"]
    assert [line[:1] + line[2:] for line in lines] == [
        [f"{mean['width']:g}", f"{mean['family']:.2f} %", f"{mean['alone']:.2f} %"] for mean in means
    ]
    assert [int(line[1].split()[0]) for line in lines] == [mean["blocks"] for mean in means]
