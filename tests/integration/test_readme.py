"""What the README says is true: its tables are what docs/results holds, its commands are commands, and its code runs.

So are the commands in the headers of recipes and examples.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from example_scripts import load_script
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from neumeta_hf import NeuMetaModel, load_recipe
from neumeta_hf.cli import build_parser
from neumeta_hf.evaluation import count_macs
from neumeta_hf.scores import Score, score_of
from neumeta_hf.training import recipe_from_dict, task_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))
# A table follows the name of the file that its numbers come from.
TABLES = re.findall(r"<!-- (docs/results/\w+\.json) -->\n\n((?:\|.*\n)+)", README)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def shown(score: Score, value: float) -> str:
    return score.format(value).replace("%", " %")


@pytest.mark.parametrize(("path", "table"), TABLES, ids=[path for path, _ in TABLES])
def test_tables_are_what_was_measured(path, table):
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
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


WHOLE = re.findall(r"<!-- whole: (docs/results/\w+\.json) -->\n\n((?:\|.*\n)+)", README)
METHODS = {
    "family": "family",
    "calibrated on real images": "family, calibrated on real images",
    "trained alone": "individual",
    "decoder trained alone": "individual, static part of the reference",
    "sliced": "slicing",
    "interpolated": "interpolation",
    "pruned by L1": "pruning, L1",
    "pruned by L1, fine-tuned": "pruning, L1, fine-tuned",
    "pruned by the Hessian": "pruning, Hessian",
    "pruned by the Hessian, fine-tuned": "pruning, Hessian, fine-tuned",
    "the paper's INR": "family, the paper's INR",
    "BatchNorm fused": "family, BatchNorm fused",
}


@pytest.mark.parametrize(("path", "table"), WHOLE, ids=[path for path, _ in WHOLE])
def test_tables_of_whole_networks_are_what_was_measured(path, table):
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
    score = score_of(result["facts"])
    rows = [row for row in result["rows"] if isinstance(row["width"], float) and row["seed"] == result["facts"]["seed"]]
    measured = {(row["method"], row["width"]): shown(score, row[score.name]) for row in rows}
    header, _, *lines = table.splitlines()
    widths = [float(cell) for cell in cells(header)[1:]]
    for label, *values in map(cells, lines):
        assert values == [measured.get((METHODS[label], width), "") for width in widths]


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_results_say_how_they_came_about_and_have_a_figure(path):
    facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
    assert {"command", "seed", "versions", "device", "date"} <= set(facts)
    assert facts["versions"]["torch"] == "2.13.0+cpu"
    assert path.with_suffix(".png").is_file()
    assert f"docs/results/{path.name}" in README


def marked(kind):
    """The table after a marker, and the path in it."""
    ((path, table),) = re.findall(rf"<!-- {kind}: (\S+) -->\n\n((?:\|.*\n)+)", README)
    return path, [cells(line) for line in table.splitlines()[2:]]


def test_the_table_of_the_papers_recipes_is_what_was_measured():
    pattern, lines = marked("paper")
    found = {}
    for recipe, *values in lines:
        (path,) = re.findall(r"\]\((.*?)\)$", recipe)
        found[path] = values
    assert set(found) == {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
    for path, values in found.items():
        result = json.loads((ROOT / path).read_text(encoding="utf-8"))
        by_width = {row["width"]: row["accuracy"] for row in result["rows"]}
        measured = [result["reference"]["accuracy"], *(by_width[width] for width in (1.0, 0.5, 0.25))]
        assert values == [f"{value:.1%}".replace("%", " %") for value in measured]


def test_the_table_of_ablations_is_what_was_measured():
    path, lines = marked("ablations")
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
    differences = result["summary"]["families"].values()
    assert [line[1:] for line in lines] == [[f"{row['uniform']:+.2f}", f"{row['stage']:+.2f}"] for row in differences]
    assert {row["seed"] for row in result["rows"]} == {0, 1, 2}


def test_the_table_of_speed_is_what_was_measured():
    path, lines = marked("speed")
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
    ratios = list(result["ratios"].values())
    assert [line[2:] for line in lines] == [[f"{row['ratio']:.2f}", f"{row['limit']}"] for row in ratios]
    assert lines[0][0].endswith(f", {ratios[0]['ours']:.1f} s")
    assert lines[0][1].endswith(f", {ratios[0]['baseline']:.1f} s")
    text = " ".join(README.split())
    seconds, limit = result["grid_generation_s"], result["grid_generation_limit_s"]
    assert f"at width 0.5 in {seconds:.2f} s (limit {limit})" in text
    assert f"libraries included: {result['peak_memory_gb']:.2f} GB" in text


# ---------------------------------------------------------------------------------------------------- commands

BENCHMARKS = ("whole_network", "speed", "paper_recipes")
SCRIPTS = ("train.py", "stock_resnet18.py", *(f"benchmarks/{name}.py" for name in BENCHMARKS))


def commands_in(text):
    """Program and arguments of each command in a text, in blocks of code and between backticks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return commands([*lines, *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))])


