"""`neumeta evaluate` of one plain network: a reference, a morph, a morph that was trained on."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification

from neumeta_hf import cli
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import LeNetConfig, build_image_processor, find_target
from neumeta_hf.training import recipe_from_dict

STATED = {"mean": [0.305], "std": [0.376]}
OPEN = {"data": {"dataset": "digits"}}
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """The folder of a run, without the training, and a recipe beside it that leaves open what it can."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    config.id2label = {place: str(place) for place in range(10)}
    reference = find_target(config).build(config).eval()
    family = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
    )
    family.save_pretrained("run")
    reference.save_pretrained("run/reference")
    for folder in ("run", "run/reference"):
        build_image_processor(num_channels=1, image_size=8, **STATED).save_pretrained(folder)
    data = {**OPEN["data"], "image_size": 8, "num_channels": 1, **STATED}
    write("run/recipe.yaml", {"data": data})
    write("open.yaml", OPEN)
    return reference


def write(path, values):
    Path(path).write_text(yaml.safe_dump(recipe_from_dict(values).to_dict()))


def evaluate(*arguments):
    assert cli.main(["-q", "evaluate", *map(str, arguments)]) == 0


def refusal(capsys, *arguments):
    assert cli.main(["-q", "evaluate", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def row_of(path):
    (row,) = json.loads(Path(path).read_text())["rows"]
    return row


def test_a_reference_is_measured_by_the_recipe_of_its_run_as_beside_the_family(capsys):
    evaluate("run", "--widths", "1.0")
    beside = json.loads(Path("run/sweep.json").read_text())["reference"]
    evaluate("run/reference")
    alone = row_of("run/reference/sweep.json")
    assert alone["width"] is None
    for key in ("accuracy", "num_parameters", "macs"):
        assert alone[key] == beside[key], key
    with Path("run/reference/sweep.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["width"] == "-"
    assert float(line["accuracy"]) == alone["accuracy"]
    assert Path("run/reference/sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert capsys.readouterr().out.count("written:") == 2
    assert AutoModelForImageClassification.from_pretrained("run/reference") is not None  # still a network


def test_a_morph_is_measured_as_the_family_of_its_width_is():
    evaluate("run", "--widths", "0.5", "--output", "sweep")
    assert cli.main(["morph", "run", "--width", "0.5", "--output", "half"]) == 0
    evaluate("half", "--config", "open.yaml")
    expected, row = row_of("sweep.json"), row_of("half/sweep.json")
    assert (row["accuracy"], row["num_parameters"]) == (expected["accuracy"], expected["num_parameters"])


def test_classes_are_matched_by_name(run):
    evaluate("run/reference", "--output", "first")
    with torch.no_grad():
        for tensor in (run.linear.weight, run.linear.bias):
            tensor.copy_(tensor[ORDER].clone())
    run.config.id2label = {place: str(old) for place, old in enumerate(ORDER)}
    run.save_pretrained("reordered")
    shutil.copy("run/reference/preprocessor_config.json", "reordered")
    evaluate("reordered", "--config", "open.yaml", "--output", "second")
    assert row_of("second.json")["accuracy"] == row_of("first.json")["accuracy"]


def test_other_classes_are_refused(run, capsys):
    run.config.id2label = {place: f"letter {place}" for place in range(10)}
    run.save_pretrained("letters")
    said = refusal(capsys, "letters", "--config", "run/recipe.yaml")
    assert "classes are matched by name" in said
    assert "the network lacks '0'" in said


@pytest.mark.parametrize(
    "options",
    [
        ["--widths", "0.5"],
        ["--reference", "run/reference"],
        ["--figures"],
        ["--calibrate", "8"],
        ["--num-samples", "2"],
        ["--seed", "1"],
    ],
)
def test_options_for_families_are_refused(options, capsys):
    said = refusal(capsys, "run/reference", *options)
    assert f"{options[0]} is for families, but run/reference is one network" in said
    assert not Path("run/reference/sweep.json").exists()


def test_the_recipe_of_a_run_is_that_of_the_folders_it_writes_alone(capsys):
    shutil.copytree("run/reference", "run/copied")
    assert "run/copied has no recipe.yaml" in (said := refusal(capsys, "run/copied"))
    assert "--config" in said
    write("run/copied/recipe.yaml", OPEN)
    evaluate("run/copied")


def test_a_recipe_that_says_something_else_of_images_is_refused_unless_meant(capsys):
    other = {"data": {**OPEN["data"], "mean": [0.1]}}
    write("other.yaml", other)
    for checkpoint in ("run", "run/reference"):
        said = refusal(capsys, checkpoint, "--config", "other.yaml")
        assert "data.mean=[0.1] in the recipe, [0.305] in run" in said
    write("other.yaml", {**other, "target": {"preprocessing": "recipe"}})
    evaluate("run/reference", "--config", "other.yaml")
    capsys.readouterr()
    write("other.yaml", {"data": {**OPEN["data"], "num_channels": 3}})
    assert "run/reference takes images of 1x8x8" in refusal(capsys, "run/reference", "--config", "other.yaml")


def test_colours_that_nobody_says_how_to_normalise_are_refused(capsys):
    config = LeNetConfig(hidden_channels=[4, 6, 8], num_input_channels=3, image_size=8, num_labels=10)
    find_target(config).build(config).save_pretrained("colours")
    said = refusal(capsys, "colours", "--config", "open.yaml")
    assert "data.mean and data.std: no preprocessor_config.json of colours says it" in said


@pytest.mark.parametrize("checkpoint", ["run", "run/reference"])
def test_a_recipe_for_another_task_is_refused(checkpoint, capsys):
    write("vae.yaml", {"data": {**OPEN["data"], "labels": "none"}, "target": {"family": "mlp_vae"}})
    said = refusal(capsys, checkpoint, "--config", "vae.yaml")
    assert f"{checkpoint} does image-classification, but the recipe is for image-generation" in said


def test_a_family_is_measured_by_another_recipe_where_one_is_named():
    Path("run/recipe.yaml").unlink()
    write("open.yaml", {"data": {**OPEN["data"], "validation_fraction": 0.3}})
    evaluate("run", "--config", "open.yaml", "--split", "validation", "--widths", "1.0")
    first = json.loads(Path("run/sweep.json").read_text())["facts"]["num_images"]
    evaluate("run", "--config", "open.yaml", "--split", "validation", "--widths", "1.0", "--set", "seed=1")
    assert json.loads(Path("run/sweep.json").read_text())["facts"]["num_images"] == first > 400
