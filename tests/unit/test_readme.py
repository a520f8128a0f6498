"""What the README says is true: its tables are what docs/results holds, and its code runs."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from neumeta_hf.cli import build_parser
from neumeta_hf.scores import Score, score_of

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
    "trained alone": "individual",
    "decoder trained alone": "individual, static part of the reference",
    "sliced": "slicing",
    "interpolated": "interpolation",
    "pruned by L1": "pruning, L1",
    "pruned by L1, fine-tuned": "pruning, L1, fine-tuned",
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


def test_the_commands_of_the_readme_are_commands():
    commands = [line for line in README.splitlines() if line.startswith("neumeta ")]
    assert len(commands) > 3
    for command in commands:
        build_parser().parse_args(command.partition("#")[0].split()[1:])


def test_the_first_snippet_runs(lenet_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lenet_case.family().save_pretrained("demo/checkpoint")
    snippet = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    names: dict = {}
    exec(snippet, names)
    reloaded = AutoModelForImageClassification.from_pretrained("lenet-half").eval()
    images = lenet_case.images()
    assert torch.equal(reloaded(images).logits, names["model"](images).logits)