def commands(lines):
    """Those of lines that call the command or an example with something to do; others only mention them."""
    found = []
    for line in map(str.strip, lines):
        if not re.match(r"(\w+=\S+ )?(neumeta|python|accelerate launch) ", line):
            continue
        words = shlex.split(line, comments=True)
        for position, word in enumerate(words[:-1]):
            program = word.removeprefix("examples/")
            if program in SCRIPTS or (program == "neumeta" and len(words) > 2):
                found.append((program, words[position + 1 :]))
    return found


def parse(program, arguments):
    """The arguments of a command, parsed; the recipe that it names, with what it overrides, is one."""
    parser = build_parser() if program == "neumeta" else load_script(program).build_parser()
    parsed = parser.parse_args(arguments)
    path = getattr(parsed, "config", None) or getattr(parsed, "recipe", None)
    if path is not None and Path(path).parts[0] == "examples":
        load_recipe(ROOT / path, parsed.overrides)
    return parsed


def headers():
    """What recipes say above and beside their keys, and examples above their code."""
    for path in sorted((ROOT / "examples").glob("**/*.py")):
        yield path.name, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()
    for path in sorted((ROOT / "examples").glob("recipes/*.yaml")):
        yield path.name, re.findall(r"#\s*(.*)", path.read_text(encoding="utf-8"))


def test_the_commands_of_the_readme_are_commands():
    found = commands_in(README)
    assert {program for program, _ in found} >= {"neumeta", *SCRIPTS} - {"stock_resnet18.py"}
    assert len(found) > 15
    for program, arguments in found:
        parse(program, arguments)


def test_the_commands_in_headers_are_commands():
    found = [command for _, lines in headers() for command in commands(lines)]
    assert {program for program, _ in found} == {"neumeta", *SCRIPTS}
    for program, arguments in found:
        parse(program, arguments)


@pytest.mark.parametrize(("name", "lines"), [entry for entry in headers() if entry[0].endswith(".yaml")], ids=str)
def test_what_the_header_of_a_recipe_overrides_are_keys(name, lines):
    overrides = [override for line in lines for override in re.findall(r"--set (\S+)", line)]
    load_recipe(ROOT / "examples" / "recipes" / name, overrides)


def test_whole_networks_were_measured_by_the_commands_that_stand_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    script = load_script("benchmarks/whole_network.py")

    def settings(arguments):
        parsed = vars(parse("benchmarks/whole_network.py", arguments))
        return {name: value for name, value in parsed.items() if name not in ("data", "runs", "output")}

    written = [arguments for program, arguments in commands_in(README) if program == "benchmarks/whole_network.py"]
    results = [json.loads((ROOT / path).read_text(encoding="utf-8"))["facts"] for path, _ in WHOLE]
    assert [settings(arguments) for arguments in written] == [settings(shlex.split(r["command"])[1:]) for r in results]
    for arguments, facts in zip(written, results, strict=True):
        parsed = script.build_parser().parse_args(arguments)
        assert parsed.data is not None or facts["dataset"] == "digits"
        recipe = script.recipe_of(parsed)
        assert script.choose_parts(parsed.parts, task_of(recipe).name) == parsed.parts.split(",")
        assert recipe.data.dataset == (parsed.data or "digits")


# ---------------------------------------------------------------------------------------------------- code


def snippet(part, language="python"):
    """The block of code that holds this."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (found,) = (block for block in blocks if part in block)
    return found


def test_the_first_snippet_runs_and_its_morph_is_chosen_and_exported(lenet_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lenet_case.family().save_pretrained("demo/checkpoint")
    names: dict = {}
    exec(snippet('from_pretrained("demo/checkpoint")'), names)
    reloaded = AutoModelForImageClassification.from_pretrained("lenet-half").eval()
    images = lenet_case.images()
    assert torch.equal(reloaded(images).logits, names["model"](images).logits)

    budget = count_macs(names["family"].morph(0.75), images)
    exec(snippet("torch.export.export").replace("300_000", str(budget)), names)
    program = torch.export.load("digits.pt2").module()
    expected = names["family"].morph(0.75)(images).logits
    assert torch.allclose(program(images).logits, expected, atol=1e-5)


def test_a_network_of_ones_own_becomes_a_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(snippet("output_dir: outputs/mine", "yaml"))
    assert recipe_from_dict(recipe).target.checkpoint == "path/to/network"
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 10}
    ResNetForImageClassification(ResNetConfig(**sizes, image_size=32)).save_pretrained("network")
    # The same run in seconds, on what is at hand.
    data = {"dataset": "digits", "image_size": 32, "augmentation": "none", "in_memory": True, "center_crop": False}
    recipe["data"] |= data
    recipe["target"]["checkpoint"] = "network"
    recipe["train"]["epochs"] = 1
    recipe["sizes"]["widths"] = [0.5, 1.0]
    recipe |= {"statistics_widths": [0.5, 1.0], "statistics_images": 64}
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    exec(snippet('load_recipe("mine.yaml"'), {})
    half = AutoModelForImageClassification.from_pretrained("again-half")
    assert type(half).__module__.startswith("transformers.")
    family = NeuMetaModel.from_pretrained("outputs/again")
    assert list(half.state_dict()) == list(family.morph(0.5).state_dict())
