"""The whole-network benchmark: what it computes from its measurements, and a run of every part on a tiny network."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neumeta_hf import NeuMetaModel, load_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
BENCHMARKS = EXAMPLES / "benchmarks"
DIGITS = EXAMPLES / "recipes" / "digits_lenet_whole.yaml"


@pytest.fixture(scope="module")
def whole_network():
    spec = importlib.util.spec_from_file_location("whole_network", BENCHMARKS / "whole_network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(method, width, accuracy, macs=100, seed=0, **facts):
    return {"method": method, "width": width, "accuracy": accuracy, "macs": macs, "seed": seed, **facts}


def test_a_family_is_measured_by_networks_alone_and_by_its_own_line(whole_network):
    stages = {"stage1": 0.3, "stage2": 0.9}
    rows = [
        row("individual", 1.0, 0.86),
        row("individual", 0.5, 0.82),
        row("individual", 0.5, 0.84, seed=1),
        row("individual, static part of the reference", 0.5, 0.80),
        row("family", 1.0, 0.87, macs=1000, trained=True),
        row("family", 0.5, 0.81, macs=10, trained=True),
        row("family", 0.5, 0.83, macs=10, seed=1, trained=True),
        row("family", 0.6, 0.82, macs=100, trained=False),
        row("family", 0.4, 0.70, macs=5, trained=False),
        row("family, random widths per stage", stages, 0.80, macs=100),
        row("individual, random widths per stage", stages, 0.79, macs=100),
        row("family, random widths per stage, calibrated on real images", stages, 0.815, macs=100),
        row("family, calibrated on real images", 1.0, 0.869, macs=1000),
        row("family, calibrated on real images", 0.4, 0.705, macs=5),
        row("family, one level", 1.0, 0.86, macs=1000),
        row("family, one level", 0.5, 0.79, macs=10),
        row("family, one level", 0.3, 0.10, macs=1),  # where the family was not measured
        row("family, one level, random widths per stage", stages, 0.81, macs=100),
    ]
    summary = whole_network.summarize(rows)
    assert summary["against_individual"] == {1.0: 1.0, 0.5: -1.0}
    assert summary["against_static"] == {0.5: 2.0}
    assert summary["between"] == {0.6: -1.0}  # the line from 82 at 0.5 to 87 at 1.0 is at 83; 0.4 is not between
    assert summary["random"] == {"stage": {"worst": -2.0, "mean": -2.0}}
    assert summary["shapes"] == [1.0]
    assert summary["data_free"] == {"uniform": 0.5, "stage": 1.5}
    assert summary["families"] == {"family, one level": {"uniform": -2.0, "stage": 1.0}}


def test_a_summary_of_what_is_not_yet_measured_is_empty(whole_network):
    summary = whole_network.summarize([row("individual", 1.0, 0.86)])
    assert summary == {
        "against_individual": {},
        "against_static": {},
        "between": {},
        "shapes": [],
        "random": {},
        "data_free": {},
        "families": {},
    }


def test_every_other_family_changes_the_recipe(whole_network):
    recipes = {part: load_recipe(DIGITS, changes) for part, (_, changes) in whole_network.FAMILIES.items()}
    assert recipes["family"] == load_recipe(DIGITS)
    assert len({json.dumps(recipe.to_dict()) for recipe in recipes.values()}) == len(recipes)


@pytest.fixture
def run_benchmark(whole_network, tmp_path, monkeypatch):
    tiny = (
        "target.config={hidden_channels: [8, 8, 8], kernel_size: 3, batch_norm: true}",
        "pretrain.epochs=1",
        "train.epochs=1",
        "statistics_widths=0.25:1.0:0.25",
        "statistics_images=64",
        "calibration={images: 8, networks: 2, steps: 2}",
    )

    def run(*arguments):
        command = ["whole_network.py", "--recipe", str(DIGITS), "--data", "digits", "--runs", str(tmp_path / "runs")]
        sizes = ["--alone", "1.0,0.5", "--widths", "1.0,0.5,0.3", "--shapes", "1", "--finetune", "1"]
        overrides = [word for override in tiny for word in ("--set", override)]
        monkeypatch.setattr(sys, "argv", [*command, *sizes, *overrides, "--output", str(tmp_path / "out"), *arguments])
        monkeypatch.setattr(whole_network, "NUM_RANDOM", 1)
        assert whole_network.main() == 0
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_every_part_runs_and_nothing_is_done_twice(run_benchmark, whole_network, tmp_path):
    result = run_benchmark()
    found = {(row["method"], json.dumps(row["width"])) for row in result["rows"]}
    assert len(found) == len(result["rows"])
    methods = [method for method, _ in found]
    uniform = ["family", "family, calibrated on real images", "family, the paper's INR", "family, BatchNorm fused"]
    assert {method: methods.count(method) for method in [*uniform, "slicing"]} == dict.fromkeys(
        [*uniform, "slicing"], 3
    )
    assert methods.count("individual") == 2
    assert {f"pruning, {name}{end}" for name in ("L1", "Taylor") for end in ("", ", fine-tuned")} <= set(methods)
    assert "individual, random widths per stage" in methods
    assert set(result["summary"]["families"]) == {"family, the paper's INR", "family, BatchNorm fused"}
    assert {"num_parameters", "mixed_precision"} <= set(result["facts"])
    assert {"individual-1", "individual-0.5", "family", "inr", "fused"} < set(result["facts"]["seconds"])
    assert (tmp_path / "out.png").is_file()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert run_benchmark()["rows"] == result["rows"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_ablations_are_measured_on_the_validation_split_beside_what_the_test_split_gave(run_benchmark, tmp_path):
    result = run_benchmark("--parts", "family,one-level", "--split", "validation")
    assert result["facts"]["split"] == "validation"
    assert set(result["summary"]["families"]) == {"family, one level"}
    assert not (tmp_path / "runs" / "measurements.json").exists()


def test_what_a_family_leaves_as_it_is_can_be_left_to_networks_alone_as_well(run_benchmark, tmp_path):
    result = run_benchmark("--set", "family.generated=[conv2, bn2, conv3]", "--parts", "static")
    found = [(row["method"], row["width"]) for row in result["rows"]]
    assert found == [("individual, static part of the reference", 0.5)]
    reference = load_file(tmp_path / "runs" / "static-0.5-seed0" / "reference" / "model.safetensors")
    half = NeuMetaModel.from_pretrained(tmp_path / "runs" / "static-0.5-seed0").morph(0.5)
    assert torch.equal(half.state_dict()["conv1.weight"], reference["conv1.weight"])
